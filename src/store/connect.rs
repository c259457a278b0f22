//! Connect: what a session sends to a server at its start, and how long each step may take.
//!
//! One layer talks about connections, and the rest of the store only about statements:
//!
//! ```text
//! db ─ unit ─▶ session ◀─ pool of sessions ◀─ connector ─▶ servers of the address, in turn
//!      │                                        └ settings: what a session or a transaction starts with
//!      └ runs in a task of its own, under a deadline: a caller that leaves drops nothing half-way
//! ```
//!
//! `db` runs units of work: one statement, or one transaction. A unit that has begun runs to its end,
//! even when its caller is gone; one that misses its deadline loses its connection. A session goes back
//! to its pool only from a unit that ended well, so the pool never returns one inside a transaction.
//!
//! Connected directly, a session gets its settings once. Behind a transaction pooler no setting outlives a
//! transaction, so each unit begins with all of them. In neither case is a start-up option sent: poolers
//! refuse or drop them.

mod connector;
mod db;
mod executor;
mod fault;
#[cfg(target_os = "linux")]
mod keepalive;
mod session;
mod settings;
mod tls;
mod tx;

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use super::{Store, StoreError};
use crate::config::database::DatabaseConfig;

pub use connector::Connector;
pub(super) use db::ends_session;
pub use db::{Connections, Db, Work};
pub use executor::On;
pub use fault::Fault;
pub use settings::{Commit, LockWait, Settings, Terms};
pub use tx::Tx;

/// Connections for pages and commands that people use: enough for two or three pages at a time.
const PEOPLE_CONNECTIONS_MAX: u32 = 4;

const DOING: &str = "connect to the database (WARMPROOF_DATABASE_URL)";

/// The kind of caller that a store serves; it decides how long a statement waits for a held row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Supervisors and people: a row that is held must not delay other calls.
    Callers,
    /// Workers: their writes record work already done, so a wait pays off.
    Worker,
    /// Readers: they wait while a table is being changed.
    People,
}

impl Store {
    /// Connects, and proves it with a first connection. Does not wait for a database that is away.
    ///
    /// # Errors
    /// The database cannot be reached or refuses the login; the text names the server and the reason.
    pub async fn connect(config: &DatabaseConfig, role: Role) -> Result<Self, StoreError> {
        let store = Self::open(config, role);
        store.db.prove().await.map_err(StoreError::doing(DOING))?;
        Ok(store)
    }

    /// Connects when the first statement needs it, so that a process may start before its database.
    #[must_use]
    pub fn connect_lazy(config: &DatabaseConfig, role: Role) -> Self {
        Self::open(config, role)
    }

    /// Like [`Store::connect_lazy`], for readers: a few connections of their own, so that a slow read
    /// holds none that a schedule needs, and a time limit on each of their statements.
    #[must_use]
    pub fn connect_for_people(config: &DatabaseConfig, statement_timeout: Duration) -> Self {
        let config = DatabaseConfig {
            connections_max: PEOPLE_CONNECTIONS_MAX.min(config.connections_max),
            // Longer than a statement: a caller that waits behind one that is cancelled learns why.
            acquire_timeout: (2 * statement_timeout).min(config.acquire_timeout),
            statement_timeout: statement_timeout.min(config.statement_timeout),
            ..config.clone()
        };
        Self::open(&config, Role::People)
    }

    fn open(config: &DatabaseConfig, role: Role) -> Self {
        let connector = Connector::new(config, Settings::of(config, role));
        let db = Db::open(connector, config.connections_max, config.acquire_timeout, role == Role::Worker);
        Self::new(db).with_compression(config.compression).with_lanes(config.coalesce_lanes)
    }
}

/// A database on options that a test or a benchmark brings, with our own settings and this many connections.
#[must_use]
pub fn database(options: PgConnectOptions, schema: &str, connections_max: u32) -> Db {
    let settings = Settings::in_schema(schema);
    Db::open(Connector::from_options(options, settings), connections_max, Duration::from_secs(30), false)
}

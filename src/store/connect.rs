//! Connections: few, with our schema first in their path and a limit on every statement.
//!
//! Nothing relies on session state beyond what a connection is opened with. Behind a
//! transaction pooler even that is left out: the role's own `search_path` then names the
//! schema (`alter role … set search_path`), and no statement is prepared by name.

use std::str::FromStr;
use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgPool};

use super::{Store, StoreError};
use crate::config::database::DatabaseConfig;

/// After so long without work a connection is asked whether it still lives.
const RESTED: Duration = Duration::from_secs(1);

/// Connections for people who look: enough for two or three pages at a time.
const LOOKS_CONNECTIONS_MAX: u32 = 4;

const DOING: &str = "connect to the database (WARMPROOF_DATABASE_URL)";

impl Store {
    /// Connects, and proves it with a first connection.
    ///
    /// # Errors
    /// The URL cannot be used, or the database cannot be reached.
    pub async fn connect(config: &DatabaseConfig) -> Result<Self, StoreError> {
        let db = pool(config).connect_with(options(config)?).await.map_err(StoreError::doing(DOING))?;
        Ok(Self::configured(db, config))
    }

    /// Connects when the first statement needs it, so that a process may start before its database.
    ///
    /// # Errors
    /// The URL cannot be used.
    pub fn connect_lazy(config: &DatabaseConfig) -> Result<Self, StoreError> {
        Ok(Self::configured(pool(config).connect_lazy_with(options(config)?), config))
    }

    /// Like [`Store::connect_lazy`], for people who look: a few connections of their own, so that a slow look
    /// holds none that a schedule needs, and a bound on each statement of theirs.
    ///
    /// Behind a transaction pooler the bound is the role's own `statement_timeout`.
    ///
    /// # Errors
    /// The URL cannot be used.
    pub fn connect_for_looks(
        config: &DatabaseConfig,
        statement_timeout: Duration,
    ) -> Result<Self, StoreError> {
        let config = DatabaseConfig {
            connections_max: LOOKS_CONNECTIONS_MAX.min(config.connections_max),
            // Longer than a statement: who waits behind one that is given up learns why.
            acquire_timeout: (2 * statement_timeout).min(config.acquire_timeout),
            statement_timeout: statement_timeout.min(config.statement_timeout),
            ..config.clone()
        };
        Self::connect_lazy(&config)
    }

    fn configured(db: PgPool, config: &DatabaseConfig) -> Self {
        Self::new(db).with_compression(config.compression).with_lanes(config.coalesce_lanes)
    }
}

/// Options of a pool that asks a connection whether it still lives only when it has rested: a question
/// before each statement would be a round trip of its own.
#[must_use]
pub fn pool_options() -> PgPoolOptions {
    PgPoolOptions::new().test_before_acquire(false).before_acquire(|connection, meta| {
        Box::pin(async move {
            if meta.idle_for > RESTED {
                connection.ping().await?;
            }
            Ok(true)
        })
    })
}

fn pool(config: &DatabaseConfig) -> PgPoolOptions {
    pool_options().max_connections(config.connections_max).acquire_timeout(config.acquire_timeout)
}

/// How to open one connection, with our schema and limits.
///
/// # Errors
/// The URL cannot be used.
pub fn options(config: &DatabaseConfig) -> Result<PgConnectOptions, StoreError> {
    let options = PgConnectOptions::from_str(config.url.expose_secret())
        .map_err(StoreError::doing(DOING))?
        .application_name("warmproof");
    if config.pooler {
        return Ok(options.statement_cache_capacity(0));
    }
    let timeout = config.statement_timeout.as_millis().to_string();
    Ok(session(options, &config.schema).options([("statement_timeout", timeout)]))
}

/// The settings of a session that our statements were written and measured for.
#[must_use]
pub fn session(options: PgConnectOptions, schema: &str) -> PgConnectOptions {
    options.options([
        ("search_path", schema),
        // Each key is looked up in the index. A hot table that is nearly empty when a statement is planned
        // would be read whole, and that plan kept while the table fills.
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("jit", "off"),
        // A batch of one looks cheaper than the general plan expects, so that the server would plan it anew
        // at each call, which takes longer than running it.
        ("plan_cache_mode", "force_generic_plan"),
        // The rules rely on each statement seeing what was committed before it.
        ("default_transaction_isolation", "read committed"),
        // Nothing of ours stays idle in a transaction; a defect that does must not pin dead rows.
        ("idle_in_transaction_session_timeout", "10000"),
    ])
}

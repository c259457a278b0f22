//! What every phase of a benchmark works with.

use std::ops::Deref;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use crate::config::database::CompressionConfig;
use crate::store::{Store, connect, migrate};

/// The schema of a benchmark; dropped and made anew for each phase that wants a fresh one.
pub const SCHEMA: &str = "warmproof_bench";

/// How long a connection is waited for. Phases use more callers than connections.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connections beside a store.
const PREPARING: u32 = 2;

/// How much work a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Under two minutes in all.
    Quick,
    /// As long as the figures need.
    Full,
}

/// One cluster and the size of the run.
#[derive(Debug, Clone)]
pub struct Context {
    /// How to reach the server, without our `search_path`.
    pub options: PgConnectOptions,
    /// The same as a URL, for worker processes.
    pub url: String,
    /// How much work to do.
    pub scale: Scale,
    /// How often variants that are compared are measured, in turns.
    pub rounds: usize,
}

impl Context {
    /// One number for a quick run and another for a full one.
    #[must_use]
    pub fn pick<T>(&self, quick: T, full: T) -> T {
        match self.scale {
            Scale::Quick => quick,
            Scale::Full => full,
        }
    }

    /// A store whose plain connections are so many, for statements that are not the product's: their sessions have
    /// the server's own settings.
    ///
    /// # Errors
    /// The server refused.
    pub async fn plain_store(&self, connections: u32) -> anyhow::Result<Bed> {
        let store = Store::new(connect::database(self.options.clone(), SCHEMA, PREPARING));
        Ok(Bed { store, db: self.plain_pool(connections).await? })
    }

    async fn plain_pool(&self, connections: u32) -> anyhow::Result<PgPool> {
        let pool = PgPoolOptions::new().max_connections(connections).min_connections(connections);
        let pool = pool.test_before_acquire(false).acquire_timeout(PATIENCE);
        Ok(pool.connect_with(self.options.clone().options([("search_path", SCHEMA)])).await?)
    }

    /// A store on an empty, freshly migrated schema, with at most so many connections.
    ///
    /// # Errors
    /// The server refused.
    pub async fn fresh_store(&self, connections: u32) -> anyhow::Result<Bed> {
        let admin = PgPoolOptions::new().max_connections(1).connect_with(self.options.clone()).await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("drop schema if exists {SCHEMA} cascade")))
            .execute(&admin)
            .await
            .context("could not drop the schema of an earlier phase")?;
        admin.close().await;
        let _ = migrate::migrate(&self.options, SCHEMA).await?;
        self.store(connections).await
    }

    /// A store on the schema as it is.
    ///
    /// # Errors
    /// The server refused.
    pub async fn store(&self, connections: u32) -> anyhow::Result<Bed> {
        // A third of a store's connections is kept for relaxed commits, and a phase counts the others.
        let all = connections + (connections / 2).max(1);
        let store = Store::new(connect::database(self.options.clone(), SCHEMA, all));
        store.db().prove().await?;
        Ok(Bed { store, db: self.plain_pool(PREPARING).await? })
    }
}

/// The store that is measured, and connections beside it that prepare and read without its bounds.
#[derive(Debug, Clone)]
pub struct Bed {
    /// The store that is measured.
    pub store: Store,
    db: PgPool,
}

impl Bed {
    /// The same with another way of storing messages.
    #[must_use]
    pub fn with_compression(&self, compression: CompressionConfig) -> Self {
        Self { store: self.store.clone().with_compression(compression), db: self.db.clone() }
    }

    /// The connections beside the store.
    pub fn db(&self) -> &PgPool {
        &self.db
    }
}

impl Deref for Bed {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

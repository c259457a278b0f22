//! The cluster, stores and sizes that all phases of a benchmark use.

use std::ops::Deref;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use warmproof::config::database::CompressionConfig;
use warmproof::store::{Store, connect, migrate};

/// The schema of a benchmark. Each phase that needs a fresh one drops it and makes it again.
pub const SCHEMA: &str = "warmproof_bench";

/// Longest wait for a connection. Phases use more callers than connections.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connections beside a store.
const PREPARING: u32 = 2;

/// How much a run measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Less than two minutes in total.
    Quick,
    /// As long as reliable figures need.
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
    /// How many rounds measure each compared variant, in turns.
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

    /// A store with this many plain connections, for statements that are not the product's. Their sessions
    /// have the server's own settings.
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

    /// A store on an empty, freshly migrated schema, with at most this many connections.
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

    /// A store on the existing schema.
    ///
    /// # Errors
    /// The server refused.
    pub async fn store(&self, connections: u32) -> anyhow::Result<Bed> {
        // A store reserves a third of its connections for relaxed commits; a phase counts only the others.
        let all = connections + (connections / 2).max(1);
        let store = Store::new(connect::database(self.options.clone(), SCHEMA, all));
        store.db().prove().await?;
        Ok(Bed { store, db: self.plain_pool(PREPARING).await? })
    }
}

/// The measured store, and separate connections that prepare and read without its limits.
#[derive(Debug, Clone)]
pub struct Bed {
    /// The measured store.
    pub store: Store,
    db: PgPool,
}

impl Bed {
    /// The same store with another compression of messages.
    #[must_use]
    pub fn with_compression(&self, compression: CompressionConfig) -> Self {
        Self { store: self.store.clone().with_compression(compression), db: self.db.clone() }
    }

    /// The separate connections.
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

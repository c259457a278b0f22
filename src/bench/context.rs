//! What every phase of a benchmark works with.

use std::time::Duration;

use anyhow::Context as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::store::{Store, connect, migrate};

/// The schema of a benchmark; dropped and made anew for each phase that wants a fresh one.
pub const SCHEMA: &str = "warmproof_bench";

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

    /// A store whose sessions have the server's own settings, for statements that are not the product's.
    ///
    /// # Errors
    /// The server refused.
    pub async fn plain_store(&self, connections: u32) -> anyhow::Result<Store> {
        connected(self.options.clone().options([("search_path", SCHEMA)]), connections).await
    }

    /// A store on an empty, freshly migrated schema, with at most so many connections.
    ///
    /// # Errors
    /// The server refused.
    pub async fn fresh_store(&self, connections: u32) -> anyhow::Result<Store> {
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
    pub async fn store(&self, connections: u32) -> anyhow::Result<Store> {
        connected(connect::session(self.options.clone(), SCHEMA), connections).await
    }
}

async fn connected(options: PgConnectOptions, connections: u32) -> anyhow::Result<Store> {
    let db = connect::pool_options()
        .max_connections(connections)
        .min_connections(connections)
        .acquire_timeout(Duration::from_secs(30))
        .connect_with(options)
        .await?;
    Ok(Store::new(db))
}

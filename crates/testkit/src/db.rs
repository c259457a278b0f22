//! One private server for all tests of this process, one database for each test.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgPool};
use tokio::sync::OnceCell;
use warmproof::config::DatabaseSettings;
use warmproof::config::database::DatabaseConfig;
use warmproof::config::environment::Environment;
use warmproof::store::connect::Role;
use warmproof::store::upkeep::{Upkeep, UpkeepTerms};
use warmproof::store::{Store, migrate};
use warmproof_lab::postgres::discovery::Discovery;
use warmproof_lab::postgres::{Home, Listen, Options, PrivatePostgres};

use super::audit::Audit;
use super::pooler::{self, PoolMode};

pub const SCHEMA: &str = "warmproof";

/// A migrated database of a test's own.
pub struct Db {
    pub store: Store,
    pub name: String,
    pool: PgPool,
    /// Checked when the test is over.
    pub audit: Audit,
}

impl Db {
    /// A store as the api and supervisors have it; that of the test is a worker's.
    pub fn callers(&self) -> Store {
        let config = DatabaseConfig { connections_max: 8, ..database_config(&url_of(&self.name)) };
        Store::connect_lazy(&config, Role::Callers)
    }

    /// Connections of the test's own, for reading rows and for transactions of another program.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// For `WARMPROOF_DATABASE_URL` of a process; through the pooler, if the tests have one.
    pub fn url(&self) -> String {
        url_of(&self.name)
    }

    /// The same past any pooler.
    pub fn direct_url(&self) -> String {
        server().url_of(&self.name)
    }

    /// The same through a pooler of that mode, even if the other tests use another or none.
    pub fn pooled_url(&self, mode: PoolMode) -> String {
        pooled_url_of(&self.name, mode)
    }

    /// The same through a network that starts at this address.
    pub fn url_through(&self, address: SocketAddr) -> String {
        format!("postgres://postgres@{address}/{}?sslmode=disable", self.name)
    }

    /// Runs a statement that takes no parameters.
    pub async fn run(&self, sql: &str) {
        self.pool()
            .execute(AssertSqlSafe(sql.to_owned()))
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Reads one value of one row.
    pub async fn value<T>(&self, sql: &str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
            .fetch_one(self.pool())
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Fails unless scheduled less pending less ended is 0, and every end has its one outcome row.
    pub async fn assert_conserved(&self) {
        let conservation = self.store.conservation().await.expect("conservation");
        assert_eq!(conservation.unaccounted, 0, "{conservation:?}");
        let outcomes: i64 = self.value("select count(*) from outcome").await;
        assert_eq!(conservation.ended, outcomes, "counts and outcome rows differ");
        let differ: i64 = self
            .value(
                "select count(*) from (
                   select pool from (
                     select pool, pending as n from pool_total
                     union all
                     select pool, case when outcome = 'scheduled' then n else -n end from outcome_count
                     union all
                     select pool, -1 from pending) as every
                   group by pool having sum(n) <> 0) as differing",
            )
            .await;
        assert_eq!(differ, 0, "pools whose counts and rows differ");
        let twice: i64 = self.value("select count(*) - count(distinct id) from outcome").await;
        assert_eq!(twice, 0, "a verification has two outcomes");
        let revived: i64 = self.value("select count(*) from pending join outcome using (id)").await;
        assert_eq!(revived, 0, "a pending verification has an outcome");
    }
}

/// The terms of upkeep, with so many days ahead.
pub fn upkeep_terms(days_ahead: u32) -> UpkeepTerms {
    UpkeepTerms { days_ahead, retention_days: Some(30) }
}

/// Runs a round of upkeep of which every part succeeds.
pub async fn keep_up(store: &Store, terms: UpkeepTerms) -> Upkeep {
    let done = store.upkeep(terms).await;
    assert!(done.failed.is_empty() && done.left.is_empty(), "{done:?}");
    done
}

/// The server of this test process. It dies with the process, even by SIGKILL.
pub fn server() -> &'static PrivatePostgres {
    static SERVER: OnceLock<PrivatePostgres> = OnceLock::new();
    SERVER.get_or_init(|| {
        let mut options = Options::new(Home::Temporary, Discovery::from_environment());
        // Some tests put a faulty network in between.
        options.listen = Listen::SocketAndLoopback;
        // These tests crash processes, not the server; those that do start one of their own.
        options.settings =
            vec![("fsync".to_owned(), "off".to_owned()), ("max_connections".to_owned(), "400".to_owned())];
        PrivatePostgres::start(&options).expect("a private PostgreSQL; scripts/bootstrap installs one")
    })
}

fn url_of(name: &str) -> String {
    match pooler::mode() {
        None => server().url_of(name),
        Some(mode) => pooled_url_of(name, mode),
    }
}

fn pooled_url_of(name: &str, mode: PoolMode) -> String {
    format!("postgres://postgres@{}/{name}?sslmode=disable", pooler::address(server(), mode))
}

/// The address of a fresh database with nothing in it.
pub async fn empty() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("empty{}", NEXT.fetch_add(1, Ordering::Relaxed));
    admin(&format!("create database {name}")).await;
    server().url_of(&name)
}

/// A fresh, migrated database.
pub async fn db() -> Db {
    static TEMPLATE: OnceCell<()> = OnceCell::const_new();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    TEMPLATE
        .get_or_init(|| async {
            admin("create database template_warmproof").await;
            let options = server().connect_options().database("template_warmproof");
            let _ = migrate::migrate(&options, SCHEMA).await.expect("the migrations");
        })
        .await;
    let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
    admin(&format!("create database {name} template template_warmproof")).await;
    let config = DatabaseConfig { connections_max: 8, ..database_config(&url_of(&name)) };
    let store = Store::connect_lazy(&config, Role::Worker);
    let options = server().connect_options().database(&name);
    let audit = Audit::of(options.clone().options([("search_path", SCHEMA)]));
    Db { store, name, pool: pool(options).await, audit }
}

/// The configuration that a process reads from its environment for this URL.
pub fn database_config(url: &str) -> DatabaseConfig {
    let pooler = (pooler::mode() == Some(PoolMode::Transaction)).to_string();
    let environment =
        Environment::from_pairs([("WARMPROOF_DATABASE_URL", url), ("WARMPROOF_DATABASE_POOLER", &pooler)]);
    DatabaseSettings::from_environment(&environment).expect("settings").database
}

/// A pool on Warmproof's schema.
pub async fn pool(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(8)
        .connect_with(options.options([("search_path", SCHEMA)]))
        .await
        .expect("a connection to the private server")
}

async fn admin(sql: &str) {
    let mut connection =
        server().connect_options().connect().await.expect("a connection to the private server");
    connection.execute(AssertSqlSafe(sql.to_owned())).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    connection.close().await.expect("a clean goodbye");
}

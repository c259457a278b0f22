#![expect(clippy::disallowed_methods, reason = "the tests read tables that exist only in them")]

use std::sync::{Arc, Mutex, PoisonError, Weak};

use sqlx::Row as _;
use sqlx::postgres::PgConnectOptions;
use tokio::task::{JoinSet, spawn_blocking};
use uuid::Uuid;

use warmproof_lab::postgres::discovery::Discovery;
use warmproof_lab::postgres::{Home, Options, PrivatePostgres};

use super::*;

/// One server for the tests that run at the same time; the last one to end stops it.
static SERVER: Mutex<Weak<PrivatePostgres>> = Mutex::new(Weak::new());

fn server() -> Arc<PrivatePostgres> {
    let mut shared = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = shared.upgrade() {
        return server;
    }
    let mut options = Options::new(Home::Temporary, Discovery::from_environment());
    // Nothing here survives the test anyway.
    options.settings = vec![("fsync".into(), "off".into())];
    let server = Arc::new(PrivatePostgres::start(&options).unwrap());
    *shared = Arc::downgrade(&server);
    server
}

/// An empty database of its own.
struct TestDb {
    options: PgConnectOptions,
    _server: Arc<PrivatePostgres>,
}

impl TestDb {
    async fn new() -> Self {
        let server = spawn_blocking(server).await.unwrap();
        let name = format!("t{}", Uuid::new_v4().simple());
        let mut db = PgConnection::connect_with(&server.connect_options()).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!("create database {name}"))).execute(&mut db).await.unwrap();
        Self { options: server.connect_options().database(&name), _server: server }
    }

    async fn ask<T>(&self, sql: &'static str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        let mut db = PgConnection::connect_with(&self.options).await.unwrap();
        sqlx::query(sql).fetch_one(&mut db).await.unwrap().get(0)
    }
}

fn steps(texts: &[&str]) -> Vec<Migration> {
    (1..).zip(texts).map(|(v, sql)| Migration::unapplied(&format!("V{v}__step"), sql).unwrap()).collect()
}

#[tokio::test]
async fn the_embedded_migrations_apply_once_and_a_rerun_applies_nothing() {
    let db = TestDb::new().await;
    let names: Vec<String> = sql().into_iter().map(|(name, _)| name).collect();

    let before = plan(&db.options, "warmproof").await.unwrap();
    assert_eq!((before.pending, before.version), (names.clone(), 0));
    let error = check(&db.options, "warmproof").await.unwrap_err().to_string();
    assert!(error.contains("hint: run `warmproof migrate`"), "{error}");

    let first = migrate(&db.options, "warmproof").await.unwrap();
    assert_eq!(first.applied, names);
    let second = migrate(&db.options, "warmproof").await.unwrap();
    assert_eq!((second.applied.len(), second.version), (0, first.version));
    assert!(check(&db.options, "warmproof").await.unwrap().pending.is_empty());
}

#[tokio::test]
async fn eight_starters_at_once_apply_every_migration_once() {
    let db = TestDb::new().await;
    let migrations = steps(&[
        "create table t (n int)",
        "insert into t values (1)",
        "-- refinery:no-transaction\ncreate index concurrently if not exists t_n on t (n)",
    ]);
    let mut starters = JoinSet::new();
    for _ in 0..8 {
        let (options, migrations) = (db.options.clone(), migrations.clone());
        starters.spawn(async move { migrate_with(&options, "warmproof", &migrations).await.unwrap() });
    }
    let reports = starters.join_all().await;
    let mut counts: Vec<usize> = reports.iter().map(|report| report.applied.len()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 0, 0, 0, 0, 0, 3]);
    assert!(reports.iter().all(|report| report.version == 3));
    assert_eq!(db.ask::<i64>("select count(*) from warmproof.t").await, 1);
    assert!(db.ask::<bool>("select bool_and(indisvalid) from pg_index").await);
}

#[tokio::test]
async fn a_failing_migration_leaves_nothing_and_the_ones_before_it_stay() {
    let db = TestDb::new().await;
    let bad = steps(&["create table a (n int)", "create table b (n int); select 1 / 0"]);
    let error = migrate_with(&db.options, "warmproof", &bad).await.unwrap_err().to_string();
    assert!(error.contains("V2__step") && error.contains("division by zero"), "{error}");
    assert!(db.ask::<bool>("select to_regclass('warmproof.a') is not null").await);
    assert!(db.ask::<bool>("select to_regclass('warmproof.b') is null").await);

    // The lock was given back, and a repaired file goes on where the failed one stopped.
    let mended = steps(&["create table a (n int)", "create table b (n int)"]);
    let report = migrate_with(&db.options, "warmproof", &mended).await.unwrap();
    assert_eq!(report.applied, ["V2__step"]);
}

#[tokio::test]
async fn two_schemas_of_one_database_live_side_by_side() {
    let db = TestDb::new().await;
    let migrations = steps(&["create table t (n int)"]);
    for schema in ["blue", "order"] {
        let report = migrate_with(&db.options, schema, &migrations).await.unwrap();
        assert_eq!(report.applied, ["V1__step"]);
    }
    let tables: i64 = db.ask("select count(*) from pg_tables where schemaname in ('blue', 'order')").await;
    assert_eq!(tables, 4, "each schema has its table and its history");
    assert_eq!(db.ask::<i64>("select count(*) from pg_tables where schemaname = 'public'").await, 0);
}

#[tokio::test]
async fn an_older_program_accepts_a_schema_that_is_a_little_ahead() {
    let db = TestDb::new().await;
    let newer = steps(&["create table t (n int)", "alter table t add m int"]);
    let _ = migrate_with(&db.options, "warmproof", &newer).await.unwrap();
    let report = migrate_with(&db.options, "warmproof", &newer[..1]).await.unwrap();
    assert_eq!(report, MigrationReport { applied: Vec::new(), version: 2, ahead: 1 });
}

#[tokio::test]
async fn a_migration_that_cannot_get_its_table_gives_up_instead_of_blocking_others() {
    let db = TestDb::new().await;
    let migrations = steps(&["create table t (n int)", "alter table t add m int"]);
    let _ = migrate_with(&db.options, "warmproof", &migrations[..1]).await.unwrap();
    let mut other = PgConnection::connect_with(&db.options).await.unwrap();
    let mut tx = other.begin().await.unwrap();
    sqlx::raw_sql("lock table warmproof.t in access share mode").execute(&mut *tx).await.unwrap();
    let error = migrate_with(&db.options, "warmproof", &migrations).await.unwrap_err().to_string();
    assert!(error.contains("lock timeout"), "{error}");
}

#[tokio::test]
async fn an_unreadable_history_is_an_error_with_the_entry_named() {
    let db = TestDb::new().await;
    let migrations = steps(&["create table t (n int)"]);
    let _ = migrate_with(&db.options, "warmproof", &migrations).await.unwrap();
    let changed: String =
        db.ask("update warmproof.refinery_schema_history set checksum = 'x' returning checksum").await;
    assert_eq!(changed, "x");
    let error = migrate_with(&db.options, "warmproof", &migrations).await.unwrap_err().to_string();
    assert!(error.contains("the entry of version 1 has `x` as its checksum"), "{error}");
}

#[tokio::test]
async fn a_schema_name_that_could_be_sql_is_refused_before_anything_is_sent() {
    let nowhere = PgConnectOptions::new_without_pgpass().socket("/nonexistent");
    let error = migrate(&nowhere, "x\"; drop schema public; --").await.unwrap_err();
    assert!(matches!(error, MigrateError::Name(_)), "{error}");
}

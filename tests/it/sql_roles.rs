//! Roles of least privilege: what each may do works, and the rest is refused.

use std::time::Duration;

use chrono::TimeDelta;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor, PgPool};
use warmproof::domain::ids::{PoolName, WorkerName};
use warmproof::domain::outcome::{Ending, FallbackResult};
use warmproof::domain::pool::PoolSettings;
use warmproof::domain::verification::CancelReason;
use warmproof::store::report::{Latency, LossBy, Step};
use warmproof::store::tally::ProbeTally;
use warmproof::store::upkeep::UpkeepTerms;
use warmproof::store::{Store, connect, migrate};

use warmproof_testkit::db::{Db, SCHEMA, db, keep_up, server};
use warmproof_testkit::dispatch::{
    cancellation, claim, everything, fresh, message, schedule, settlement, started,
};

/// A database whose schema belongs to roles.
async fn db_with_roles() -> Db {
    let db = db().await;
    let options = server().connect_options().database(&db.name);
    let (report, roles) = migrate::migrate_with_roles(&options, SCHEMA).await.expect("roles");
    assert_eq!(report.applied.len(), 0);
    assert_eq!(
        roles,
        ["owner", "worker", "client", "reader", "operator"].map(|kind| format!("warmproof_{kind}"))
    );
    db
}

/// Connections that act as one role, as the product opens them.
async fn acting_as(db: &Db, role: &str) -> PgPool {
    let options = options_of(db, role).options([("search_path", SCHEMA)]);
    PgPoolOptions::new().max_connections(4).connect_with(options).await.expect("a connection")
}

/// The product's own, as one role.
fn store_of(db: &Db, role: &str) -> Store {
    Store::new(connect::database(options_of(db, role), SCHEMA, 4))
}

fn options_of(db: &Db, role: &str) -> PgConnectOptions {
    server().connect_options().database(&db.name).options([("role", role)])
}

async fn refused(pool: &PgPool, sql: &str) {
    let answer = pool.execute(AssertSqlSafe(sql.to_owned())).await;
    let error = answer.err().unwrap_or_else(|| panic!("not refused: {sql}"));
    let state = error.as_database_error().and_then(|error| error.code().map(Into::into));
    assert_eq!(state, Some("42501".to_owned()), "{sql}: {error}");
}

async fn allowed(pool: &PgPool, sql: &str) {
    pool.execute(AssertSqlSafe(sql.to_owned())).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[tokio::test]
async fn a_worker_does_all_its_work_and_changes_no_schema_and_no_outcome() {
    let db = db_with_roles().await;
    let pool = acting_as(&db, "warmproof_worker").await;
    let store = store_of(&db, "warmproof_worker");
    let batch = PoolName::parse("batch").unwrap();
    store
        .ensure_pools(&[
            (PoolName::default_pool(), PoolSettings::default()),
            (batch.clone(), PoolSettings::default()),
        ])
        .await
        .unwrap();
    for run in ["run_a", "run_b", "run_c"] {
        let _ = schedule(&store, fresh(run, "snapshot_1")).await;
    }
    let newer = warmproof_testkit::dispatch::hit("run_c", "snapshot_2", TimeDelta::seconds(-1));
    let _ = schedule(&store, newer).await;
    let claims = claim(&store, everything("default", 10)).await;
    assert_eq!(claims.len(), 3);
    let _ = store.renew(&[claims[0].key.clone()], Duration::from_secs(5)).await.unwrap();
    let _ = store.message(&claims[0].key).await.unwrap();
    let _ = store.mark_lost(&claims[0].key, 1).await.unwrap();
    let _ = store.permit_create(&claims[0].key, Duration::from_secs(1)).await.unwrap();
    let _ = store.count_create(&claims[0].key, "runner", Duration::from_secs(1)).await.unwrap();
    let created = Ending::Fallback { result: FallbackResult::Created, error: None };
    for answer in
        store.settle(&[settlement(&claims[0], created), settlement(&claims[1], started())]).await.unwrap()
    {
        assert!(answer.is_ok());
    }
    let run = claims[2].key.run_id.as_str();
    let _ = store
        .cancel(&[
            cancellation(run, None, CancelReason::Connected),
            cancellation("run_z", None, CancelReason::Miss),
        ])
        .await
        .unwrap();
    let worker = WorkerName::parse("worker-1").unwrap();
    store.tally_probes(&worker, &[ProbeTally { pool: batch, probes: 20, failures: 20 }]).await.unwrap();
    // A day of long ago to drop, and days ahead to make.
    db.run(
        "create table outcome_20200101 partition of outcome for values from ('2020-01-01') to ('2020-01-02')",
    )
    .await;
    db.run("alter table outcome_20200101 owner to warmproof_owner").await;
    let done = keep_up(&store, UpkeepTerms { days_ahead: 20, retention_days: Some(30) }).await;
    assert!(done.analyzed && done.counts_folded > 0 && done.partitions_created > 0, "{done:?}");
    assert_eq!(done.partitions_dropped, ["outcome_20200101"]);
    let since = chrono::Utc::now() - TimeDelta::hours(1);
    assert_eq!(store.losses(since, Step::Whole, LossBy::Nothing).await.unwrap()[0].lost, 1);
    assert_eq!(store.latencies(Latency::Connect, since).await.unwrap()[0].n, 1);
    assert_eq!(db.value::<i64>("select count(*) from pools").await, 2);
    assert_eq!(store.conservation().await.unwrap().ended, 4);

    refused(&pool, "update outcome set error = 'x'").await;
    refused(&pool, "delete from outcome").await;
    refused(&pool, "truncate pending").await;
    refused(&pool, "drop table outcome_count").await;
    refused(&pool, "create table intruder (n int)").await;
    refused(&pool, "update refinery_schema_history set version = 0").await;
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_client_may_schedule_and_cancel_and_touch_nothing() {
    let db = db_with_roles().await;
    let pool = acting_as(&db, "warmproof_client").await;
    let raw = message("run_a", "snapshot_1", chrono::Utc::now());
    let schedule = "select result from warmproof.schedule($1::json)";
    let result: String = sqlx::query_scalar(schedule).bind(raw.get()).fetch_one(&pool).await.unwrap();
    assert_eq!(result, "created");
    refused(&pool, "select warmproof.cancel('run_a', reason => 'operator')").await;
    allowed(&pool, "select warmproof.cancel('run_a', reason => 'miss')").await;
    assert_eq!(db.value::<i64>("select count(*) from outcome").await, 1);

    for relation in ["pending", "outcome", "outcomes", "pending_now", "pool", "outcome_count", "conservation"]
    {
        refused(&pool, &format!("select count(*) from warmproof.{relation}")).await;
    }
    refused(&pool, "delete from warmproof.pending").await;
    refused(&pool, "insert into warmproof.pool (name) values ('mine')").await;
    refused(&pool, "select warmproof.cancel_many(array['run_a'], array[null], array['miss'])").await;
    refused(&pool, "select warmproof.drop_old_outcomes(1)").await;
    refused(&pool, "select warmproof.ensure_outcome_partitions(900)").await;
    refused(&pool, "select warmproof.analyze_outcomes()").await;
}

#[tokio::test]
async fn an_operators_cancel_by_sql_needs_the_operators_role_and_is_audited() {
    let db = db_with_roles().await;
    for run in ["run_a", "run_b"] {
        let _ = schedule(&db.store, fresh(run, "snapshot_1")).await;
    }
    for role in ["warmproof_worker", "warmproof_client"] {
        let pool = acting_as(&db, role).await;
        refused(&pool, "select warmproof.cancel('run_a', reason => 'operator')").await;
    }
    let pool = acting_as(&db, "warmproof_operator").await;
    allowed(&pool, "select warmproof.cancel('run_a', reason => 'operator')").await;
    for forbidden in ["select count(*) from warmproof.pending", "delete from warmproof.audit"] {
        refused(&pool, forbidden).await;
    }
    refused(&pool, "select warmproof.schedule('{}')").await;
    // The owner of the schema may do all; a cancel that came too late is audited, too.
    db.run("select cancel('run_a', reason => 'operator')").await;
    let noted: Vec<String> = db
        .value(
            "select array_agg(concat_ws(' ', split_part(actor, ':', 1), action, target, detail ->> 'result') order by id)
             from audit",
        )
        .await;
    assert_eq!(noted, ["sql cancel run_a cancelled", "sql cancel run_a not_found"]);
    let kept: Vec<String> = db.value("select array_agg(run_id) from pending").await;
    assert_eq!(kept, ["run_b"]);
}

#[tokio::test]
async fn a_clients_temporary_tables_never_replace_ours() {
    let db = db_with_roles().await;
    let pool = acting_as(&db, "warmproof_client").await;
    let mut session = pool.acquire().await.unwrap();
    for text in [
        "create temporary table pending (like pg_catalog.pg_class)",
        "create temporary table pool (name text, delay_ms integer)",
        "create temporary table outcome_count (n integer)",
        "insert into pg_temp.pool values ('mine', 1000)",
    ] {
        session.execute(text).await.unwrap();
    }
    let raw = message("run_a", "snapshot_1", chrono::Utc::now());
    let schedule = "select result from warmproof.schedule($1::json, pool => $2)";
    let mine = sqlx::query(schedule).bind(raw.get()).bind("mine").execute(&mut *session).await;
    assert!(mine.unwrap_err().to_string().contains("there is no pool `mine`"));
    let _ = sqlx::query(schedule).bind(raw.get()).bind("default").execute(&mut *session).await.unwrap();
    assert_eq!(db.value::<i64>("select count(*) from pending").await, 1);
    let open = "select coalesce(string_agg(proname, ', '), '') from pg_proc p
      where pronamespace = 'warmproof'::regnamespace and exists (
        select from unnest(proconfig) as setting
        where setting like 'search_path=%' and setting !~ '^search_path=.+, ?pg_temp$')
      or pronamespace = 'warmproof'::regnamespace and prosecdef and proconfig is null";
    assert_eq!(db.value::<String>(open).await, "");
}

#[tokio::test]
async fn a_reader_sees_all_but_messages_and_writes_nothing() {
    let db = db_with_roles().await;
    let _ = schedule(&db.store, fresh("run_a", "snapshot_1")).await;
    let pool = acting_as(&db, "warmproof_reader").await;
    let views: Vec<String> =
        sqlx::query_scalar("select viewname::text from pg_views where schemaname = 'warmproof'")
            .fetch_all(db.pool())
            .await
            .unwrap();
    assert!(views.len() > 12);
    for view in views {
        allowed(&pool, &format!("select * from {view}")).await;
    }
    allowed(&pool, "select run_id, due_at, last_error from pending").await;
    allowed(&pool, "select count(*) from pending").await;
    allowed(&pool, "select run_id, error from outcome where settled_at > now() - interval '1 day'").await;
    allowed(&pool, "select * from outcome_hour, outcome_total, latency_count, pool").await;
    allowed(&pool, "select * from wilson_95(1, 10)").await;
    for column in ["message", "timings", "fence"] {
        refused(&pool, &format!("select {column} from pending")).await;
    }
    refused(&pool, "select * from pending").await;
    refused(&pool, "select fence from outcome").await;
    refused(&pool, "update pool set paused = true").await;
    refused(&pool, "delete from pending").await;
    refused(&pool, "insert into outcome_total values ('delivered', 1)").await;
    refused(&pool, "select schedule('{}')").await;
    refused(&pool, "select cancel('run_a')").await;
    assert_eq!(db.value::<i64>("select count(*) from pending").await, 1);
}

#[tokio::test]
async fn once_there_are_roles_migrating_again_keeps_owner_and_grants() {
    let db = db_with_roles().await;
    let options = server().connect_options().database(&db.name);
    db.run("create table warmproof.brought_by_hand (n integer)").await;
    db.run("grant delete on pending to warmproof_reader").await;
    let _ = migrate::migrate(&options, SCHEMA).await.expect("a schema that is up to date");
    let may = "select has_table_privilege('warmproof_reader', 'pending', 'delete')";
    assert!(!db.value::<bool>(may).await, "the migration revokes grants that it does not contain");
    refused(&acting_as(&db, "warmproof_worker").await, "select * from brought_by_hand").await;
    // Migrating with roles again gives everything to the owner.
    let _ = migrate::migrate_with_roles(&options, SCHEMA).await.expect("roles");
    let strays = "select count(*) from pg_class c where relnamespace = 'warmproof'::regnamespace
      and relkind in ('r', 'p', 'v') and relowner <> 'warmproof_owner'::regrole";
    assert_eq!(db.value::<i64>(strays).await, 0);
    let error = migrate::migrate_with_roles(&options, &"s".repeat(60)).await.unwrap_err().to_string();
    assert!(error.contains("longer than 63 bytes"), "{error}");
}

//! Plans made while the hot table is empty stay good while it fills.

use std::time::Duration;

use warmproof::config::database::DatabaseConfig;
use warmproof::domain::verification::CancelReason;
use warmproof::store::Store;
use warmproof::store::connect::{Role, Terms};

use warmproof_testkit::db::{Db, db};
use warmproof_testkit::dispatch::{
    cancellation, claim, due_soon, everything, fresh, schedule, settlement, started,
};

/// A connection of each kind as the product opens it, whose statements are planned once and kept.
async fn one_connection(db: &Db) -> Store {
    let config = DatabaseConfig { connections_max: 2, ..warmproof_testkit::db::database_config(&db.url()) };
    Store::connect(&config, Role::Worker).await.unwrap()
}

async fn every_statement(store: &Store, round: usize) {
    let run = format!("run_plan{round}");
    let _ = schedule(store, fresh(&run, "snapshot_1")).await;
    let _ = claim(store, due_soon("default", 100)).await;
    let claims = claim(store, everything("default", 1)).await;
    if let Some(claim) = claims.first() {
        let _ = store.renew(std::slice::from_ref(&claim.key), Duration::from_mins(1)).await.unwrap();
        let _ = store.mark_lost(&claim.key, 0).await.unwrap();
        let _ = store.message(&claim.key).await.unwrap();
        let settled = store.settle(&[settlement(claim, started())]).await.unwrap();
        assert!(settled[0].is_ok());
    }
    let _ = schedule(store, fresh(&format!("{run}b"), "snapshot_1")).await;
    let cancelled = store.cancel(&[cancellation(&format!("{run}b"), None, CancelReason::Connected)]).await;
    assert_eq!(cancelled.unwrap().len(), 1);
}

#[tokio::test]
async fn no_statement_of_a_worker_or_a_caller_reads_the_table_whole() {
    let db = db().await;
    db.audit.rows_are_made_up();
    db.run("vacuum analyze pending").await;
    let store = one_connection(&db).await;
    // Planned anew a few times, then kept.
    for round in 0..8 {
        every_statement(&store, round).await;
    }
    db.run(
        "insert into pending (id, run_id, snapshot_id, pool, intent, dequeued_at, scheduled_at, due_at, probe_at, codec, message)
         select gen_random_uuid(), 'run_bulk' || n, 'snapshot_1', 'default', 'hit', now(), now(), now() + interval '50 s',
           now() + interval '50 s', 0, '' from generate_series(1, 20000) as n",
    )
    .await;
    let scans = async || {
        db.run("select pg_stat_force_next_flush()").await;
        sqlx::query("select pg_stat_force_next_flush()")
            .execute(store.db().on(Terms::DURABLE))
            .await
            .unwrap();
        db.value::<i64>("select seq_scan from pg_stat_user_tables where relname = 'pending'").await
    };
    let before = scans().await;
    for round in 8..16 {
        every_statement(&store, round).await;
    }
    assert_eq!(scans().await - before, 0, "whole reads of a table of 20 000 rows");
}

#[tokio::test]
async fn the_numbers_of_a_pool_are_read_without_the_rows_that_wait() {
    let db = db().await;
    db.audit.rows_are_made_up();
    let store = one_connection(&db).await;
    for statement in [
        "insert into pending (id, run_id, snapshot_id, pool, intent, dequeued_at, scheduled_at, due_at, probe_at,
           lost_at, codec, message)
         select gen_random_uuid(), 'run_' || n, 'snapshot_1', 'default', 'hit', now(), now(), now() + interval '50 s',
           now() + case when n <= 7 then interval '-9 s' else interval '50 s' end, case when n > 19990 then now() end,
           0, '' from generate_series(1, 20000) as n",
        "insert into outcome_count (minute, pool, intent, outcome, n) values (now(), 'default', 'hit', 'scheduled', 20000)",
        "vacuum analyze pending",
    ] {
        sqlx::query(statement).execute(db.pool()).await.unwrap();
    }
    let read = async || {
        sqlx::query("select pg_stat_force_next_flush()")
            .execute(store.db().on(Terms::DURABLE))
            .await
            .unwrap();
        sqlx::query("select pg_stat_force_next_flush()")
            .execute(store.db().on(Terms::RELAXED))
            .await
            .unwrap();
        db.value::<i64>(
            "select (select sum(idx_tup_read) from pg_stat_user_indexes where relname = 'pending')::bigint
               + (select seq_tup_read from pg_stat_user_tables where relname = 'pending')",
        )
        .await
    };
    let before = read().await;
    let gauges = store.pool_gauges().await.unwrap();
    let read = read().await - before;
    let pool = &gauges[0];
    assert_eq!((pool.pending, pool.overdue, pool.lost), (20_000, 7, 10));
    assert!((9.0..20.0).contains(&pool.overdue_longest_seconds), "{pool:?}");
    assert!(read < 100, "{read} rows were read for 17 that count");
}

/// The number of index entries read to find losses, and of outcome rows read without an index.
async fn read_of_losses(store: &Store) -> (i64, i64) {
    sqlx::query("select pg_stat_force_next_flush()").execute(store.db().on(Terms::DURABLE)).await.unwrap();
    sqlx::query_as(
        "select
           (select coalesce(sum(idx_tup_read), 0)::bigint from pg_stat_user_indexes
            where indexrelname like 'outcome%pool_settled_at%'),
           (select coalesce(sum(seq_tup_read), 0)::bigint from pg_stat_user_tables where relname like 'outcome\\_2%')",
    )
    .fetch_one(store.db().on(Terms::DURABLE))
    .await
    .unwrap()
}

/// Two days of losses of one pool, as many on either, one of another, and what was delivered in between.
const LOSSES: &str = "insert into outcome (settled_at, id, run_id, snapshot_id, pool, intent, dequeued_at, scheduled_at,
       due_at, outcome, reason, fallback_result, fence, worker, claim_count, probe_count, create_count, lost_at)
     select at, gen_random_uuid(), 'run_' || n, 'snapshot_1', case when n = 7 then 'default' else 'busy' end, 'hit',
       at, at, at,
       case when n % 3 = 0 then 'delivered' else 'fallback' end, case when n % 3 = 0 then 'started' end,
       case when n % 3 <> 0 then 'failed' end, 1, 'worker', 1, 1, 0, case when n % 3 <> 0 then at end
     from generate_series(1, 12000) as n
     cross join lateral (
       select date_trunc('day', now(), 'UTC') - (n % 2) * interval '1 day' + (12000 - n) * interval '1 microsecond'
     ) as settled (at)";

#[tokio::test]
async fn the_latest_losses_are_read_without_the_others() {
    let db = db().await;
    // On one connection, so that its counts are flushed at once.
    let store = one_connection(&db).await;
    for statement in [
        "insert into pool (name) values ('busy'), ('quiet')",
        LOSSES,
        "vacuum analyze outcome",
        "analyze pool",
    ] {
        sqlx::query(statement).execute(db.pool()).await.unwrap();
    }
    // Planned anew a few times, then kept.
    for _ in 0..8 {
        let _ = store.latest_lost(None, 5).await.unwrap();
    }
    let before = read_of_losses(&store).await;
    let latest = store.latest_lost(None, 5).await.unwrap();
    let of_default = store.latest_lost(Some("default"), 5).await.unwrap();
    let of_quiet = store.latest_lost(Some("quiet"), 5).await.unwrap();
    let after = read_of_losses(&store).await;

    let runs: Vec<&str> = latest.iter().map(|lost| lost.run_id.as_str()).collect();
    assert_eq!(runs, ["run_2", "run_4", "run_8", "run_10", "run_14"]);
    assert_eq!(of_default.iter().map(|lost| lost.run_id.as_str()).collect::<Vec<_>>(), ["run_7"]);
    assert_eq!(of_quiet, []);
    // 5 of the one pool and 1 of the other for all, then the 1 again.
    assert_eq!((after.0 - before.0, after.1 - before.1), (7, 0), "entries read, rows read without an index");
}

//! Plans made while the hot table is empty stay good while it fills.

use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use warmproof::domain::verification::CancelReason;
use warmproof::store::Store;
use warmproof::store::connect;

use crate::support::db::{Db, db};
use crate::support::dispatch::{
    cancellation, claim, due_soon, everything, fresh, schedule, settlement, started,
};

/// One connection as the product opens it, whose statements are planned once and kept.
async fn one_connection(db: &Db) -> Store {
    let url = db.url();
    let config = crate::support::db::database_config(&url);
    let options = connect::options(&config).unwrap();
    Store::new(PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap())
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
    db.run("vacuum analyze pending").await;
    let store = one_connection(&db).await;
    // Planned anew a few times, then kept.
    for round in 0..8 {
        every_statement(&store, round).await;
    }
    db.run(
        "insert into pending (id, run_id, snapshot_id, pool, intent, dequeued_at, scheduled_at, due_at, look_at, codec, message)
         select gen_random_uuid(), 'run_bulk' || n, 'snapshot_1', 'default', 'hit', now(), now(), now() + interval '50 s',
           now() + interval '50 s', 0, '' from generate_series(1, 20000) as n",
    )
    .await;
    let scans = async || {
        db.run("select pg_stat_force_next_flush()").await;
        sqlx::query("select pg_stat_force_next_flush()").execute(store.db()).await.unwrap();
        db.value::<i64>("select seq_scan from pg_stat_user_tables where relname = 'pending'").await
    };
    let before = scans().await;
    for round in 8..16 {
        every_statement(&store, round).await;
    }
    assert_eq!(scans().await - before, 0, "whole reads of a table of 20 000 rows");
}

//! Queries to the server itself, outside the product: its settings, its WAL, its counters.

#![expect(clippy::disallowed_methods, reason = "the statements use tables that only a benchmark has")]

use anyhow::Context as _;
use serde_json::{Map, Value, json};
use sqlx::PgPool;

use crate::bench::context::Bed;

/// Settings that are needed to judge any figure.
const SETTINGS: [&str; 15] = [
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "wal_compression",
    "wal_level",
    "max_connections",
    "autovacuum",
    "autovacuum_naptime",
    "data_checksums",
    "wal_sync_method",
    "random_page_cost",
];

/// Version and settings, as the server reports them.
///
/// # Errors
/// The server refused.
pub async fn settings(db: &PgPool) -> anyhow::Result<Value> {
    let names: Vec<String> = SETTINGS.map(str::to_owned).to_vec();
    let rows: Vec<(String, String)> = sqlx::query_as(
        "select name, current_setting(name) from pg_settings where name = any ($1) order by name",
    )
    .bind(names)
    .fetch_all(db)
    .await?;
    Ok(Value::Object(rows.into_iter().map(|(name, value)| (name, json!(value))).collect::<Map<_, _>>()))
}

/// The server's time, as text.
///
/// # Errors
/// The server refused.
pub async fn now(db: &PgPool) -> anyhow::Result<String> {
    let text = "select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')";
    Ok(sqlx::query_scalar(text).fetch_one(db).await?)
}

/// Empties the tables of verifications, so that dead rows of one measurement do not slow the next.
///
/// # Errors
/// The server refused.
pub async fn empty(store: &Bed) -> anyhow::Result<()> {
    sqlx::query("truncate pending, outcome, outcome_count, outcome_total, outcome_hour, outcome_minute, latency_count").execute(store.db()).await?;
    Ok(())
}

/// The same without `outcome`, whose many partitions take a while; for phases where nothing has ended.
///
/// # Errors
/// The server refused.
pub async fn empty_pending(store: &Bed) -> anyhow::Result<()> {
    sqlx::query(
        "truncate pending, outcome_count, outcome_total, outcome_hour, outcome_minute, latency_count",
    )
    .execute(store.db())
    .await?;
    Ok(())
}

/// How many verifications have ended, from the counts: a cheap query during a measurement.
///
/// # Errors
/// The server refused.
pub async fn ended(store: &Bed) -> anyhow::Result<i64> {
    let text = "select coalesce(sum(n), 0)::bigint
        from (select outcome, n from outcome_total union all select outcome, n from outcome_count) as every_count
        where outcome <> 'scheduled'";
    Ok(sqlx::query_scalar(text).fetch_one(store.db()).await?)
}

/// Fails unless every promise has ended and is counted.
///
/// # Errors
/// Verifications are missing, so the figure would include work that was not done.
pub async fn expect_all_ended(store: &Bed, rows: usize) -> anyhow::Result<()> {
    let kept = store.conservation().await?;
    anyhow::ensure!(
        kept.pending == 0 && kept.unaccounted == 0 && usize::try_from(kept.ended).ok() == Some(rows),
        "{rows} verifications should have ended, but the counts say {kept:?}"
    );
    Ok(())
}

/// Bytes of WAL written since the cluster was made.
///
/// # Errors
/// The server refused.
pub async fn wal_bytes(db: &PgPool) -> anyhow::Result<i64> {
    let text = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint";
    Ok(sqlx::query_scalar(text).fetch_one(db).await?)
}

/// Writes this many bytes of WAL and starts a checkpoint, so that the server has as many bytes of used
/// files to reuse.
///
/// # Errors
/// The server refused.
pub async fn make_wal_files(db: &PgPool, bytes: i64) -> anyhow::Result<()> {
    const MESSAGE_BYTES: i32 = 1 << 20;
    sqlx::query(
        "select count(pg_logical_emit_message(false, 'bench', repeat('x', $1))) from generate_series(1, $2)",
    )
    .bind(MESSAGE_BYTES)
    .bind(bytes / i64::from(MESSAGE_BYTES))
    .execute(db)
    .await
    .context("could not write to the log")?;
    checkpoint(db).await
}

/// Runs a checkpoint, so that no checkpoint of an earlier phase disturbs this one.
///
/// # Errors
/// The server refused, as it does without superuser rights.
pub async fn checkpoint(db: &PgPool) -> anyhow::Result<()> {
    sqlx::query("checkpoint").execute(db).await.context("could not start a checkpoint")?;
    Ok(())
}

/// Vacuums and analyzes all tables, so that autovacuum has no work in the next minutes.
///
/// # Errors
/// The server refused.
pub async fn vacuum(db: &PgPool) -> anyhow::Result<()> {
    sqlx::query("vacuum analyze").execute(db).await.context("could not vacuum")?;
    Ok(())
}

/// Transactions of this database so far, ours included.
///
/// # Errors
/// The server refused.
pub async fn transactions(db: &PgPool) -> anyhow::Result<i64> {
    let text = "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()";
    Ok(sqlx::query_scalar(text).fetch_one(db).await?)
}

/// Process ids of the connections of workers and apis.
///
/// # Errors
/// The server refused.
pub async fn product_backends(db: &PgPool) -> anyhow::Result<Vec<i32>> {
    let text = "select pid from pg_stat_activity where application_name = 'warmproof'";
    Ok(sqlx::query_scalar(text).fetch_all(db).await?)
}

/// Adds this many copies of each pending row, due in an hour.
///
/// # Errors
/// The server refused.
pub async fn fill_future(store: &Bed, copies: usize) -> anyhow::Result<()> {
    sqlx::query(
        "insert into pending (id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
           dequeued_at, scheduled_at, due_at, probe_at, traceparent, timings, codec, message)
         select gen_random_uuid(), 'run_future' || k || '_' || n, snapshot_id, pool, supervisor, region, deployment_version,
           intent, dequeued_at, later, later + interval '10 seconds', later + interval '10 seconds',
           traceparent, timings, codec, message
         from (select *, row_number() over () as k from pending) as model
         cross join generate_series(1, $1::bigint) as n
         cross join lateral (select clock_timestamp() + interval '1 hour' + n * interval '1 millisecond') as at (later)",
    )
    .bind(i64::try_from(copies)?)
    .execute(store.db())
    .await?;
    Ok(())
}

/// Moves all due times into the past, so that all rows are due now, and vacuums.
///
/// # Errors
/// The server refused.
pub async fn make_due(store: &Bed) -> anyhow::Result<()> {
    sqlx::query(
        "update pending set scheduled_at = scheduled_at - interval '20 seconds',
           due_at = due_at - interval '20 seconds', probe_at = probe_at - interval '20 seconds'",
    )
    .execute(store.db())
    .await?;
    // The update leaves a dead row for each; after `vacuum full` the table is as if freshly scheduled.
    sqlx::query("vacuum (full, analyze) pending").execute(store.db()).await?;
    Ok(())
}

/// Removes all rows except those of [`fill_future`], with their count, and vacuums.
///
/// # Errors
/// The server refused.
pub async fn empty_all_but_future(store: &Bed) -> anyhow::Result<()> {
    sqlx::query("delete from pending where run_id not like 'run\\_future%'").execute(store.db()).await?;
    sqlx::query("vacuum analyze pending").execute(store.db()).await?;
    Ok(())
}

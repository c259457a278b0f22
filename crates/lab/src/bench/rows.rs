//! Pending rows with exact due times, otherwise as a schedule call would have written them.
//!
//! A schedule call promises a delay from the time of the call; a benchmark of lateness needs
//! exact instants. The row, its message, its indexes and its count are what the product writes.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rand::distr::{Alphanumeric, SampleString};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::PgPool;
use uuid::Uuid;

use super::message::Dispatches;
use super::pace::Pace;
use warmproof::config::database::CompressionConfig;
use warmproof::domain::dispatch::Dispatch;
use warmproof::domain::ids::RunId;
use warmproof::store::codec;

/// Rows in one statement.
const BATCH: usize = 500;
/// The position of the due time in a run's id.
const DUE_DIGITS: std::ops::Range<usize> = 14..30;

/// A row that has no due time yet.
#[derive(Debug)]
pub struct Draft {
    dispatch: Dispatch,
    codec: i16,
    message: Vec<u8>,
}

/// This many drafts, with compressed messages.
#[must_use]
pub fn drafts(dispatches: &mut Dispatches, now: DateTime<Utc>, count: u32) -> Vec<Draft> {
    (0..count).map(|_| draft(dispatches.next(now))).collect()
}

/// One draft, with its message compressed as in the product.
#[must_use]
pub fn draft(dispatch: Dispatch) -> Draft {
    let (codec, message) = codec::encode(dispatch.message.get().as_bytes(), &CompressionConfig::default());
    let message = message.into_owned();
    Draft { dispatch, codec, message }
}

/// How run ids are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// The ids of the dispatches.
    Own,
    /// Ids that contain the due time, so that a benchmark's probe knows how late it is.
    AfterDue,
}

/// Inserts drafts so that the n-th is due at its instant of the pace; returns how long it took.
///
/// # Errors
/// The server refused.
pub async fn insert(
    db: &PgPool,
    drafts: &[Draft],
    start_at: DateTime<Utc>,
    pace: Pace,
    naming: Naming,
) -> anyhow::Result<Duration> {
    insert_into(db, "default", drafts, start_at, pace, naming).await
}

/// The same in a pool.
///
/// # Errors
/// The server refused.
pub async fn insert_into(
    db: &PgPool,
    pool: &str,
    drafts: &[Draft],
    start_at: DateTime<Utc>,
    pace: Pace,
    naming: Naming,
) -> anyhow::Result<Duration> {
    let began = std::time::Instant::now();
    let mut rng = StdRng::from_os_rng();
    let mut nth = 0;
    for batch in drafts.chunks(BATCH) {
        let mut dues = Vec::with_capacity(batch.len());
        let mut run_ids = Vec::with_capacity(batch.len());
        for draft in batch {
            let due_at = start_at + TimeDelta::from_std(pace.offset(nth))?;
            nth += 1;
            dues.push(due_at);
            run_ids.push(match naming {
                Naming::Own => draft.dispatch.run_id.as_str().to_owned(),
                Naming::AfterDue => after_due(due_at, &mut rng),
            });
        }
        insert_batch(db, pool, batch, &run_ids, &dues).await?;
    }
    Ok(began.elapsed())
}

fn after_due(due_at: DateTime<Utc>, rng: &mut impl Rng) -> String {
    // Random characters first, as in the platform's ids: rows of one moment must not be index neighbours.
    format!("run_{}{:016}", Alphanumeric.sample_string(rng, 10), due_at.timestamp_micros())
}

/// The due time in a run's id, in microseconds since 1970.
#[must_use]
pub fn due_micros(run_id: &RunId) -> Option<i64> {
    run_id.as_str().get(DUE_DIGITS)?.parse().ok()
}

async fn insert_batch(
    db: &PgPool,
    pool: &str,
    batch: &[Draft],
    run_ids: &[String],
    dues: &[DateTime<Utc>],
) -> anyhow::Result<()> {
    let ids: Vec<Uuid> = batch.iter().map(|_| Uuid::now_v7()).collect();
    let snapshot_ids: Vec<&str> = batch.iter().map(|draft| draft.dispatch.snapshot_id.as_str()).collect();
    let messages: Vec<&[u8]> = batch.iter().map(|draft| draft.message.as_slice()).collect();
    let codecs: Vec<i16> = batch.iter().map(|draft| draft.codec).collect();
    let traceparents: Vec<Option<&str>> =
        batch.iter().map(|draft| draft.dispatch.traceparent.as_deref()).collect();
    let versions: Vec<Option<&str>> =
        batch.iter().map(|draft| draft.dispatch.deployment_version.as_deref()).collect();
    #[expect(clippy::disallowed_methods, reason = "not from the product: it promises delays, not instants")]
    let insert = sqlx::query(
        "with made as (
           insert into pending (id, run_id, snapshot_id, pool, supervisor, region, deployment_version, intent,
             dequeued_at, scheduled_at, due_at, probe_at, traceparent, codec, message)
           select id, run_id, snapshot_id, $9, 'supervisor-1', 'eu-central-1', version, 'hit',
             due - interval '10 s', due - interval '10 s', due, due, traceparent, codec, message
           from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::bytea[], $8::smallint[])
             as t (id, run_id, snapshot_id, version, due, traceparent, message, codec)
           returning 1
         )
         insert into outcome_count (minute, pool, supervisor, region, intent, outcome, n)
         select date_trunc('minute', clock_timestamp()), $9, 'supervisor-1', 'eu-central-1', 'hit',
           'scheduled', count(*)
         from made",
    );
    insert
        .bind(ids)
        .bind(run_ids)
        .bind(snapshot_ids)
        .bind(versions)
        .bind(dues)
        .bind(traceparents)
        .bind(messages)
        .bind(codecs)
        .bind(pool)
        .execute(db)
        .await?;
    Ok(())
}

/// The server's clock.
///
/// # Errors
/// The server refused.
pub async fn clock(db: &PgPool) -> anyhow::Result<DateTime<Utc>> {
    #[expect(clippy::disallowed_methods, reason = "reads none of our tables")]
    let now = sqlx::query_scalar("select clock_timestamp()").fetch_one(db).await?;
    Ok(now)
}

/// Waits until no row is pending; returns false when the time is over.
///
/// # Errors
/// The server refused.
pub async fn drained(db: &PgPool, patience: Duration) -> anyhow::Result<bool> {
    drained_of(db, "%", patience).await
}

/// The same of the pools whose names are like this.
///
/// # Errors
/// The server refused.
pub async fn drained_of(db: &PgPool, pools: &str, patience: Duration) -> anyhow::Result<bool> {
    let began = std::time::Instant::now();
    loop {
        #[expect(clippy::disallowed_methods, reason = "a benchmark's own query")]
        let pending =
            sqlx::query_scalar("select exists (select 1 from pending where pool like $1)").bind(pools);
        let pending: bool = pending.fetch_one(db).await?;
        if !pending {
            return Ok(true);
        }
        if began.elapsed() > patience {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_tells_when_it_is_due() {
        let due_at = DateTime::from_timestamp_micros(1_795_467_600_123_456).expect("an instant");
        let run_id = RunId::parse(after_due(due_at, &mut StdRng::from_os_rng())).expect("a run id");
        assert_eq!(due_micros(&run_id), Some(1_795_467_600_123_456));
    }
}

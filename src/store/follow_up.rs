//! Follow-ups: fallbacks that were created and whose runs were not seen to start yet.
//!
//! Taking one moves its `probe_at` forward instead of taking a lease. Another worker repeats a probe that
//! is lost, and a probe that is made twice records the same result.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::connect::Terms;
use super::text::storable;
use super::{Store, StoreError};
use crate::domain::ids::{PoolName, RunId, SnapshotId, VerificationId};

/// How long a worker has for a follow-up it took, and how long a failed one waits, in seconds.
const TAKEN_FOR_SECONDS: f64 = 20.0;

/// How long after its time a follow-up may still be probed, in seconds. By then the platform's redrive has had its
/// turn, and the run's state says nothing of the fallback.
const GOOD_FOR_SECONDS: f64 = 120.0;

/// What a follow-up saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum FollowUpResult {
    /// The run moved on: by the fallback, or by another runner.
    Confirmed,
    /// The run had not moved, or the platform's redrive took it: the fallback did not help.
    NotStarted,
    /// No probe was answered, or none was made in time.
    Unknown,
}

impl FollowUpResult {
    /// The word in SQL and API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::NotStarted => "not_started",
            Self::Unknown => "unknown",
        }
    }
}

/// One follow-up to be made.
#[derive(Debug, Clone)]
pub struct FollowUp {
    /// The verification that ended in a created fallback.
    pub verification_id: VerificationId,
    /// Its run.
    pub run_id: RunId,
    /// The dispatched snapshot.
    pub snapshot_id: SnapshotId,
    /// Its pool.
    pub pool: PoolName,
    /// By the platform's clock.
    pub dequeued_at: DateTime<Utc>,
    /// The database's clock when it was taken.
    pub taken_at: DateTime<Utc>,
    /// Probes made so far, this one included.
    pub probe_count: u32,
}

struct Row {
    verification_id: Uuid,
    run_id: String,
    snapshot_id: String,
    pool: String,
    dequeued_at: DateTime<Utc>,
    taken_at: DateTime<Utc>,
    probe_count: i32,
}

impl Store {
    /// Takes follow-ups that are due, of each pool at most as many as wanted.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn take_follow_ups(&self, wanted: &[(PoolName, u32)]) -> Result<Vec<FollowUp>, StoreError> {
        let doing = "take follow-ups";
        let pools: Vec<&str> = wanted.iter().map(|(pool, _)| pool.as_str()).collect();
        let quotas: Vec<i32> = wanted.iter().map(|(_, quota)| super::count(*quota)).collect();
        let rows = sqlx::query_as!(
            Row,
            r#"update follow_up s
               set probe_at = statement_timestamp() + $3 * interval '1 second', probe_count = s.probe_count + 1
               where s.verification_id = any (array(
                   select due.verification_id
                   from unnest($1::text[], $2::int[]) as asked (pool, quota)
                   cross join lateral (
                     select candidate.verification_id
                     from follow_up candidate
                     where candidate.pool = asked.pool and candidate.result is null
                       and candidate.probe_at <= statement_timestamp()
                     order by candidate.probe_at
                     limit asked.quota
                     for update skip locked
                   ) as due))
               returning s.verification_id, s.run_id, s.snapshot_id, s.pool, s.dequeued_at, s.probe_count,
                 statement_timestamp() as "taken_at!""#,
            &pools as &[&str],
            &quotas,
            TAKEN_FOR_SECONDS,
        )
        .fetch_all(self.db().on(Terms::RELAXED))
        .await
        .map_err(StoreError::doing(doing))?;
        let unreadable = |column, problem: String| StoreError::Corrupt { doing, column, problem };
        rows.into_iter()
            .map(|row| {
                Ok(FollowUp {
                    verification_id: VerificationId(row.verification_id),
                    run_id: RunId::parse(row.run_id)
                        .map_err(|error| unreadable("run_id", error.to_string()))?,
                    snapshot_id: SnapshotId::parse(row.snapshot_id)
                        .map_err(|error| unreadable("snapshot_id", error.to_string()))?,
                    pool: PoolName::parse(row.pool).map_err(|error| unreadable("pool", error.to_string()))?,
                    dequeued_at: row.dequeued_at,
                    taken_at: row.taken_at,
                    probe_count: row.probe_count.unsigned_abs(),
                })
            })
            .collect()
    }

    /// Records as unknown, and late, at most `limit` follow-ups of each pool that were not probed in time; answers
    /// the pool of each.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn drop_late_follow_ups(
        &self,
        pools: &[PoolName],
        limit: u32,
    ) -> Result<Vec<PoolName>, StoreError> {
        let doing = "drop late follow-ups";
        let pools: Vec<&str> = pools.iter().map(PoolName::as_str).collect();
        let dropped = sqlx::query_scalar!(
            "update follow_up f
             set result = 'unknown', late = true, probed_at = statement_timestamp(),
               error = 'late: no worker had a probe free for it in time'
             where f.verification_id = any (array(
                 select late.verification_id
                 from unnest($1::text[]) as asked (pool)
                 cross join lateral (
                   select candidate.verification_id
                   from follow_up candidate
                   where candidate.pool = asked.pool and candidate.result is null
                     and candidate.probe_at < statement_timestamp() - $3 * interval '1 second'
                   order by candidate.probe_at
                   limit $2
                   for update skip locked
                 ) as late))
             returning f.pool",
            &pools as &[&str],
            i64::from(limit),
            GOOD_FOR_SECONDS,
        )
        .fetch_all(self.db().on(Terms::RELAXED))
        .await
        .map_err(StoreError::doing(doing))?;
        let unreadable = |problem: String| StoreError::Corrupt { doing, column: "pool", problem };
        let parse = |pool| PoolName::parse(pool).map_err(|error| unreadable(error.to_string()));
        dropped.into_iter().map(parse).collect()
    }

    /// Records what a follow-up saw, once; answers whether this was it.
    ///
    /// # Errors
    /// The database could not be reached; another worker probes again.
    pub async fn record_follow_up(
        &self,
        id: VerificationId,
        result: FollowUpResult,
        late: bool,
        error: Option<&str>,
    ) -> Result<bool, StoreError> {
        let error = error.map(storable);
        let recorded = sqlx::query!(
            "update follow_up set result = $2, late = $3, error = $4, probed_at = statement_timestamp()
             where verification_id = $1 and result is null",
            id.0,
            result.as_str(),
            late,
            error.as_deref(),
        )
        .execute(self.patient())
        .await
        .map_err(StoreError::doing("record a follow-up"))?;
        Ok(recorded.rows_affected() > 0)
    }
}

/// What is known about a fallback's follow-up.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct FollowUpRecord {
    /// The verification.
    pub verification_id: Uuid,
    /// When it is due, or was last probed.
    pub probe_at: DateTime<Utc>,
    /// When the result was recorded.
    pub probed_at: Option<DateTime<Utc>>,
    /// What it saw; `None`: not known yet.
    pub result: Option<FollowUpResult>,
    /// Why nothing was learned.
    pub error: Option<String>,
}

impl Store {
    /// The follow-ups of these verifications, as far as there are any.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn follow_ups_of(&self, ids: &[Uuid]) -> Result<Vec<FollowUpRecord>, StoreError> {
        sqlx::query_as!(
            FollowUpRecord,
            r#"select verification_id, probe_at, probed_at, result as "result: FollowUpResult", error
             from follow_up
             where verification_id = any ($1)"#,
            ids
        )
        .fetch_all(self.patient())
        .await
        .map_err(StoreError::doing("look up follow-ups"))
    }
}

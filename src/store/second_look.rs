//! Second looks: fallbacks that were created and whose runs nobody has seen started yet.
//!
//! Taking one moves its `look_at` on instead of a lease: a look that is lost is made by
//! another worker, and made twice it records the same.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::connect::Terms;
use super::{Store, StoreError};
use crate::domain::ids::{PoolName, RunId, SnapshotId, VerificationId};

/// How long whoever takes a look has for it, and how long a failed one waits, in seconds.
const TAKEN_FOR_SECONDS: f64 = 10.0;

/// What a second look saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum SecondLookResult {
    /// The run moved on: the fallback helped, or somebody else did.
    Confirmed,
    /// The run had not moved, or the platform's redrive took it: the fallback did not help.
    NotStarted,
    /// No look learned it.
    Unknown,
}

impl SecondLookResult {
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

/// One look to be made.
#[derive(Debug, Clone)]
pub struct SecondLook {
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
    /// Looks taken so far, this one included.
    pub look_count: u32,
}

struct Row {
    verification_id: Uuid,
    run_id: String,
    snapshot_id: String,
    pool: String,
    dequeued_at: DateTime<Utc>,
    taken_at: DateTime<Utc>,
    look_count: i32,
}

impl Store {
    /// Takes at most `limit` looks that are due in these pools.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn take_second_looks(
        &self,
        pools: &[PoolName],
        limit: u32,
    ) -> Result<Vec<SecondLook>, StoreError> {
        let doing = "take second looks";
        let pools: Vec<&str> = pools.iter().map(PoolName::as_str).collect();
        let rows = sqlx::query_as!(
            Row,
            r#"update second_look s
               set look_at = statement_timestamp() + $3 * interval '1 second', look_count = s.look_count + 1
               where s.verification_id = any (array(
                   select due.verification_id
                   from unnest($1::text[]) as asked (pool)
                   cross join lateral (
                     select candidate.verification_id
                     from second_look candidate
                     where candidate.pool = asked.pool and candidate.result is null
                       and candidate.look_at <= statement_timestamp()
                     order by candidate.look_at
                     limit $2
                     for update skip locked
                   ) as due))
               returning s.verification_id, s.run_id, s.snapshot_id, s.pool, s.dequeued_at, s.look_count,
                 statement_timestamp() as "taken_at!""#,
            &pools as &[&str],
            i64::from(limit),
            TAKEN_FOR_SECONDS,
        )
        .fetch_all(self.db().on(Terms::RELAXED))
        .await
        .map_err(StoreError::doing(doing))?;
        let unreadable = |column, problem: String| StoreError::Corrupt { doing, column, problem };
        rows.into_iter()
            .map(|row| {
                Ok(SecondLook {
                    verification_id: VerificationId(row.verification_id),
                    run_id: RunId::parse(row.run_id)
                        .map_err(|error| unreadable("run_id", error.to_string()))?,
                    snapshot_id: SnapshotId::parse(row.snapshot_id)
                        .map_err(|error| unreadable("snapshot_id", error.to_string()))?,
                    pool: PoolName::parse(row.pool).map_err(|error| unreadable("pool", error.to_string()))?,
                    dequeued_at: row.dequeued_at,
                    taken_at: row.taken_at,
                    look_count: row.look_count.unsigned_abs(),
                })
            })
            .collect()
    }

    /// Records what a second look saw, once.
    ///
    /// # Errors
    /// The database could not be reached; somebody looks again.
    pub async fn record_second_look(
        &self,
        id: VerificationId,
        result: SecondLookResult,
        late: bool,
        error: Option<&str>,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "update second_look set result = $2, late = $3, error = $4, looked_at = statement_timestamp()
             where verification_id = $1 and result is null",
            id.0,
            result.as_str(),
            late,
            error,
        )
        .execute(self.patient())
        .await
        .map_err(StoreError::doing("record a second look"))?;
        Ok(())
    }
}

/// What is known of the second look at a fallback.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SecondLookTold {
    /// The verification.
    pub verification_id: Uuid,
    /// When it is due, or was looked at last.
    pub look_at: DateTime<Utc>,
    /// When it was told.
    pub looked_at: Option<DateTime<Utc>>,
    /// What it saw; `None`: not known yet.
    pub result: Option<SecondLookResult>,
    /// Why nothing was learned.
    pub error: Option<String>,
}

impl Store {
    /// The second looks at these verifications, as far as there are any.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn second_looks_of(&self, ids: &[Uuid]) -> Result<Vec<SecondLookTold>, StoreError> {
        sqlx::query_as!(
            SecondLookTold,
            r#"select verification_id, look_at, looked_at, result as "result: SecondLookResult", error
             from second_look
             where verification_id = any ($1)"#,
            ids
        )
        .fetch_all(self.patient())
        .await
        .map_err(StoreError::doing("look up second looks"))
    }
}

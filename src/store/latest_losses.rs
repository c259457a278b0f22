//! Lost: the latest losses, run by run: the verifications behind a rate.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Store, StoreError};
use crate::domain::ids::SupervisorName;
use crate::domain::outcome::{FallbackResult, OutcomeKind, Reason};

/// A verification that ended as a loss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// When it ended.
    pub settled_at: DateTime<Utc>,
    /// The run.
    pub run_id: String,
    /// The pool.
    pub pool: String,
    /// The supervisor that dispatched it.
    pub supervisor: Option<SupervisorName>,
    /// The deployment's version.
    pub deployment_version: Option<String>,
    /// `fallback`, or `delivered` when the platform's redrive came first.
    pub outcome: OutcomeKind,
    /// `requeued` for the latter.
    pub reason: Option<Reason>,
    /// What came of the fallback.
    pub fallback_result: Option<FallbackResult>,
    /// Seen too late to know which dispatch was lost; outside all rates.
    pub late: bool,
    /// An operator asked for the verdict before it was due; outside all rates.
    pub early: bool,
}

impl Lost {
    /// What came of it, in a word: the fallback's result, or `requeued`.
    #[must_use]
    pub fn result(&self) -> Option<&'static str> {
        self.fallback_result.map(FallbackResult::as_str).or(self.reason.map(Reason::as_str))
    }
}

impl Store {
    /// The latest losses, newest first, of one pool or of all; reads only an index of losses.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn latest_lost(&self, pool: Option<&str>, limit: u32) -> Result<Vec<Lost>, StoreError> {
        sqlx::query_as!(
            Lost,
            // Pools are few, and each returns its own latest losses. So no loss is read that is not shown,
            // however long outcomes are kept. The condition must match the index's own condition exactly.
            r#"select latest.settled_at, latest.run_id, latest.pool, latest.supervisor as "supervisor: SupervisorName",
               latest.deployment_version,
               latest.outcome as "outcome: OutcomeKind", latest.reason as "reason: Reason",
               latest.fallback_result as "fallback_result: FallbackResult", latest.late, latest.early
             from pool
             cross join lateral (
               select lost.* from outcome lost
               where lost.pool = pool.name and (lost.outcome = 'fallback' or lost.reason = 'requeued')
               order by lost.settled_at desc
               limit $2
             ) as latest
             where pool.name = coalesce($1, pool.name)
             order by latest.settled_at desc
             limit $2"#,
            pool,
            i64::from(limit)
        )
        .fetch_all(self.patient())
        .await
        .map_err(StoreError::doing("list losses"))
    }
}

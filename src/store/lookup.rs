//! Lookup: one verification, one run's history, the pools.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::types::Uuid;
use utoipa::ToSchema;

use super::{Store, StoreError};
use crate::domain::claim::EarlyProbe;
use crate::domain::ids::{RegionName, RunId, SupervisorName, VerificationId};
use crate::domain::outcome::{FallbackResult, Outcome, OutcomeKind, Reason};
use crate::domain::status::{HoldReason, Status};
use crate::domain::verification::Intent;

/// A pending verification, without its message.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Pending {
    /// The verification.
    pub id: Uuid,
    /// The run.
    pub run_id: String,
    /// The dispatched snapshot.
    pub snapshot_id: String,
    /// The pool.
    pub pool: String,
    /// The supervisor that dispatched it.
    pub supervisor: Option<SupervisorName>,
    /// Where that supervisor runs.
    pub region: Option<RegionName>,
    /// The deployment's version.
    pub deployment_version: Option<String>,
    /// Why it was scheduled.
    pub intent: Intent,
    /// By the platform's clock.
    pub dequeued_at: DateTime<Utc>,
    /// By the database's clock.
    pub scheduled_at: DateTime<Utc>,
    /// The promised instant: a worker probes by then. Never changes.
    pub due_at: DateTime<Utc>,
    /// When a worker probes next.
    pub probe_at: DateTime<Utc>,
    /// What it is doing.
    pub status: Status,
    /// What defers the cold start of a loss; `None`: nothing.
    pub hold_reason: Option<HoldReason>,
    /// Until when a worker holds it, if one does.
    pub lease_expires_at: Option<DateTime<Utc>>,
    /// The worker that holds it.
    pub worker: Option<String>,
    /// Claims so far.
    pub claim_count: i32,
    /// Probes so far that led to no outcome.
    pub probe_count: i32,
    /// Creates requested so far.
    pub create_count: i32,
    /// When the runner's connect was reported.
    pub connected_at: Option<DateTime<Utc>>,
    /// When the loss was marked.
    pub lost_at: Option<DateTime<Utc>>,
    /// When a create was permitted.
    pub create_permitted_at: Option<DateTime<Utc>>,
    /// Name of the workload requested last.
    pub workload: Option<String>,
    /// The last error.
    pub last_error: Option<String>,
    /// What an operator asked of the next probe, if that comes before the verification is due.
    pub early: Option<EarlyProbe>,
    /// What the last such probe saw that changed nothing: `not_started`, the word for what acted on the run, or
    /// `failed` and why.
    pub observation: Option<String>,
    /// When it saw that.
    pub observed_at: Option<DateTime<Utc>>,
}

impl Pending {
    /// When a probe that changes nothing last saw the run, and what it saw.
    #[must_use]
    pub fn observed(&self) -> Option<(DateTime<Utc>, String)> {
        let observation = match self.observation.as_deref()? {
            "not_started" => "the run has not started yet".to_owned(),
            failure if failure.starts_with("failed") => failure.replacen("failed", "the probe failed", 1),
            acted => format!("the run was {acted}"),
        };
        Some((self.observed_at?, observation))
    }
}

/// Scheduled less pending less ended, in one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Conservation {
    /// Verifications ever scheduled.
    pub scheduled: i64,
    /// Verifications pending.
    pub pending: i64,
    /// Verifications ended.
    pub ended: i64,
    /// Must be 0.
    pub unaccounted: i64,
}

impl Store {
    /// The database's clock.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn clock(&self) -> Result<DateTime<Utc>, StoreError> {
        sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#)
            .fetch_one(self.patient())
            .await
            .map_err(StoreError::doing("read the database's clock"))
    }

    /// Whether a commit of this connection waits for the disk. Without it no promise is durable.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn commits_durably(&self) -> Result<bool, StoreError> {
        sqlx::query_scalar!(r#"select current_setting('synchronous_commit') <> 'off' as "durably!""#)
            .fetch_one(self.patient())
            .await
            .map_err(StoreError::doing("read `synchronous_commit`"))
    }

    /// The run's pending verification, if it has one.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn pending_of(&self, run_id: &RunId) -> Result<Option<Pending>, StoreError> {
        sqlx::query_as!(
            Pending,
            r#"select id, run_id, snapshot_id, pool, supervisor as "supervisor: SupervisorName",
               region as "region: RegionName", deployment_version, intent as "intent: Intent",
               dequeued_at, scheduled_at, due_at, probe_at,
               pending_status(lease_expires_at, probe_at, lost_at, hold_reason) as "status!: Status",
               hold_reason as "hold_reason: HoldReason", lease_expires_at, worker, claim_count, probe_count, create_count,
               connected_at, lost_at, create_permitted_at, workload, last_error, early as "early: EarlyProbe",
               observation, observed_at
             from pending where run_id = $1"#,
            run_id.as_str()
        )
        .fetch_optional(self.patient())
        .await
        .map_err(StoreError::doing("look up a pending verification"))
    }

    /// The run's ended verifications, newest first, at most `limit`.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn outcomes_of(&self, run_id: &RunId, limit: i64) -> Result<Vec<Outcome>, StoreError> {
        sqlx::query_as!(
            Outcome,
            r#"select settled_at, id, run_id, snapshot_id, pool, supervisor as "supervisor: SupervisorName",
               region as "region: RegionName", deployment_version, intent as "intent: Intent",
               dequeued_at, scheduled_at, due_at, outcome as "outcome: OutcomeKind",
               reason as "reason: Reason", fallback_result as "fallback_result: FallbackResult", late, early, fence, worker,
               claim_count, probe_count, create_count, connected_at, lost_at, create_permitted_at,
               probe_ms, workload, error, traceparent
             from outcome where run_id = $1 order by settled_at desc, id desc limit $2"#,
            run_id.as_str(),
            limit
        )
        .fetch_all(self.patient())
        .await
        .map_err(StoreError::doing("look up a run's outcomes"))
    }

    /// The run of a verification, pending or ended.
    ///
    /// A block-range index on the id, which follows the order of insertion, finds ended ones. Pending ones
    /// need a scan of the hot table, whose rows stay for seconds.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn run_of(&self, id: VerificationId) -> Result<Option<String>, StoreError> {
        sqlx::query_scalar!(
            r#"select run_id as "run_id!" from pending where id = $1
               union all
               select run_id from outcome where id = $1
               limit 1"#,
            id.0
        )
        .fetch_optional(self.patient())
        .await
        .map_err(StoreError::doing("look up a verification"))
    }

    /// The names of all pools the database knows.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn pools(&self) -> Result<Vec<String>, StoreError> {
        sqlx::query_scalar!("select name from pool order by name")
            .fetch_all(self.patient())
            .await
            .map_err(StoreError::doing("list pools"))
    }

    /// The conservation check, in one snapshot of the database.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn conservation(&self) -> Result<Conservation, StoreError> {
        sqlx::query_as!(
            Conservation,
            r#"select scheduled as "scheduled!", pending as "pending!", ended as "ended!",
                 unaccounted as "unaccounted!" from conservation"#
        )
        .fetch_one(self.patient())
        .await
        .map_err(StoreError::doing("check conservation"))
    }
}

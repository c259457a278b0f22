//! How a verification ends: what a worker reports, and what the row made of it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::claim::ClaimKey;
use super::ids::{RegionName, SupervisorName};
use super::verdict::Acted;
use super::verification::{CancelReason, Intent};

/// How a verification ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum OutcomeKind {
    /// The run moved on.
    Delivered,
    /// The loss was marked; what followed does not change this.
    Fallback,
    /// It ended without an observation.
    ProbeError,
    /// The runner connected, the broker said no, or an operator cancelled.
    Cancelled,
    /// A newer dispatch of the run took its place.
    Superseded,
}

impl OutcomeKind {
    /// The word in SQL, API and events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Fallback => "fallback",
            Self::ProbeError => "probe_error",
            Self::Cancelled => "cancelled",
            Self::Superseded => "superseded",
        }
    }
}

/// What acted on the run of a delivered verification, or why a cancelled one was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Reason {
    /// Delivered: see [`Acted::Started`].
    Started,
    /// Delivered: see [`Acted::Finished`].
    Finished,
    /// Delivered: see [`Acted::Cancelled`].
    Cancelled,
    /// Delivered: see [`Acted::Requeued`].
    Requeued,
    /// Delivered: see [`Acted::Unknown`].
    Unknown,
    /// Cancelled: see [`CancelReason::Connected`].
    Connected,
    /// Cancelled: see [`CancelReason::Miss`].
    Miss,
    /// Cancelled: see [`CancelReason::Operator`].
    Operator,
}

impl Reason {
    /// The word in SQL, API and events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => Acted::Started.as_str(),
            Self::Finished => Acted::Finished.as_str(),
            Self::Cancelled => Acted::Cancelled.as_str(),
            Self::Requeued => Acted::Requeued.as_str(),
            Self::Unknown => Acted::Unknown.as_str(),
            Self::Connected => CancelReason::Connected.as_str(),
            Self::Miss => CancelReason::Miss.as_str(),
            Self::Operator => CancelReason::Operator.as_str(),
        }
    }
}

/// What came of a fallback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum FallbackResult {
    /// A workload was requested, and the backend or the run's progress confirmed it.
    Created,
    /// The workload was there already, from an earlier request of ours.
    Existed,
    /// The original runner acted after all.
    Overtaken,
    /// The platform's redrive took the run back first.
    Requeued,
    /// No create was confirmed.
    Failed,
    /// Shadow mode: recorded, nothing created.
    Suppressed,
    /// Cancelled as a miss or by an operator after the loss was marked.
    Cancelled,
    /// A newer dispatch took the row after the loss was marked.
    Superseded,
}

impl FallbackResult {
    /// The word in SQL, API and events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Existed => "existed",
            Self::Overtaken => "overtaken",
            Self::Requeued => "requeued",
            Self::Failed => "failed",
            Self::Suppressed => "suppressed",
            Self::Cancelled => "cancelled",
            Self::Superseded => "superseded",
        }
    }
}

/// What a worker reports when it settles. The row decides: once marked lost it ends as a fallback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The run moved on.
    Delivered {
        /// What moved it.
        acted: Acted,
        /// Whether a warm runner started the attempt.
        warm_start: bool,
    },
    /// There is no observation, and no time or try is left.
    ProbeError {
        /// The last failure, or `expired`.
        error: String,
    },
    /// The loss was acted on, or could not be.
    Fallback {
        /// What came of it.
        result: FallbackResult,
        /// Why, when it failed.
        error: Option<String>,
    },
}

/// One settle: the fenced last write.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Row and fence.
    pub key: ClaimKey,
    /// What the worker reports.
    pub ending: Ending,
    /// Probes made under this claim that the row does not count yet.
    pub probes: u32,
    /// How long the last probe took, in milliseconds.
    pub probe_ms: Option<u32>,
    /// Whether the observation may show the redriven dispatch; outside the rates.
    pub late: bool,
    /// Name of the workload that was requested.
    pub workload: Option<String>,
}

/// The answer to a settle.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a stale settle recorded nothing and must not be reported"]
pub enum Settled {
    /// Recorded, now or by an earlier try whose reply was lost.
    Recorded(Box<Outcome>),
    /// The fence moved on: drop the result, count it, emit nothing.
    Stale,
}

/// A recorded outcome, as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Outcome {
    /// When it ended, by the database's clock.
    pub settled_at: DateTime<Utc>,
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
    /// The promised instant: a worker probes by then.
    pub due_at: DateTime<Utc>,
    /// How it ended.
    pub outcome: OutcomeKind,
    /// What acted on the run (delivered), or why it was cancelled (cancelled); `None` for the others.
    pub reason: Option<Reason>,
    /// What came of a fallback; `None` for the others.
    pub fallback_result: Option<FallbackResult>,
    /// Outside the rates: it may show the redriven dispatch.
    pub late: bool,
    /// Outside the rates: an operator asked for the verdict before it was due.
    pub early: bool,
    /// The fence of the claim that settled; `None` for a cancel or a supersede. Not shown outside.
    #[serde(skip)]
    pub fence: Option<i64>,
    /// The worker that settled.
    pub worker: Option<String>,
    /// Claims made.
    pub claim_count: i32,
    /// Probes made.
    pub probe_count: i32,
    /// Creates requested.
    pub create_count: i32,
    /// When the runner's connect was reported.
    pub connected_at: Option<DateTime<Utc>>,
    /// When the loss was marked.
    pub lost_at: Option<DateTime<Utc>>,
    /// When a create was permitted.
    pub create_permitted_at: Option<DateTime<Utc>>,
    /// How long the last probe took, in milliseconds.
    pub probe_ms: Option<i32>,
    /// Name of the workload requested.
    pub workload: Option<String>,
    /// The last error.
    pub error: Option<String>,
    /// The run's trace context.
    pub traceparent: Option<String>,
}

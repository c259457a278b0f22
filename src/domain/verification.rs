//! A verification: our promise to verify one dispatch, from schedule to cancel.
//!
//! Its life is `pending`, then `claimed` and back as often as needed, then one
//! outcome. The store's statements decide which step is legal when, and the
//! schema's CHECKs enforce it. This module names the answers that a caller gets.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::dispatch::Dispatch;
use super::ids::{PoolName, RegionName, RunId, SnapshotId, SupervisorName, VerificationId};
use super::pool::DELAY_MS;

/// Shortest delay from schedule to `due_at`.
pub const DELAY_MIN: Duration = Duration::from_millis(*DELAY_MS.start() as u64);
/// Longest delay from schedule to `due_at`.
pub const DELAY_MAX: Duration = Duration::from_millis(*DELAY_MS.end() as u64);

/// Why the verification was scheduled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Intent {
    /// The broker reported a hit.
    #[default]
    Hit,
    /// Written before the broker is asked; cancelled as `miss` when it says no.
    Dispatch,
}

impl Intent {
    /// The word in SQL, API and events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Dispatch => "dispatch",
        }
    }
}

/// What a schedule call asks for.
#[derive(Debug, Clone)]
pub struct NewVerification {
    /// The dispatch to verify.
    pub dispatch: Dispatch,
    /// The pool whose backend would cold-start the run.
    pub pool: PoolName,
    /// The supervisor that dispatched it, for reports.
    pub supervisor: Option<SupervisorName>,
    /// Where that supervisor runs, for reports.
    pub region: Option<RegionName>,
    /// Why it is scheduled.
    pub intent: Intent,
    /// From schedule to `due_at`, [`DELAY_MIN`] to [`DELAY_MAX`]; `None`: the pool's, else the caller's default.
    pub delay: Option<Duration>,
}

/// What became of a schedule call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleResult {
    /// A new verification is pending.
    Created,
    /// A new verification took the place of one for an older dispatch.
    Superseded,
    /// This dispatch is known already, pending or ended; nothing changed.
    Duplicate,
    /// A newer dispatch of the run is known; nothing changed.
    Outdated,
}

impl ScheduleResult {
    /// The word in SQL and API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Superseded => "superseded",
            Self::Duplicate => "duplicate",
            Self::Outdated => "outdated",
        }
    }
}

/// The answer to one schedule call; once it is returned, it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an outdated or duplicate schedule changed nothing"]
pub struct Scheduled {
    /// What became of the call.
    pub result: ScheduleResult,
    /// The run's verification now: the new one, or the one that prevented it.
    pub id: VerificationId,
    /// When that one is due, by the database's clock.
    pub due_at: DateTime<Utc>,
}

/// Why a dispatch could not be scheduled, although it is well formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleRefusal {
    /// No such pool is known to the database.
    #[error("unknown pool `{0}`: name it in the configuration of a worker or the api first")]
    UnknownPool(PoolName),
    /// `dequeuedAt` is more than 60 s ahead of the database's clock: it would outdate every later dispatch of the run.
    #[error(
        "`dequeuedAt` is more than 60 s ahead of the database's clock: check the clocks of the platform and of the database"
    )]
    FromTheFuture,
    /// Another open transaction holds the run's row.
    #[error("another transaction holds the verification of run `{0}`: end it, or call again later")]
    Busy(RunId),
}

/// Why a verification is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// The runner connected.
    Connected,
    /// The broker said no after a write-ahead schedule.
    Miss,
    /// An operator decided so.
    Operator,
}

impl CancelReason {
    /// The word in SQL, API and events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Miss => "miss",
            Self::Operator => "operator",
        }
    }
}

/// What a cancel call asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cancellation {
    /// The run.
    pub run_id: RunId,
    /// The dispatch that is meant; a newer one is not cancelled.
    pub snapshot_id: Option<SnapshotId>,
    /// Why.
    pub reason: CancelReason,
}

/// The answer to one cancel call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "result")]
#[must_use = "a cancel may come too late"]
pub enum Cancelled {
    /// The verification ended; it is not probed any more.
    Cancelled {
        /// Which one.
        id: VerificationId,
    },
    /// The pool keeps watching: the connect was noted on the row, and the probe happens all the same.
    Noted {
        /// Which one.
        id: VerificationId,
    },
    /// A create is already permitted; a connect was noted on the row, nothing else changed.
    TooLate {
        /// Which one.
        id: VerificationId,
    },
    /// No pending verification of that run, or none for that snapshot.
    NotFound,
    /// Another open transaction holds the run's row; nothing changed.
    Busy,
}

impl Cancelled {
    /// The word in SQL and API.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Cancelled { .. } => "cancelled",
            Self::Noted { .. } => "noted",
            Self::TooLate { .. } => "too_late",
            Self::NotFound => "not_found",
            Self::Busy => "busy",
        }
    }
}

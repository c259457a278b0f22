//! The only judge: what a probe saw, against the snapshot that was dispatched.
//!
//! Judging is pure. It knows nothing of time, leases or workloads, so that each
//! line of platform.md §3.1 is one line here and one case in the tests below.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::SnapshotId;

/// Why a probe learned nothing. Each failure of the platform has a name of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeFailure {
    /// Status 500 or above. An unknown run gets the same answer (platform.md §1.4).
    #[error(
        "server_error: the platform answered {status}; it answers the same for a run that it does not know"
    )]
    ServerError {
        /// The HTTP status, 500 to 599.
        status: u16,
    },
    /// Status 401: token, instance name or managed secret is wrong.
    #[error(
        "unauthorized: the platform answered 401; check TRIGGER_WORKER_TOKEN, MANAGED_WORKER_SECRET and TRIGGER_WORKER_INSTANCE_NAME"
    )]
    Unauthorized,
    /// Status 429, with the wait that `x-ratelimit-reset` asks for, if it does.
    #[error("rate_limited: the platform answered 429")]
    RateLimited {
        /// How long the platform asks us to wait.
        reset_after: Option<Duration>,
    },
    /// Another status that is not a success.
    #[error("unexpected_status: the platform answered {status}")]
    UnexpectedStatus {
        /// The HTTP status.
        status: u16,
    },
    /// A success whose body is no JSON.
    #[error("invalid_json: the platform's answer is not JSON")]
    InvalidJson,
    /// JSON that is not a latest snapshot of this run.
    #[error("wrong_schema: the platform's answer is no latest snapshot: {problem}")]
    WrongSchema {
        /// The field and what is wrong with it; never the body.
        problem: String,
    },
    /// A body above the limit of what we read.
    #[error("body_too_large: the platform's answer is longer than {limit_bytes} bytes")]
    BodyTooLarge {
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// Refused, reset, name not found, TLS: no whole answer came.
    #[error("connection: {problem}")]
    Connection {
        /// What the transport said; never a header or a URL with credentials.
        problem: String,
    },
    /// No whole answer within the probe's own timeout.
    #[error("timeout: no answer within {} ms", after.as_millis())]
    Timeout {
        /// The timeout that passed.
        after: Duration,
    },
}

impl ProbeFailure {
    /// The word that its text begins with.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::ServerError { .. } => "server_error",
            Self::Unauthorized => "unauthorized",
            Self::RateLimited { .. } => "rate_limited",
            Self::UnexpectedStatus { .. } => "unexpected_status",
            Self::InvalidJson => "invalid_json",
            Self::WrongSchema { .. } => "wrong_schema",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::Connection { .. } => "connection",
            Self::Timeout { .. } => "timeout",
        }
    }
}

/// What a probe saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatestSnapshot {
    /// The latest snapshot's friendly id.
    pub snapshot_id: SnapshotId,
    /// `executionStatus`, as the platform spells it (platform.md §3.1).
    pub execution_status: String,
    /// `description`, free text that ends in ` (warm start)` for a warm start's attempt.
    pub description: String,
    /// `run.status`, as the platform spells it (platform.md §1.4).
    pub run_status: String,
    /// `run.attemptNumber`, absent before the first attempt.
    pub attempt_number: Option<u32>,
}

/// The answer to one probe.
pub type Observation = Result<LatestSnapshot, ProbeFailure>;

/// An observation older than this starts nothing (design.md §3, create).
pub const OBSERVATION_AGE_MAX: Duration = Duration::from_secs(2);

/// What moved a run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Acted {
    /// An attempt runs, waits or was queued for its retry.
    Started,
    /// An attempt ran and the run is over.
    Finished,
    /// A user or an operator cancelled the run.
    Cancelled,
    /// The platform's redrive took it back: the dispatch was lost.
    Requeued,
    /// It moved on in a way this version does not know.
    Unknown,
}

impl Acted {
    /// The word in SQL, API and events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Finished => "finished",
            Self::Cancelled => "cancelled",
            Self::Requeued => "requeued",
            Self::Unknown => "unknown",
        }
    }
}

/// Pure judgement of one observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Another snapshot is the latest: something acted on the run.
    Acted {
        /// What it was.
        acted: Acted,
        /// Whether the attempt was started by a warm runner.
        warm_start: bool,
    },
    /// The dispatched snapshot is still the latest: nothing acted.
    Lost,
    /// The probe failed. Nothing may be started on it.
    Unknown(ProbeFailure),
}

/// Ends the description of an attempt that a warm runner started (platform.md §1.4).
const WARM_START_SUFFIX: &str = " (warm start)";

/// The dispatch that an observation is judged against.
#[derive(Debug, Clone, Copy)]
pub struct Dispatched<'a> {
    /// Its snapshot.
    pub snapshot_id: &'a SnapshotId,
    /// The attempt it was to start, 1 for a fresh run. `None`: not read, see [`LatestSnapshot::depends_on_attempt`].
    pub attempt_number: Option<u32>,
    /// Whether the platform's redrive may have come before the observation.
    pub is_late: bool,
}

impl LatestSnapshot {
    /// Whether the judgement depends on the attempt that was dispatched. Few do: the attempt is in the stored
    /// message, which a probe need not read otherwise.
    #[must_use]
    pub fn depends_on_attempt(&self, dispatched: &SnapshotId) -> bool {
        let may_be_redriven = match self.execution_status.as_str() {
            "QUEUED" | "PENDING_EXECUTING" => true,
            "FINISHED" => self.is_system_failure(),
            _ => false,
        };
        may_be_redriven && self.attempt_number.is_some() && self.snapshot_id != *dispatched
    }

    fn is_system_failure(&self) -> bool {
        self.run_status == "SYSTEM_FAILURE"
    }
}

/// Judges an observation against the dispatch.
#[must_use]
pub fn judge(dispatched: Dispatched<'_>, observation: Observation) -> Verdict {
    match observation {
        Err(failure) => Verdict::Unknown(failure),
        Ok(latest) if latest.snapshot_id == *dispatched.snapshot_id => Verdict::Lost,
        Ok(latest) => {
            // A dispatch names the next attempt, and a redrive does not raise it (platform.md §2).
            let attempted = dispatched.attempt_number.map(|next| latest.attempt_number >= Some(next));
            let acted = match (what_acted(&latest, attempted), attempted) {
                // Its attempt was made and failed, and the run was queued or dequeued again for the next one.
                (Acted::Requeued, Some(true)) if !dispatched.is_late => Acted::Started,
                (acted, _) => acted,
            };
            Verdict::Acted { acted, warm_start: latest.description.ends_with(WARM_START_SUFFIX) }
        }
    }
}

/// What moved the run on. `attempted`: whether the dispatched attempt was made, where that is known.
fn what_acted(latest: &LatestSnapshot, attempted: Option<bool>) -> Acted {
    match latest.execution_status.as_str() {
        "EXECUTING" | "EXECUTING_WITH_WAITPOINTS" | "SUSPENDED" | "QUEUED_EXECUTING" => Acted::Started,
        "PENDING_CANCEL" => Acted::Cancelled,
        "FINISHED" if latest.run_status == "CANCELED" => Acted::Cancelled,
        "FINISHED" if attempted.unwrap_or(latest.attempt_number.is_some()) => Acted::Finished,
        // The attempt was never made: the redrive limit ended the run (platform.md §3.3).
        "FINISHED" if latest.is_system_failure() => Acted::Requeued,
        "QUEUED" if latest.run_status == "RETRYING_AFTER_FAILURE" => Acted::Started,
        "QUEUED" | "PENDING_EXECUTING" => Acted::Requeued,
        _ => Acted::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(id: &str) -> SnapshotId {
        SnapshotId::parse(id).expect("a snapshot id")
    }

    fn latest(
        status: &str,
        run_status: &str,
        attempt_number: Option<u32>,
        description: &str,
    ) -> LatestSnapshot {
        LatestSnapshot {
            snapshot_id: snapshot("snapshot_new"),
            execution_status: status.to_owned(),
            description: description.to_owned(),
            run_status: run_status.to_owned(),
            attempt_number,
        }
    }

    fn against(attempt_number: Option<u32>, is_late: bool, observation: Observation) -> Verdict {
        judge(Dispatched { snapshot_id: &snapshot("snapshot_old"), attempt_number, is_late }, observation)
    }

    fn seen(status: &str, run_status: &str, attempt_number: Option<u32>, description: &str) -> Verdict {
        against(None, false, Ok(latest(status, run_status, attempt_number, description)))
    }

    #[test]
    fn the_same_snapshot_is_a_loss_at_any_status() {
        let latest = LatestSnapshot {
            snapshot_id: snapshot("snapshot_old"),
            execution_status: "PENDING_EXECUTING".to_owned(),
            description: "Run was dequeued for execution".to_owned(),
            run_status: "PENDING".to_owned(),
            attempt_number: None,
        };
        assert_eq!(against(Some(1), false, Ok(latest)), Verdict::Lost);
    }

    #[test]
    fn a_failed_probe_is_never_a_loss() {
        let failure = ProbeFailure::ServerError { status: 500 };
        assert_eq!(against(Some(1), false, Err(failure.clone())), Verdict::Unknown(failure));
    }

    #[test]
    fn every_way_of_moving_on_has_its_own_reason() {
        let cases = [
            ("EXECUTING", "EXECUTING", Some(1), Acted::Started),
            ("EXECUTING_WITH_WAITPOINTS", "EXECUTING", Some(1), Acted::Started),
            ("SUSPENDED", "WAITING_TO_RESUME", Some(1), Acted::Started),
            ("QUEUED_EXECUTING", "EXECUTING", Some(1), Acted::Started),
            ("FINISHED", "COMPLETED_SUCCESSFULLY", Some(1), Acted::Finished),
            ("FINISHED", "CANCELED", None, Acted::Cancelled),
            ("FINISHED", "SYSTEM_FAILURE", None, Acted::Requeued),
            ("FINISHED", "EXPIRED", None, Acted::Unknown),
            ("PENDING_CANCEL", "CANCELED", Some(1), Acted::Cancelled),
            ("QUEUED", "PENDING", None, Acted::Requeued),
            ("QUEUED", "RETRYING_AFTER_FAILURE", Some(1), Acted::Started),
            ("PENDING_EXECUTING", "PENDING", None, Acted::Requeued),
            ("RUN_CREATED", "PENDING", None, Acted::Unknown),
            ("SOMETHING_NEW", "PENDING", None, Acted::Unknown),
        ];
        for (status, run_status, attempt_number, acted) in cases {
            assert_eq!(
                seen(status, run_status, attempt_number, ""),
                Verdict::Acted { acted, warm_start: false },
                "{status} {run_status}"
            );
        }
    }

    #[test]
    fn the_dispatched_attempt_decides_whether_a_run_that_waits_again_was_started() {
        // The dispatched attempt, the latest one, whether the redrive may have come.
        let cases = [
            ("PENDING_EXECUTING", "PENDING", 1, Some(1), false, Acted::Started),
            ("PENDING_EXECUTING", "PENDING", 2, Some(3), false, Acted::Started),
            // The earlier attempt is not this dispatch's.
            ("PENDING_EXECUTING", "PENDING", 2, Some(1), false, Acted::Requeued),
            ("PENDING_EXECUTING", "PENDING", 1, None, false, Acted::Requeued),
            // The redriven dispatch may have made the attempt.
            ("PENDING_EXECUTING", "PENDING", 1, Some(1), true, Acted::Requeued),
            ("QUEUED", "PENDING", 1, Some(1), false, Acted::Started),
            ("QUEUED", "PENDING", 2, Some(1), false, Acted::Requeued),
            // Ended at the redrive limit, without the dispatched attempt.
            ("FINISHED", "SYSTEM_FAILURE", 2, Some(1), true, Acted::Requeued),
            ("FINISHED", "SYSTEM_FAILURE", 2, Some(2), true, Acted::Finished),
        ];
        for (status, run_status, dispatched, made, is_late, acted) in cases {
            let latest = latest(status, run_status, made, "");
            assert_eq!(latest.depends_on_attempt(&snapshot("snapshot_old")), made.is_some());
            assert_eq!(
                against(Some(dispatched), is_late, Ok(latest)),
                Verdict::Acted { acted, warm_start: false },
                "{status} {run_status}, attempt {dispatched} after {made:?}, late: {is_late}"
            );
        }
        for (status, run_status) in [("EXECUTING", "EXECUTING"), ("FINISHED", "COMPLETED_SUCCESSFULLY")] {
            let latest = latest(status, run_status, Some(1), "");
            assert!(!latest.depends_on_attempt(&snapshot("snapshot_old")), "{status} is clear by itself");
        }
    }

    #[test]
    fn a_warm_start_shows_at_the_end_of_the_description() {
        assert_eq!(
            seen("EXECUTING", "EXECUTING", Some(1), "Attempt created, starting execution (warm start)"),
            Verdict::Acted { acted: Acted::Started, warm_start: true }
        );
    }
}

//! One run's life on the platform: pure transitions, each a new snapshot (platform.md §3).
//!
//! The engine owns the per-run lock around this value, and each step here assumes
//! that the caller has it. Not simulated: waitpoints, checkpoints, and the 300 s
//! heartbeat of a run in execution, so a run whose start answer was lost stays
//! `EXECUTING`.

use chrono::{DateTime, SubsecRound, Utc};
use tokio::time::Instant;

use super::ids::Mint;
use warmproof::domain::ids::{RunId, SnapshotId};
use warmproof::platform::wire::{BaseRun, Completion, ExecutionSnapshot, RunExecutionData, Version};

/// Most attempts of one run.
const ATTEMPTS_MAX: u32 = 250;

/// The execution status of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Execution {
    Queued,
    PendingExecuting,
    Executing,
    PendingCancel,
    Finished,
}

impl Execution {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::PendingExecuting => "PENDING_EXECUTING",
            Self::Executing => "EXECUTING",
            Self::PendingCancel => "PENDING_CANCEL",
            Self::Finished => "FINISHED",
        }
    }
}

/// A refusal with its HTTP status (platform.md §1.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) message: &'static str,
}

/// The effect of an expired heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    Nothing,
    /// Back in the queue, with the count of failed deliveries.
    Requeued(u32),
    /// The delivery limit is reached.
    DeadLettered,
    /// A cancelled run was finished by force: its runner never confirmed.
    CancelForced,
}

#[derive(Debug)]
pub(super) struct Run {
    pub(super) id: RunId,
    pub(super) execution: Execution,
    /// When the heartbeat of the latest snapshot ends.
    pub(super) heartbeat_ends_at: Instant,
    snapshots: Vec<RunExecutionData>,
    attempts: u32,
    failed_deliveries: u32,
    /// Set by the first dequeue and never reset, as on the platform.
    locked: bool,
}

impl Run {
    pub(super) fn queued(mint: &Mint, now: DateTime<Utc>) -> Self {
        let mut run = Self {
            id: mint.run(now),
            execution: Execution::Queued,
            heartbeat_ends_at: Instant::now(),
            snapshots: Vec::new(),
            attempts: 0,
            failed_deliveries: 0,
            locked: false,
        };
        run.write(mint, now, Execution::Queued, "PENDING", "Run was QUEUED");
        run
    }

    /// The latest snapshot. Every run has one from its first moment.
    pub(super) fn latest(&self) -> &RunExecutionData {
        self.snapshots.last().expect("a run is made with a snapshot")
    }

    pub(super) fn latest_id(&self) -> &SnapshotId {
        &self.latest().snapshot.friendly_id
    }

    /// The snapshots after the given one, at most the 50 newest; `None` if the given one does not exist.
    pub(super) fn since(&self, snapshot: &str) -> Option<Vec<RunExecutionData>> {
        let at = self.snapshots.iter().position(|data| data.snapshot.friendly_id.as_str() == snapshot)?;
        let newer = &self.snapshots[at + 1..];
        Some(newer[newer.len().saturating_sub(50)..].to_vec())
    }

    pub(super) const fn next_attempt(&self) -> u32 {
        self.attempts + 1
    }

    /// `None` if it is no longer queued: the queue's entry is dropped, as on the platform.
    pub(super) fn dequeue(&mut self, mint: &Mint, now: DateTime<Utc>) -> Option<()> {
        if self.execution != Execution::Queued {
            return None;
        }
        self.locked = true;
        // Reported as PENDING, never DEQUEUED, as the platform does for old runners.
        self.write(mint, now, Execution::PendingExecuting, "PENDING", "Run was dequeued for execution");
        Some(())
    }

    pub(super) fn start(
        &mut self,
        mint: &Mint,
        now: DateTime<Utc>,
        snapshot: &str,
        warm: bool,
    ) -> Result<(), Refusal> {
        let refuse = |status, message| Err(Refusal { status, message });
        if self.latest_id().as_str() != snapshot {
            return refuse(409, "Snapshot changed inside startRunAttempt");
        }
        if matches!(self.execution, Execution::Finished | Execution::PendingCancel) {
            return refuse(400, "Task run is already finished");
        }
        if !self.locked {
            return refuse(400, "Task run is not locked");
        }
        if self.attempts >= ATTEMPTS_MAX {
            return refuse(400, "Max attempts reached");
        }
        self.attempts += 1;
        let description = if warm {
            "Attempt created, starting execution (warm start)"
        } else {
            "Attempt created, starting execution"
        };
        self.write(mint, now, Execution::Executing, "EXECUTING", description);
        Ok(())
    }

    /// Returns the status word of the attempt.
    pub(super) fn complete(
        &mut self,
        mint: &Mint,
        now: DateTime<Utc>,
        snapshot: &str,
        completion: &Completion,
    ) -> Result<&'static str, Refusal> {
        if self.latest_id().as_str() != snapshot {
            return Err(Refusal { status: 400, message: "Snapshot ID doesn't match the latest snapshot" });
        }
        match (self.execution, completion.ok) {
            (Execution::Finished, _) => {
                return Err(Refusal { status: 400, message: "Run is already finished" });
            }
            (Execution::PendingCancel, _) => {
                self.write(mint, now, Execution::Finished, "CANCELED", "Run was cancelled");
            }
            (_, true) => {
                let description = "Task completed successfully";
                self.write(mint, now, Execution::Finished, "COMPLETED_SUCCESSFULLY", description);
            }
            (_, false) if completion.retry.is_some() => {
                let description = "Attempt failed with a short delay, starting a new attempt";
                self.write(mint, now, Execution::Queued, "RETRYING_AFTER_FAILURE", description);
                return Ok("RETRY_QUEUED");
            }
            (_, false) => {
                self.write(mint, now, Execution::Finished, "COMPLETED_WITH_ERRORS", "Run failed");
            }
        }
        Ok("RUN_FINISHED")
    }

    /// False if it had ended or was already being cancelled.
    pub(super) fn cancel(&mut self, mint: &Mint, now: DateTime<Utc>) -> bool {
        match self.execution {
            Execution::Finished | Execution::PendingCancel => return false,
            Execution::Queued => {
                self.write(mint, now, Execution::Finished, "CANCELED", "Run was cancelled");
            }
            Execution::PendingExecuting | Execution::Executing => {
                self.write(mint, now, Execution::PendingCancel, "CANCELED", "Run was cancelled");
            }
        }
        true
    }

    /// The heartbeat of the latest snapshot ended.
    pub(super) fn expire(&mut self, mint: &Mint, now: DateTime<Utc>, delivery_limit: u32) -> Expired {
        match self.execution {
            Execution::PendingExecuting => {
                self.failed_deliveries += 1;
                if self.failed_deliveries >= delivery_limit {
                    let description = "Run failed: TASK_RUN_DEQUEUED_MAX_RETRIES";
                    self.write(mint, now, Execution::Finished, "SYSTEM_FAILURE", description);
                    return Expired::DeadLettered;
                }
                self.write(mint, now, Execution::Queued, "PENDING", "Requeued the run after a failure");
                Expired::Requeued(self.failed_deliveries)
            }
            Execution::PendingCancel => {
                let description = "Run was cancelled, not finished";
                self.write(mint, now, Execution::Finished, "CANCELED", description);
                Expired::CancelForced
            }
            Execution::Queued | Execution::Executing | Execution::Finished => Expired::Nothing,
        }
    }

    fn write(
        &mut self,
        mint: &Mint,
        now: DateTime<Utc>,
        execution: Execution,
        run_status: &str,
        description: &str,
    ) {
        let (id, friendly_id) = mint.snapshot(now);
        self.execution = execution;
        self.snapshots.push(RunExecutionData {
            version: Version::One,
            snapshot: ExecutionSnapshot {
                id,
                friendly_id,
                execution_status: execution.as_str().to_owned(),
                description: description.to_owned(),
                created_at: now.trunc_subsecs(3),
            },
            run: BaseRun {
                id: self.id.internal().to_owned(),
                friendly_id: self.id.clone(),
                status: run_status.to_owned(),
                attempt_number: (self.attempts > 0).then_some(self.attempts),
                task_event_store: None,
            },
            batch: None,
            checkpoint: None,
            completed_waitpoints: Vec::new(),
        });
    }
}

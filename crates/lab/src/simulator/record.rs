//! The records of the ledger: what it stores of each run.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

use super::options::RunnerKind;
use warmproof::domain::ids::{RunId, SnapshotId};

/// How a run was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StartKind {
    /// By a runner that polled for it.
    Warm,
    /// By a workload created for it.
    Cold,
}

/// One dispatch of a run. Instants are milliseconds since the simulation began.
#[derive(Debug, Clone, Serialize)]
pub struct DispatchRecord {
    /// The snapshot of the dispatch.
    pub snapshot_id: SnapshotId,
    /// When the platform gave it to a supervisor.
    pub dequeued_at_ms: u64,
    /// When the broker wrote it to a poller's socket.
    pub hit_at_ms: Option<u64>,
    /// The kind of that poller; `None` for one that is not simulated.
    pub hit_kind: Option<RunnerKind>,
    /// True if no copy can reach a runner that acts on it.
    pub silently_lost: bool,
    /// When a runner began to execute it.
    pub started_at_ms: Option<u64>,
    /// How it was started.
    pub start_kind: Option<StartKind>,
    /// How many runners executed it; more than one means that a run was executed twice.
    pub executions: u32,
    /// Copies that may still reach a runner.
    #[serde(skip)]
    copies: u32,
}

impl DispatchRecord {
    pub(super) fn dequeued(snapshot: &SnapshotId, now_ms: u64) -> Self {
        Self {
            snapshot_id: snapshot.clone(),
            dequeued_at_ms: now_ms,
            hit_at_ms: None,
            hit_kind: None,
            silently_lost: false,
            started_at_ms: None,
            start_kind: None,
            executions: 0,
            copies: 0,
        }
    }

    pub(super) fn given(&mut self, kind: Option<RunnerKind>, copies: u32, now_ms: u64) {
        self.hit_at_ms = Some(now_ms);
        self.hit_kind = kind;
        self.copies += copies;
        self.silently_lost = false;
    }

    /// True if it was the last copy.
    pub(super) const fn copy_lost(&mut self) -> bool {
        let last = self.copies == 1;
        self.copies = self.copies.saturating_sub(1);
        self.silently_lost |= last;
        last
    }
}

/// All that happened to one run.
#[derive(Debug, Clone, Serialize)]
pub struct RunRecord {
    /// The run.
    pub run_id: RunId,
    /// When it was queued.
    pub queued_at_ms: u64,
    /// Its dispatches, oldest first.
    pub dispatches: Vec<DispatchRecord>,
    /// Attempts that runners executed.
    pub executions: u32,
    /// Workloads created for it.
    pub creates: u32,
    /// How often the redrive requeued it.
    pub redrives: u32,
    /// True if it was cancelled.
    pub cancelled: bool,
    /// When it ended.
    pub finished_at_ms: Option<u64>,
    /// Attempts being executed right now.
    #[serde(skip)]
    pub(super) executing: u32,
}

impl RunRecord {
    pub(super) fn queued(run: &RunId, now_ms: u64) -> Self {
        Self {
            run_id: run.clone(),
            queued_at_ms: now_ms,
            dispatches: Vec::new(),
            executions: 0,
            creates: 0,
            redrives: 0,
            cancelled: false,
            finished_at_ms: None,
            executing: 0,
        }
    }

    pub(super) const fn is_lost(&self) -> bool {
        !self.dispatches.is_empty() && self.executions == 0 && !self.cancelled
    }

    pub(super) fn dispatch(&mut self, snapshot: &SnapshotId) -> Option<&mut DispatchRecord> {
        self.dispatches.iter_mut().rev().find(|dispatch| dispatch.snapshot_id == *snapshot)
    }
}

/// The totals. The first two must stay 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Executions of a dispatch beyond the first, or of a run that was already executing.
    pub double_starts: u64,
    /// Runs that were dispatched and, so far, neither executed nor cancelled.
    pub lost: u64,
    /// Runs queued.
    pub queued: u64,
    /// Messages dequeued.
    pub dequeued: u64,
    /// Dispatches with `didWarmStart: true`.
    pub hits: u64,
    /// Dispatches without a poller.
    pub misses: u64,
    /// Hits that no runner could act on.
    pub silently_lost: u64,
    /// Messages given to a second poller.
    pub duplicate_deliveries: u64,
    /// Start calls that the guard allowed.
    pub starts_granted: u64,
    /// Start calls that it refused.
    pub starts_refused: u64,
    /// Start answers that were dropped.
    pub start_answers_lost: u64,
    /// Executions begun by warm runners.
    pub warm_starts: u64,
    /// Executions begun by cold runners.
    pub cold_starts: u64,
    /// Runs that the redrive requeued.
    pub redrives: u64,
    /// Runs that failed at the delivery limit.
    pub dead_lettered: u64,
    /// Runs cancelled.
    pub cancelled: u64,
    /// Runs that ended.
    pub finished: u64,
    /// Probes that passed authentication.
    pub probes: u64,
    /// Requests refused with 401.
    pub unauthorized: u64,
    /// Create requests that reached the gateway.
    pub creates: u64,
}

/// A copy of the whole ledger; cheap to take, because records are shared until they change.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The instant that all milliseconds count from.
    pub started_at: DateTime<Utc>,
    /// Now.
    pub now_ms: u64,
    /// The totals.
    pub counters: Counters,
    /// Every run in the order it was queued.
    #[serde(serialize_with = "records")]
    pub runs: Vec<Arc<RunRecord>>,
}

fn records<S: Serializer>(runs: &[Arc<RunRecord>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(runs.iter().map(Arc::as_ref))
}

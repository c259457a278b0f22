//! What is written down of each run: the shapes of the ledger.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

use super::options::RunnerKind;
use crate::domain::ids::{RunId, SnapshotId};

/// How a run was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StartKind {
    /// By a runner that polled for it.
    Warm,
    /// By a workload created for it.
    Cold,
}

/// One hand-over of a run. Instants are milliseconds since the simulation began.
#[derive(Debug, Clone, Serialize)]
pub struct DispatchRecord {
    /// The snapshot it was handed over at.
    pub snapshot_id: SnapshotId,
    /// When the platform handed it out.
    pub dequeued_at_ms: u64,
    /// When the broker wrote it to a poller's socket.
    pub hit_at_ms: Option<u64>,
    /// What that poller was; `None` for a foreign one.
    pub hit_kind: Option<RunnerKind>,
    /// No copy of it can reach a runner that acts on it.
    pub silently_lost: bool,
    /// When a runner began to execute it.
    pub started_at_ms: Option<u64>,
    /// How it was started.
    pub start_kind: Option<StartKind>,
    /// Runners that executed it; two is a disaster.
    pub executions: u32,
    /// Copies that are not known to be lost.
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

/// Everything that happened to one run.
#[derive(Debug, Clone, Serialize)]
pub struct RunRecord {
    /// The run.
    pub run_id: RunId,
    /// When it was queued.
    pub queued_at_ms: u64,
    /// Its hand-overs, oldest first.
    pub dispatches: Vec<DispatchRecord>,
    /// Attempts that runners executed.
    pub executions: u32,
    /// Workloads created for it.
    pub creates: u32,
    /// Times the redrive took it back.
    pub redrives: u32,
    /// Somebody cancelled it.
    pub cancelled: bool,
    /// When it was over.
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

/// What was counted. The first two must stay 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Executions of a dispatch, or of a run in execution, beyond the first.
    pub double_starts: u64,
    /// Runs that were handed out and never executed or cancelled, as of now.
    pub lost: u64,
    /// Runs queued.
    pub queued: u64,
    /// Messages handed out.
    pub dequeued: u64,
    /// Dispatches with `didWarmStart: true`.
    pub hits: u64,
    /// Dispatches without a poller.
    pub misses: u64,
    /// Hits that could never be acted on.
    pub silently_lost: u64,
    /// Messages given to a second poller.
    pub duplicate_deliveries: u64,
    /// Start calls that the guard let through.
    pub starts_granted: u64,
    /// Start calls that it refused.
    pub starts_refused: u64,
    /// Start answers that were thrown away.
    pub start_answers_lost: u64,
    /// Executions begun by warm runners.
    pub warm_starts: u64,
    /// Executions begun by cold runners.
    pub cold_starts: u64,
    /// Runs taken back by the redrive.
    pub redrives: u64,
    /// Runs failed by the delivery limit.
    pub dead_lettered: u64,
    /// Runs cancelled.
    pub cancelled: u64,
    /// Runs over.
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

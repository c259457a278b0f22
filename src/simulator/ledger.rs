//! The ground truth: what really became of every run, dispatch and hit.
//!
//! Kept apart from the engine's own guard. Whether a run was executed twice is
//! recorded where runners execute, so that a guard with a hole would show.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::changes::Changes;
use super::clock::Clock;
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
    /// The poller could never act on it.
    pub silently_lost: bool,
    /// When a runner began to execute it.
    pub started_at_ms: Option<u64>,
    /// How it was started.
    pub start_kind: Option<StartKind>,
    /// Runners that executed it; two is a disaster.
    pub executions: u32,
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
    #[serde(skip)]
    executing: u32,
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

/// A copy of the whole ledger.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The instant that all milliseconds count from.
    pub started_at: DateTime<Utc>,
    /// Now.
    pub now_ms: u64,
    /// The totals.
    pub counters: Counters,
    /// Every run in the order it was queued.
    pub runs: Vec<RunRecord>,
}

#[derive(Debug, Default)]
struct Book {
    runs: Vec<RunRecord>,
    index: HashMap<RunId, usize>,
    counters: Counters,
}

impl Book {
    fn run(&mut self, run: &RunId) -> Option<&mut RunRecord> {
        let index = *self.index.get(run)?;
        self.runs.get_mut(index)
    }

    fn dispatch(&mut self, run: &RunId, snapshot: &SnapshotId) -> Option<&mut DispatchRecord> {
        self.run(run)?.dispatches.iter_mut().rev().find(|dispatch| dispatch.snapshot_id == *snapshot)
    }

    fn counters(&self) -> Counters {
        let lost = self
            .runs
            .iter()
            .filter(|run| !run.dispatches.is_empty() && run.executions == 0 && !run.cancelled)
            .count();
        Counters { lost: lost as u64, ..self.counters }
    }
}

/// The book and its clock.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) clock: Clock,
    book: Mutex<Book>,
    changes: Arc<Changes>,
}

impl Ledger {
    pub(super) fn new(clock: Clock, changes: Arc<Changes>) -> Self {
        Self { clock, book: Mutex::default(), changes }
    }

    pub(super) fn counters(&self) -> Counters {
        self.book().counters()
    }

    pub(super) fn report(&self) -> Report {
        let book = self.book();
        Report {
            started_at: self.clock.started_at,
            now_ms: self.clock.now_ms(),
            counters: book.counters(),
            runs: book.runs.clone(),
        }
    }

    pub(super) fn run(&self, run: &RunId) -> Option<RunRecord> {
        self.book().run(run).cloned()
    }

    /// The run's place in the order of queueing.
    pub(super) fn place(&self, run: &RunId) -> u64 {
        self.book().index.get(run).map_or(0, |place| *place as u64)
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.book().counters);
        self.changes.ring();
    }

    pub(super) fn queued(&self, run: &RunId) {
        let queued_at_ms = self.clock.now_ms();
        self.write(|book| {
            book.counters.queued += 1;
            book.index.insert(run.clone(), book.runs.len());
            book.runs.push(RunRecord {
                run_id: run.clone(),
                queued_at_ms,
                dispatches: Vec::new(),
                executions: 0,
                creates: 0,
                redrives: 0,
                cancelled: false,
                finished_at_ms: None,
                executing: 0,
            });
        });
    }

    pub(super) fn dequeued(&self, run: &RunId, snapshot: &SnapshotId) {
        let dequeued_at_ms = self.clock.now_ms();
        self.write(|book| {
            book.counters.dequeued += 1;
            if let Some(record) = book.run(run) {
                record.dispatches.push(DispatchRecord {
                    snapshot_id: snapshot.clone(),
                    dequeued_at_ms,
                    hit_at_ms: None,
                    hit_kind: None,
                    silently_lost: false,
                    started_at_ms: None,
                    start_kind: None,
                    executions: 0,
                });
            }
        });
    }

    pub(super) fn hit(&self, run: &RunId, snapshot: &SnapshotId, kind: Option<RunnerKind>) {
        let now_ms = self.clock.now_ms();
        let loses = kind.is_some_and(RunnerKind::loses);
        self.write(|book| {
            book.counters.hits += 1;
            book.counters.silently_lost += u64::from(loses);
            if let Some(dispatch) = book.dispatch(run, snapshot) {
                dispatch.hit_at_ms = Some(now_ms);
                dispatch.hit_kind = kind;
                dispatch.silently_lost = loses;
            }
        });
    }

    /// A runner begins to execute. Called where runners live, not where the guard is.
    pub(super) fn execution_began(&self, run: &RunId, snapshot: &SnapshotId, kind: StartKind) {
        let now_ms = self.clock.now_ms();
        self.write(|book| {
            match kind {
                StartKind::Warm => book.counters.warm_starts += 1,
                StartKind::Cold => book.counters.cold_starts += 1,
            }
            let mut twice = false;
            if let Some(record) = book.run(run) {
                twice |= record.executing > 0;
                record.executing += 1;
                record.executions += 1;
            }
            if let Some(dispatch) = book.dispatch(run, snapshot) {
                twice |= dispatch.executions > 0;
                dispatch.executions += 1;
                dispatch.started_at_ms.get_or_insert(now_ms);
                dispatch.start_kind.get_or_insert(kind);
            }
            book.counters.double_starts += u64::from(twice);
        });
    }

    pub(super) fn execution_ended(&self, run: &RunId) {
        self.write(|book| {
            if let Some(record) = book.run(run) {
                record.executing = record.executing.saturating_sub(1);
            }
        });
    }

    pub(super) fn created(&self, run: &RunId) {
        self.write(|book| {
            if let Some(record) = book.run(run) {
                record.creates += 1;
            }
        });
    }

    pub(super) fn redriven(&self, run: &RunId) {
        self.write(|book| {
            book.counters.redrives += 1;
            if let Some(record) = book.run(run) {
                record.redrives += 1;
            }
        });
    }

    pub(super) fn cancelled(&self, run: &RunId) {
        self.write(|book| {
            book.counters.cancelled += 1;
            if let Some(record) = book.run(run) {
                record.cancelled = true;
            }
        });
    }

    pub(super) fn finished(&self, run: &RunId) {
        let now_ms = self.clock.now_ms();
        self.write(|book| {
            book.counters.finished += 1;
            if let Some(record) = book.run(run) {
                record.finished_at_ms = Some(now_ms);
            }
        });
    }

    fn write(&self, change: impl FnOnce(&mut Book)) {
        change(&mut self.book());
        self.changes.ring();
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Every change is a few assignments; a panic in between leaves nothing half done worth hiding.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

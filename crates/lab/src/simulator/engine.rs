//! The run engine: the queue, the per-run lock, and the heartbeats that cause redrives.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::value::RawValue;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::changes::Changes;
use super::ids::Mint;
use super::ledger::Ledger;
use super::message;
use super::options::SimulatorOptions;
use super::run::{Execution, Expired, Refusal, Run};
use warmproof::domain::ids::{RunId, SnapshotId};
use warmproof::platform::wire::{Completion, RunExecutionData};

/// The platform adds this to every backoff.
const REQUEUE_DEBOUNCE: Duration = Duration::from_millis(200);
/// The platform's longest backoff.
const BACKOFF_MAX: Duration = Duration::from_hours(1);

/// A run behind its lock. The tokio lock is fair, like the platform's.
type Cell = Arc<Mutex<Run>>;

pub(super) struct RunEngine {
    options: SimulatorOptions,
    runs: SyncMutex<HashMap<RunId, Cell>>,
    queue: SyncMutex<VecDeque<RunId>>,
    mint: Mint,
    ledger: Arc<Ledger>,
    changes: Arc<Changes>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl RunEngine {
    pub(super) fn new(
        options: SimulatorOptions,
        ledger: Arc<Ledger>,
        changes: Arc<Changes>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let (runs, queue, mint) = Default::default();
        Arc::new(Self { options, runs, queue, mint, ledger, changes, tasks, stop })
    }

    pub(super) fn queue_run(&self) -> RunId {
        let run = Run::queued(&self.mint, self.now());
        let id = run.id.clone();
        self.ledger.queued(&id);
        self.runs().insert(id.clone(), Arc::new(Mutex::new(run)));
        self.push(id.clone());
        id
    }

    /// The next message, waiting a while for one.
    pub(super) async fn dequeue_within(self: &Arc<Self>, block: Duration) -> Option<Box<RawValue>> {
        let deadline = Instant::now() + block;
        loop {
            // In its own task: a caller that disconnects midway must not lose a run.
            let engine = Arc::clone(self);
            if let Ok(Some(message)) = self.tasks.spawn(async move { engine.dequeue().await }).await {
                return Some(message);
            }
            let wait = deadline.saturating_duration_since(Instant::now());
            let nonempty = || (!self.queue().is_empty()).then_some(());
            self.changes.within(wait, nonempty).await?;
        }
    }

    /// The next message, if there is one. Writes the snapshot and starts the redrive's timer.
    pub(super) async fn dequeue(self: &Arc<Self>) -> Option<Box<RawValue>> {
        loop {
            let (id, left) = {
                let mut queue = self.queue();
                (queue.pop_front()?, queue.len())
            };
            let Some(cell) = self.cell(&id) else { continue };
            let mut run = cell.lock().await;
            let now = self.now();
            if run.dequeue(&self.mint, now).is_none() {
                continue;
            }
            self.ledger.dequeued(&id, run.latest_id());
            self.arm(&cell, &mut run);
            return Some(message::dequeued(&run, left, now));
        }
    }

    pub(super) async fn latest(&self, run: &RunId) -> Option<RunExecutionData> {
        let cell = self.cell(run)?;
        let run = cell.lock().await;
        Some(run.latest().clone())
    }

    pub(super) async fn since(&self, run: &RunId, snapshot: &str) -> Option<Vec<RunExecutionData>> {
        let cell = self.cell(run)?;
        let run = cell.lock().await;
        run.since(snapshot)
    }

    /// `None` for an unknown run.
    pub(super) async fn start(
        &self,
        run: &RunId,
        snapshot: &str,
        warm: bool,
    ) -> Option<Result<RunExecutionData, Refusal>> {
        let cell = self.cell(run)?;
        let mut run = cell.lock().await;
        let started = run.start(&self.mint, self.now(), snapshot, warm);
        self.ledger.count(|counters| match &started {
            Ok(()) => counters.starts_granted += 1,
            Err(_) => counters.starts_refused += 1,
        });
        Some(started.map(|()| run.latest().clone()))
    }

    /// `None` for an unknown run.
    pub(super) async fn complete(
        self: &Arc<Self>,
        run: &RunId,
        snapshot: &str,
        completion: &Completion,
    ) -> Option<Result<(&'static str, RunExecutionData), Refusal>> {
        let cell = self.cell(run)?;
        let mut run = cell.lock().await;
        let completed = run.complete(&self.mint, self.now(), snapshot, completion);
        if completed.is_ok() {
            if run.execution == Execution::Finished {
                self.ledger.finished(&run.id);
            } else {
                let delay_ms = completion.retry.map_or(0.0, |retry| retry.delay.max(0.0));
                let delay = Duration::try_from_secs_f64(delay_ms / 1000.0).unwrap_or(BACKOFF_MAX);
                self.push_later(run.id.clone(), delay);
            }
        }
        Some(completed.map(|status| (status, run.latest().clone())))
    }

    /// A run heartbeat: extends the latest snapshot, in every status. A stale heartbeat is no error.
    /// False for an unknown run.
    pub(super) async fn heartbeat(&self, run: &RunId, snapshot: &str) -> bool {
        let Some(cell) = self.cell(run) else { return false };
        let mut run = cell.lock().await;
        if run.latest_id().as_str() == snapshot {
            run.heartbeat_ends_at = Instant::now() + self.heartbeat_of(run.execution);
        }
        true
    }

    /// False if there was nothing to cancel.
    pub(super) async fn cancel(self: &Arc<Self>, id: &RunId) -> bool {
        let Some(cell) = self.cell(id) else { return false };
        let mut run = cell.lock().await;
        let cancelled = run.cancel(&self.mint, self.now());
        if cancelled {
            self.ledger.cancelled(id);
            match run.execution {
                Execution::Finished => self.ledger.finished(id),
                Execution::Queued
                | Execution::PendingExecuting
                | Execution::Executing
                | Execution::PendingCancel => self.arm(&cell, &mut run),
            }
        }
        cancelled
    }

    fn heartbeat_of(&self, execution: Execution) -> Duration {
        match execution {
            Execution::PendingExecuting => self.options.redrive,
            Execution::PendingCancel => self.options.cancel_confirm,
            Execution::Queued | Execution::Executing | Execution::Finished => Duration::ZERO,
        }
    }

    /// One delayed check per snapshot. It acts only if that snapshot is still the latest.
    fn arm(self: &Arc<Self>, cell: &Cell, run: &mut Run) {
        let after = self.heartbeat_of(run.execution);
        if after.is_zero() {
            return;
        }
        run.heartbeat_ends_at = Instant::now() + after;
        let (engine, cell) = (Arc::clone(self), Arc::clone(cell));
        let (snapshot, ends_at) = (run.latest_id().clone(), run.heartbeat_ends_at);
        self.tasks.spawn(async move {
            let stop = engine.stop.clone();
            stop.run_until_cancelled(engine.watch(&cell, &snapshot, ends_at)).await;
        });
    }

    async fn watch(self: &Arc<Self>, cell: &Cell, snapshot: &SnapshotId, mut ends_at: Instant) {
        loop {
            tokio::time::sleep_until(ends_at).await;
            let mut run = cell.lock().await;
            if run.latest_id() != snapshot {
                return;
            }
            if run.heartbeat_ends_at > ends_at {
                ends_at = run.heartbeat_ends_at;
                continue;
            }
            match run.expire(&self.mint, self.now(), self.options.delivery_limit) {
                Expired::Nothing => {}
                Expired::Requeued(failed_deliveries) => {
                    self.ledger.redriven(&run.id);
                    self.push_later(run.id.clone(), self.backoff(&run.id, failed_deliveries));
                }
                Expired::DeadLettered => {
                    self.ledger.count(|counters| counters.dead_lettered += 1);
                    self.ledger.finished(&run.id);
                }
                Expired::CancelForced => self.ledger.finished(&run.id),
            }
            return;
        }
    }

    /// `1000 × 2^(n-1) × random(1..2)` ms plus the debounce (platform.md §3.3), scaled.
    fn backoff(&self, run: &RunId, failed_deliveries: u32) -> Duration {
        // From the run's position in the queue, not from its id, so that a seed gives the same result.
        let place = self.ledger.place(run);
        let mut rng = StdRng::seed_from_u64(self.options.seed ^ (place << 8) ^ u64::from(failed_deliveries));
        let doubled = f64::from(2u32.saturating_pow(failed_deliveries.saturating_sub(1)));
        let seconds = (doubled * rng.random_range(1.0..2.0)).min(BACKOFF_MAX.as_secs_f64());
        (Duration::from_secs_f64(seconds) + REQUEUE_DEBOUNCE).mul_f64(self.options.backoff_scale.max(0.0))
    }

    fn push_later(self: &Arc<Self>, run: RunId, after: Duration) {
        let engine = Arc::clone(self);
        self.tasks.spawn(async move {
            let stop = engine.stop.clone();
            if stop.run_until_cancelled(tokio::time::sleep(after)).await.is_some() {
                engine.push(run);
            }
        });
    }

    fn push(&self, run: RunId) {
        self.queue().push_back(run);
        self.changes.ring();
    }

    fn now(&self) -> DateTime<Utc> {
        self.ledger.clock.now()
    }

    pub(super) fn cell(&self, run: &RunId) -> Option<Cell> {
        self.runs().get(run).cloned()
    }

    fn runs(&self) -> std::sync::MutexGuard<'_, HashMap<RunId, Cell>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<RunId>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! State that all parts of a running simulation share.

use std::sync::Arc;

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::changes::Changes;
use super::clock::Clock;
use super::engine::RunEngine;
use super::fault::Faults;
use super::instances::Instances;
use super::ledger::Ledger;
use super::options::SimulatorOptions;
use super::polls::Broker;
use super::visits::Visits;
use warmproof::domain::ids::{RunId, SnapshotId};
use warmproof::platform;

/// How many announcements a slow subscriber may lag before it misses some.
const CONNECTED_BACKLOG: usize = 16 * 1024;

/// A runner announced itself for a run, as on the supervisor's workload socket (platform.md §4.3).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RunConnected {
    /// The run.
    pub run: RunId,
    /// The snapshot of the dispatch.
    pub snapshot: SnapshotId,
}

pub(super) struct Core {
    pub(super) options: SimulatorOptions,
    pub(super) base_url: String,
    pub(super) changes: Arc<Changes>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) engine: Arc<RunEngine>,
    pub(super) broker: Broker,
    pub(super) instances: Instances,
    pub(super) faults: Faults,
    pub(super) probes: Arc<Visits>,
    pub(super) creates: Arc<Visits>,
    pub(super) connected: broadcast::Sender<RunConnected>,
    pub(super) platform: platform::Client,
    pub(super) http: reqwest::Client,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl Core {
    pub(super) fn new(
        options: SimulatorOptions,
        base_url: String,
        platform: platform::Client,
        http: reqwest::Client,
    ) -> Arc<Self> {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let changes = Arc::new(Changes::default());
        let clock = Clock::start();
        let ledger = Arc::new(Ledger::new(clock, Arc::clone(&changes)));
        let engine = RunEngine::new(
            options.clone(),
            Arc::clone(&ledger),
            Arc::clone(&changes),
            tasks.clone(),
            stop.clone(),
        );
        Arc::new(Self {
            base_url,
            broker: Broker::new(Arc::clone(&changes), Arc::clone(&ledger)),
            instances: Instances::default(),
            faults: Faults::seeded(options.seed),
            probes: Visits::new(clock, Arc::clone(&changes)),
            creates: Visits::new(clock, Arc::clone(&changes)),
            connected: broadcast::Sender::new(CONNECTED_BACKLOG),
            changes,
            ledger,
            engine,
            platform,
            http,
            tasks,
            stop,
            options,
        })
    }

    /// Spawns a task that ends with the simulation at the latest.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }
}

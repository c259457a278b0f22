//! A small supervisor: dequeue, warm-start, schedule or cold-start, cancel on connect.
//!
//! It uses the library as a Rust supervisor would. The demo and the tests use it as their
//! supervisor. It is not for production: a real supervisor also restores checkpoints,
//! scales its consumers and serves the workload API.

pub mod settings;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use chrono::Utc;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use warmproof::domain::backoff::Backoff;
use warmproof::domain::dispatch::{ColdStartRequest, Dispatch};
use warmproof::domain::ids::{RunId, SnapshotId, SupervisorName};
use warmproof::domain::verification::{CancelReason, Cancellation};
use warmproof::platform::{self, wire::WarmStartAnswer};
use warmproof::scheduler::{Hit, ScheduleError, Scheduler};
use warmproof::workload::{CreateRequest, Workload};

/// How long a broker may take; a hung one must not block a dequeued run (platform.md §9.21).
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait after a failure of the platform or the database.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(2) };
/// How often to try to schedule a hit before it is left to the platform's redrive.
const SCHEDULE_ATTEMPTS: u32 = 8;
/// Most messages handled at a time; a slow one must not block the queue.
const MESSAGES_IN_FLIGHT: usize = 64;

/// A runner has connected, as the supervisor's workload socket reports.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Connected {
    /// The run that it took.
    pub run: RunId,
    /// The snapshot at which it took the run.
    pub snapshot: SnapshotId,
}

/// The runs whose dispatch is in progress. A runner may connect before the broker has answered and the
/// verification is scheduled. Its cancel waits here; otherwise it would find nothing to cancel.
#[derive(Debug, Default)]
struct UnderWay(std::sync::Mutex<HashMap<RunId, Arc<Mutex<()>>>>);

impl UnderWay {
    fn of(&self, run: &RunId) -> Option<Arc<Mutex<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(run).cloned()
    }

    async fn begin(&self, run: &RunId) -> OwnedMutexGuard<()> {
        let gate = Arc::new(Mutex::new(()));
        let guard = Arc::clone(&gate).lock_owned().await;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(run.clone(), gate);
        guard
    }

    fn end(&self, run: &RunId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(run);
    }
}

/// A supervisor and the clients that it uses.
#[derive(Debug, Clone)]
pub struct Supervisor {
    /// Its name in reports.
    pub name: SupervisorName,
    /// The platform's worker API.
    pub platform: platform::Client,
    /// The broker's base; `/warm-start` is below it (platform.md §4.1).
    pub broker: Url,
    /// Client for the broker.
    pub http: reqwest::Client,
    /// Schedules and cancels verifications; does nothing when verification is off.
    pub scheduler: Scheduler,
    /// Makes workloads for runs that found no warm runner.
    pub workload: Workload,
    /// Pause after a non-empty dequeue.
    pub dequeue_interval: Duration,
}

impl Supervisor {
    /// Supervises until `stop`, then finishes the messages in flight.
    pub async fn run(self, connected: mpsc::Receiver<Connected>, stop: CancellationToken) {
        let supervisor = Arc::new(self);
        let tasks = TaskTracker::new();
        let under_way = Arc::new(UnderWay::default());
        tasks.spawn(Arc::clone(&supervisor).hear(connected, Arc::clone(&under_way), stop.clone()));
        supervisor.dequeue(&tasks, &under_way, &stop).await;
        tasks.close();
        tasks.wait().await;
    }

    /// Dequeues until `stop`. It never drops a dequeue in flight: no supervisor would get its run.
    async fn dequeue(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        under_way: &Arc<UnderWay>,
        stop: &CancellationToken,
    ) {
        let places = Arc::new(Semaphore::new(MESSAGES_IN_FLIGHT));
        let mut failures = 0;
        while !stop.is_cancelled() {
            let pause = match self.platform.dequeue().await {
                Ok(messages) => {
                    failures = 0;
                    for message in messages {
                        let (supervisor, places) = (Arc::clone(self), Arc::clone(&places));
                        let under_way = Arc::clone(under_way);
                        tasks.spawn(async move {
                            let _place = places.acquire_owned().await;
                            supervisor.handle(message, &under_way).await;
                        });
                    }
                    self.dequeue_interval
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, "could not dequeue");
                    BACKOFF.delay(failures, rand::random())
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Cancels the verification of each connected run, after the run's dispatch has ended.
    async fn hear(
        self: Arc<Self>,
        mut connected: mpsc::Receiver<Connected>,
        under_way: Arc<UnderWay>,
        stop: CancellationToken,
    ) {
        let cancels = TaskTracker::new();
        while let Some(Some(one)) = stop.run_until_cancelled(connected.recv()).await {
            let (supervisor, gate) = (Arc::clone(&self), under_way.of(&one.run));
            cancels.spawn(async move {
                if let Some(gate) = gate {
                    drop(gate.lock().await);
                }
                supervisor.cancel(one).await;
            });
        }
        cancels.close();
        cancels.wait().await;
    }

    async fn handle(&self, message: Box<RawValue>, under_way: &UnderWay) {
        let dispatch = match Dispatch::parse(message, None) {
            Ok(dispatch) => dispatch,
            Err(error) => return tracing::error!(%error, "could not read a dequeued message"),
        };
        let run = dispatch.run_id.clone();
        let gate = under_way.begin(&run).await;
        self.dispatch(dispatch).await;
        under_way.end(&run);
        drop(gate);
    }

    async fn dispatch(&self, dispatch: Dispatch) {
        if self.warm_start(&dispatch.message).await {
            self.schedule(dispatch).await;
        } else {
            self.cold_start(&dispatch.message).await;
        }
    }

    /// Offers the run to the broker. Every answer except a clear yes is a miss.
    async fn warm_start(&self, message: &RawValue) -> bool {
        let mut url = self.broker.clone();
        url.set_path("/warm-start");
        let request =
            self.http.post(url).timeout(BROKER_TIMEOUT).json(&json!({ "dequeuedMessage": message }));
        let answered =
            async { request.send().await?.error_for_status()?.json::<WarmStartAnswer>().await }.await;
        match answered {
            Ok(answer) => answer.did_warm_start,
            Err(error) => {
                tracing::warn!(error = %error.without_url(), "could not offer a run to the broker");
                false
            }
        }
    }

    /// Schedules a verification: a hit proves nothing.
    async fn schedule(&self, dispatch: Dispatch) {
        for attempt in 1..=SCHEDULE_ATTEMPTS {
            let hit = Hit::new(dispatch.clone()).supervisor(self.name.clone());
            match self.scheduler.schedule(hit).await {
                Ok(scheduled) => return tracing::debug!(run.id = %dispatch.run_id, ?scheduled, "hit"),
                Err(ScheduleError::Store(error)) => {
                    tracing::warn!(%error, run.id = %dispatch.run_id, "could not schedule, trying again");
                    tokio::time::sleep(BACKOFF.delay(attempt, rand::random())).await;
                }
                Err(error) => {
                    return tracing::error!(%error, run.id = %dispatch.run_id, "could not schedule a hit");
                }
            }
        }
        tracing::error!(run.id = %dispatch.run_id, "gave up on scheduling a hit: only the redrive remains");
    }

    async fn cold_start(&self, message: &RawValue) {
        let request = match ColdStartRequest::parse(message.get()) {
            Ok(request) => request,
            Err(error) => return tracing::error!(%error, "could not read a run to cold-start"),
        };
        let create = CreateRequest {
            name: request.workload_name(),
            verification_id: None,
            timings: None,
            pod_scheduled_at_ms: now_ms(),
            request_id: None,
            traceparent: request.traceparent(),
            request,
            message: message.get().to_owned(),
        };
        let created = match self.workload.prepare(&create).await {
            Ok(()) => self.workload.create(create).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = created {
            tracing::error!(%error, "could not cold-start a run; the platform's redrive remains");
        }
    }

    /// The runner has connected, so no probe is needed.
    async fn cancel(&self, connected: Connected) {
        let cancellation = Cancellation {
            run_id: connected.run,
            snapshot_id: Some(connected.snapshot),
            reason: CancelReason::Connected,
        };
        // Not retried: a lost cancel costs one probe.
        if let Err(error) = self.scheduler.cancel(cancellation).await {
            tracing::warn!(%error, "could not cancel");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the platform's field needs the wall clock of the caller")]
fn now_ms() -> i64 {
    Utc::now().timestamp_millis()
}

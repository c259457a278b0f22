//! The platform of a test: an in-process simulator that does nothing by itself.

use std::time::Duration;

use serde_json::value::RawValue;
use tokio::net::TcpListener;
use warmproof::config::platform::PlatformConfig;
use warmproof::domain::dispatch::Dispatch;
use warmproof::domain::ids::{RunId, SnapshotId, SupervisorName};
use warmproof::platform::wire::{Completion, Retry};
use warmproof::platform::{CallError, Client};
use warmproof::scheduler::{Hit, Scheduler};
use warmproof_lab::simulator::{Simulator, SimulatorOptions, Visit};

use super::db::Db;
use super::wait::within;

/// The shortest delay there is.
pub const SOON: Duration = Duration::from_secs(1);

/// A dispatch that went to a runner which will never act on it.
#[derive(Debug, Clone)]
pub struct Dispatched {
    pub run: RunId,
    pub snapshot: SnapshotId,
    pub message: Box<RawValue>,
}

pub struct Platform {
    pub simulator: Simulator,
}

/// No redrive, no pollers, cold starts that boot at once.
pub fn options() -> SimulatorOptions {
    SimulatorOptions {
        dequeue_block: Duration::from_millis(1),
        redrive: Duration::ZERO,
        cancel_confirm: Duration::ZERO,
        backoff_scale: 0.0,
        execute: Duration::from_millis(1),
        boot: Duration::from_millis(50),
        cold_runners_poll: false,
        start_retry_delay: Duration::from_millis(1),
        ..SimulatorOptions::default()
    }
}

impl Platform {
    pub async fn start(options: SimulatorOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self { simulator: Simulator::start(listener, options).expect("a simulation") }
    }

    /// Takes a run off the queue for a runner that is dead.
    pub async fn dispatch(&self) -> Dispatched {
        self.simulator.queue_run();
        self.dispatch_queued().await
    }

    /// Takes the next run off the queue once there is one.
    pub async fn dispatch_queued(&self) -> Dispatched {
        let simulator = &self.simulator;
        let message = super::wait::until("a run is queued", async || simulator.dequeue_now().await).await;
        let Dispatch { run_id: run, snapshot_id: snapshot, .. } =
            Dispatch::parse(message.clone(), None).expect("a dispatch");
        Dispatched { run, snapshot, message }
    }

    /// A dispatch that a supervisor asks us to verify, soon.
    pub async fn hit(&self, db: &Db) -> Dispatched {
        self.hit_due_in(db, SOON).await
    }

    pub async fn hit_due_in(&self, db: &Db, delay: Duration) -> Dispatched {
        let dispatched = self.dispatch().await;
        dispatched.schedule(db, delay).await;
        dispatched
    }

    /// A warm runner starts the attempt after all.
    pub async fn start_warm(&self, dispatched: &Dispatched) {
        assert!(self.try_start_warm(dispatched).await, "the guard refused {}", dispatched.run);
    }

    /// A warm runner tries to start the attempt; false if the guard refuses it, because another runner was first.
    pub async fn try_start_warm(&self, dispatched: &Dispatched) -> bool {
        let started = self.runner().start_attempt(&dispatched.run, &dispatched.snapshot, true).await;
        match started {
            Ok(_) => true,
            Err(CallError::Status { status: 409, .. }) => false,
            Err(error) => panic!("{}: {error}", dispatched.run),
        }
    }

    /// A runner starts the attempt, and it fails at once; the platform queues the run for its next attempt.
    pub async fn fail_warm(&self, dispatched: &Dispatched) {
        let (run, runner) = (&dispatched.run, self.runner());
        let started = runner.start_attempt(run, &dispatched.snapshot, true).await.expect("a start");
        let failed = Completion {
            ok: false,
            id: run.to_string(),
            output_type: None,
            error: Some(serde_json::json!({})),
            retry: Some(Retry { timestamp: 0.0, delay: 0.0 }),
        };
        let queued =
            runner.complete_attempt(run, &started.snapshot.friendly_id, failed).await.expect("an end");
        assert_eq!(queued.attempt_status, "RETRY_QUEUED");
    }

    fn runner(&self) -> Client {
        let client = Client::new(&PlatformConfig {
            api_url: self.simulator.base_url().parse().expect("a URL"),
            worker_token: SimulatorOptions::default().worker_token,
            managed_secret: SimulatorOptions::default().managed_secret,
            instance_name: "runner-of-the-test".to_owned(),
            probe_timeout: Duration::from_secs(2),
            redrive: warmproof::domain::claim::REDRIVE_DEFAULT,
        });
        client.expect("a client")
    }

    pub async fn probe(&self, dispatched: &Dispatched, nth: usize) -> Visit {
        let what = format!("probe {nth} of {} arrives", dispatched.run);
        within(&what, self.simulator.wait_for_probe(&dispatched.run, nth)).await
    }

    pub async fn create(&self, dispatched: &Dispatched, nth: usize) -> Visit {
        let what = format!("create {nth} of {} arrives", dispatched.run);
        within(&what, self.simulator.wait_for_create(&dispatched.run, nth)).await
    }

    /// Waits until a cold runner executes the run.
    pub async fn executed(&self, dispatched: &Dispatched) {
        let what = format!("{} is executed", dispatched.run);
        within(&what, self.simulator.wait_for_record(&dispatched.run, |record| record.executions > 0)).await;
    }
}

impl Dispatched {
    /// Schedules a hit as a supervisor does.
    pub async fn schedule(&self, db: &Db, delay: Duration) {
        let scheduler = Scheduler::new(&db.store, delay);
        let dispatch = Dispatch::parse(self.message.clone(), None).expect("a dispatch");
        let hit = Hit::new(dispatch).supervisor(SupervisorName::parse("supervisor-1").expect("a name"));
        let _answer = scheduler.schedule(hit).await.expect("a promise").expect("an answer");
    }
}

//! The five behaviours of the platform's own verifier, shown by a worker in this process against a real database
//! and the simulated platform.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use warmproof::config::WorkerSettings;
use warmproof::config::verify::Switch;
use warmproof::domain::dispatch::Dispatch;
use warmproof::domain::outcome::{FallbackResult, OutcomeKind, Reason};
use warmproof::domain::verification::{CancelReason, Cancelled, NewVerification, ScheduleResult};
use warmproof::store::Store;
use warmproof::store::connect::Role;
use warmproof::telemetry::event::{EventSink, Events, WideEvent};
use warmproof::worker::{Served, Worker};
use warmproof_lab::simulator::{ProbeFault, Rule, SimulatorOptions, StartKind};

use warmproof_testkit::dispatch::{cancellation, hit, schedule};
use warmproof_testkit::gateway::RecordingGateway;
use warmproof_testkit::platform::{Dispatched, SOON, options};
use warmproof_testkit::process::Program;
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::within;

/// A worker in this process, and the events it reported.
struct InProcess {
    stop: CancellationToken,
    task: JoinHandle<()>,
    events: Arc<Kept>,
}

/// Events, kept until the test reads them.
#[derive(Debug, Default)]
struct Kept(Mutex<Vec<WideEvent>>);

impl EventSink for Kept {
    fn emit(&self, event: WideEvent) {
        self.0.lock().unwrap().push(event);
    }
}

impl InProcess {
    async fn start(program: Program) -> Self {
        let Switch::Enabled(settings) = WorkerSettings::from_environment(&program.environment()).unwrap()
        else {
            panic!("verification is off");
        };
        let store = Store::connect(&settings.database, Role::Callers).await.unwrap();
        let pools = Served::set_up(&settings.pools).unwrap();
        let (stop, events) = (CancellationToken::new(), Arc::<Kept>::default());
        let worker = Worker::builder(settings.worker, store, pools)
            .events(Events::Custom(Arc::<Kept>::clone(&events)))
            .run(stop.clone());
        let task = tokio::spawn(async move {
            assert_eq!(worker.await.unwrap().released, 0);
        });
        Self { stop, task, events }
    }

    /// Stops it and returns the events it reported about a run.
    async fn reported_of(self, dispatched: &Dispatched) -> Vec<Value> {
        self.stop.cancel();
        within("the worker stops", self.task).await.unwrap();
        let events = self.events.0.lock().unwrap();
        let events = events.iter().map(|event| serde_json::to_value(event).unwrap());
        events.filter(|event| event["meta.run_id"] == dispatched.run.as_str()).collect()
    }
}

#[tokio::test]
async fn an_unchanged_snapshot_is_cold_started_with_the_original_message() {
    let stage = Stage::set().await;
    let gateway = RecordingGateway::before(stage.platform.simulator.base_url()).await;
    let worker = InProcess::start(stage.worker("a").env("COMPUTE_GATEWAY_URL", &gateway.base_url)).await;

    let lost = stage.platform.dispatch().await;
    let timings = json!({ "warmStartCheckMs": 12 });
    let raw = serde_json::value::to_raw_value(&timings).unwrap();
    let new = NewVerification {
        dispatch: Dispatch::parse(lost.message.clone(), Some(raw)).unwrap(),
        delay: Some(SOON),
        ..hit("run_x", "snapshot_x", chrono::TimeDelta::zero())
    };
    assert_eq!(schedule(&stage.db.store, new).await.result, ScheduleResult::Created);
    let kept: String = stage.db.value("select timings from pending").await;
    assert_eq!(serde_json::from_str::<Value>(&kept).unwrap(), timings);

    let outcome = stage.outcome(&lost.run).await;
    assert_eq!(
        (outcome.outcome.as_str(), outcome.fallback_result.map(FallbackResult::as_str)),
        ("fallback", Some("created"))
    );
    assert_eq!((outcome.probe_count, outcome.create_count), (1, 1));

    let message: Value = serde_json::from_str(lost.message.get()).unwrap();
    let bodies = gateway.bodies();
    assert_eq!(bodies.len(), 1, "{bodies:#?}");
    let asked = &bodies[0];
    let suffix: String =
        lost.snapshot.as_str().chars().rev().take(8).collect::<Vec<_>>().iter().rev().collect();
    assert!(asked["name"].as_str().unwrap().ends_with(&suffix), "{}", asked["name"]);
    assert_eq!(Some(asked["name"].as_str().unwrap()), outcome.workload.as_deref());
    let image = message["image"].as_str().unwrap();
    assert_eq!(asked["image"], image.split('@').next().unwrap(), "by tag");
    assert_eq!(asked["env"]["TRIGGER_RUN_ID"], lost.run.as_str());
    assert_eq!(asked["env"]["TRIGGER_SNAPSHOT_ID"], lost.snapshot.as_str());
    assert_eq!(asked["env"]["TRIGGER_ENV_ID"], message["environment"]["id"]);
    assert_eq!(asked["env"]["TRIGGER_DEQUEUED_AT_MS"], dequeued_at_ms(&message));
    assert_eq!(asked["cpu"], message["run"]["machine"]["cpu"]);
    assert_eq!(asked["memory_gb"], message["run"]["machine"]["memory"]);
    assert_eq!(asked["metadata"]["verificationId"], outcome.id.to_string());

    stage.platform.executed(&lost).await;
    let record = stage.platform.simulator.record_of(&lost.run).unwrap();
    assert_eq!(record.dispatches[0].start_kind, Some(StartKind::Cold));
    assert_eq!((record.executions, record.creates), (1, 1));
    assert_eq!(worker.reported_of(&lost).await.len(), 1);
    stage.assert_sound().await;
}

fn dequeued_at_ms(message: &Value) -> String {
    let at: chrono::DateTime<chrono::Utc> = serde_json::from_value(message["dequeuedAt"].clone()).unwrap();
    at.timestamp_millis().to_string()
}

#[tokio::test]
async fn a_snapshot_that_moved_on_starts_nothing() {
    let stage = Stage::set().await;
    let worker = InProcess::start(stage.worker("a")).await;
    let alive = stage.hit().await;
    stage.platform.start_warm(&alive).await;
    let outcome = stage.outcome(&alive.run).await;
    assert_eq!(
        (outcome.outcome.as_str(), outcome.reason.map(Reason::as_str)),
        ("delivered", Some("started"))
    );
    assert_eq!((outcome.probe_count, outcome.create_count, outcome.lost_at), (1, 0, None));
    assert!(stage.platform.simulator.creates(&alive.run).is_empty());
    let reported = worker.reported_of(&alive).await;
    assert_eq!(reported.len(), 1);
    assert_eq!(
        (&reported[0]["outcome"], &reported[0]["op"]),
        (&json!("delivered"), &json!("warmstart.verify"))
    );
    stage.assert_sound().await;
}

#[tokio::test]
async fn a_failed_probe_never_starts_anything_and_is_recorded_by_its_name() {
    let stage = Stage::set().await;
    let program = stage
        .worker("a")
        .env("WARMPROOF_PROBE_ATTEMPTS", 3)
        .env("WARMPROOF_PROBE_TIMEOUT_MS", 300)
        .env("WARMPROOF_PROBE_BACKOFF_BASE_MS", 10)
        .env("WARMPROOF_PROBE_BACKOFF_MAX_MS", 10);
    let worker = InProcess::start(program).await;
    let cases = [
        (ProbeFault::Hang, "timeout"),
        (ProbeFault::Delay { delay_ms: 60_000 }, "timeout"),
        (ProbeFault::Status { status: 500 }, "server_error"),
        (ProbeFault::Status { status: 503 }, "server_error"),
        (ProbeFault::Status { status: 401 }, "unauthorized"),
        (ProbeFault::Status { status: 404 }, "unexpected_status"),
        (ProbeFault::RateLimited { reset_after_ms: None }, "rate_limited"),
        (ProbeFault::RateLimited { reset_after_ms: Some(1) }, "rate_limited"),
        (ProbeFault::Reset, "connection"),
        (ProbeFault::ResetMidBody, "connection"),
        (ProbeFault::InvalidJson, "invalid_json"),
        (ProbeFault::WrongSchema, "wrong_schema"),
    ];
    let mut hits = Vec::new();
    for (fault, name) in cases {
        let hit = stage.platform.dispatch().await;
        stage.platform.simulator.faults().probe.add(Rule::always(fault.clone()).of(&hit.run));
        hit.schedule(&stage.db, SOON).await;
        hits.push((hit, fault, name));
    }
    for (hit, fault, name) in &hits {
        let outcome = stage.outcome(&hit.run).await;
        assert_eq!(outcome.outcome, OutcomeKind::ProbeError, "{fault:?}");
        assert!(outcome.error.unwrap().starts_with(&format!("{name}:")), "{fault:?}");
        assert_eq!((outcome.probe_count, outcome.create_count, outcome.lost_at), (3, 0, None), "{fault:?}");
        assert_eq!(stage.platform.simulator.probes(&hit.run).len(), 3, "{fault:?}");
    }
    assert_eq!(stage.platform.simulator.counters().creates, 0);
    assert_eq!(worker.reported_of(&hits[0].0).await.len(), 1);
    stage.assert_sound().await;
}

#[tokio::test]
async fn a_cancel_before_due_saves_the_probe() {
    let stage = Stage::set().await;
    let worker = InProcess::start(stage.worker("a")).await;
    let alive = stage.hit().await;
    let cancel = cancellation(alive.run.as_str(), Some(alive.snapshot.as_str()), CancelReason::Connected);
    let answers = stage.db.store.cancel(&[cancel]).await.unwrap();
    assert!(matches!(answers[0], Cancelled::Cancelled { .. }), "{answers:?}");
    // Once a later hit is settled, the cancelled one would have been settled, too.
    let later = stage.hit().await;
    assert_eq!(stage.outcome(&later.run).await.outcome, OutcomeKind::Fallback);
    let outcome = stage.outcome(&alive.run).await;
    assert_eq!(
        (outcome.outcome.as_str(), outcome.reason.map(Reason::as_str)),
        ("cancelled", Some("connected"))
    );
    assert!(stage.platform.simulator.probes(&alive.run).is_empty());
    assert!(stage.platform.simulator.creates(&alive.run).is_empty());
    assert!(worker.reported_of(&alive).await.is_empty(), "only a settlement is reported");
    stage.assert_sound().await;
}

#[tokio::test]
async fn a_run_dispatched_again_is_probed_once_and_started_at_its_new_snapshot() {
    let redrive = Duration::from_millis(1500);
    let stage = Stage::set_with(SimulatorOptions { redrive, ..options() }).await;
    let worker = InProcess::start(stage.worker("a")).await;
    // Not claimed yet when it is superseded: a claim ahead of its time may cost a harmless probe.
    let first = stage.platform.hit_due_in(&stage.db, 3 * SOON).await;
    first.schedule(&stage.db, SOON).await;
    let second = stage.platform.dispatch_queued().await;
    assert_eq!(second.run, first.run);
    assert_ne!(second.snapshot, first.snapshot);
    second.schedule(&stage.db, SOON).await;
    // Once this one is settled, the first one's due time is past.
    let later = stage.platform.hit_due_in(&stage.db, 2 * SOON).await;
    stage.outcome(&later.run).await;

    let outcomes = stage.db.store.outcomes_of(&first.run, 9).await.unwrap();
    let reported: Vec<_> =
        outcomes.iter().map(|outcome| (outcome.outcome.as_str(), outcome.snapshot_id.as_str())).collect();
    assert_eq!(reported, [("fallback", second.snapshot.as_str()), ("superseded", first.snapshot.as_str())]);
    assert_eq!(stage.platform.simulator.probes(&first.run).len(), 1);
    assert_eq!(stage.platform.simulator.creates(&first.run).len(), 1);
    stage.platform.executed(&first).await;
    assert_eq!(worker.reported_of(&first).await.len(), 1);
    stage.assert_sound().await;
}

//! Half the probes fail for half a minute while healthy runners are slow to start.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use warmproof::platform;
use warmproof::scheduler::Scheduler;
use warmproof::workload::Workload;
use warmproof_lab::simulator::{ProbeFault, Rule, RunConnected, RunnerKind, SimulatorOptions, StartKind};
use warmproof_lab::supervisor::settings::SuperviseSettings;
use warmproof_lab::supervisor::{Connected, Supervisor};

use crate::TURN;
use warmproof_testkit::platform::options;
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::{until, within};

/// How slow healthy runners are.
const SLOW: Duration = Duration::from_secs(20);
const DELAY: Duration = Duration::from_secs(2);
const BROWN_OUT_SECONDS: u32 = 30;
/// Losses by which the brown-out is first seen, and those of its middle.
const LOST_FIRST: usize = 20;
const LOST_LATER: usize = 10;
const HEALTHY: usize = 40;

/// A supervisor that warm-starts what is queued, until it is stopped.
pub fn supervise(stage: &Stage, delay: Duration, stop: &CancellationToken) {
    let url = stage.platform.simulator.base_url();
    let environment = stage.worker("s").env("TRIGGER_WARM_START_URL", url).environment();
    let settings = SuperviseSettings::from_environment(&environment).unwrap();
    let supervisor = Supervisor {
        name: "supervisor-1".parse().unwrap(),
        platform: platform::Client::new(&settings.platform).unwrap(),
        broker: settings.broker,
        http: platform::Client::without_credentials().unwrap(),
        scheduler: Scheduler::new(&stage.db.store, delay),
        workload: Workload::new(&settings.workload).unwrap(),
        dequeue_interval: Duration::from_millis(20),
    };
    let (sender, connected) = mpsc::channel(1024);
    let mut announced = stage.platform.simulator.connected();
    tokio::spawn(async move {
        while let Ok(RunConnected { run, snapshot }) = announced.recv().await {
            if sender.send(Connected { run, snapshot }).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(supervisor.run(connected, stop.clone()));
}

/// Queues runs for runners of this kind, and waits until all are dispatched.
async fn assign(stage: &Stage, kind: RunnerKind, count: usize) {
    let simulator = &stage.platform.simulator;
    let before = simulator.counters();
    (0..count).for_each(|_| simulator.spawn_runner(kind));
    within("runners poll", simulator.wait_for_pollers(count)).await;
    simulator.queue_runs(count);
    let all = before.hits + u64::try_from(count).unwrap();
    within("runs are dispatched", simulator.wait_for_counters(|now| now.hits >= all)).await;
}

/// Waits until a query of the database is true.
async fn until_true(stage: &Stage, what: &str, sql: &str) {
    until(what, async || stage.db.value::<bool>(sql).await.then_some(())).await;
}

/// From the first sign of the brown-out to its end, with healthy and lost runs in its middle.
async fn pass_through(stage: &Stage) {
    let faults = stage.platform.simulator.faults();
    faults.probe.add(Rule::always(ProbeFault::Status { status: 500 }).share(0.3));
    faults.probe.add(Rule::always(ProbeFault::Hang).share(0.3));
    assign(stage, RunnerKind::SilentlyDead, LOST_FIRST).await;
    until_true(stage, "the brown-out is seen", "select exists (select from brown_out)").await;
    stage.db.run("create table began as select clock_timestamp() as at").await;
    assign(stage, RunnerKind::Slow, HEALTHY).await;
    assign(stage, RunnerKind::SilentlyDead, LOST_LATER).await;
    let passed = format!("select clock_timestamp() > at + interval '{BROWN_OUT_SECONDS} s' from began");
    until_true(stage, "the brown-out has lasted", &passed).await;
    let held = "select exists (select 1 from pending where hold_reason = 'brown_out')";
    until_true(stage, "losses are held", held).await;
    faults.probe.clear();
    faults.release();
}

#[tokio::test]
async fn nothing_is_started_in_a_brown_out_and_what_was_lost_is_recovered_after_it() {
    let _turn = TURN.lock().await;
    let slow = SimulatorOptions { slow_delay: SLOW, dequeue_block: Duration::from_millis(200), ..options() };
    let stage = Stage::set_with(slow).await;
    let worker = |name| {
        let worker =
            stage.worker(name).may_warn(&["probes failed", "a create failed", "did not visibly help"]);
        worker.env("WARMPROOF_LOG", "warn")
    };
    let workers = vec![worker("a").start(), worker("b").start()];
    let stop = CancellationToken::new();
    supervise(&stage, DELAY, &stop);

    pass_through(&stage).await;
    let well = "select brown_out_over_at(brown_out, 30000) < clock_timestamp() from brown_out";
    until_true(&stage, "the pool is well", well).await;
    until_true(&stage, "all have ended", "select not exists (select from pending)").await;

    let settled = "select brown_out_over_at(brown_out, 30000) from brown_out";
    let early: i64 = stage
        .db
        .value(&format!(
            "select count(*) from outcome, began where create_permitted_at > at and create_permitted_at < ({settled})"
        ))
        .await;
    assert_eq!(early, 0, "nothing is permitted before the cool-down is over");
    let after: i64 = stage
        .db
        .value(&format!("select count(*) from outcome where create_permitted_at >= ({settled})"))
        .await;
    assert!(usize::try_from(after).unwrap() >= LOST_LATER, "{after} were recovered after it");

    let simulator = &stage.platform.simulator;
    let (mut healthy, mut recovered) = (0, 0);
    for record in &simulator.report().runs {
        let dispatch = &record.dispatches[0];
        match dispatch.hit_kind {
            Some(RunnerKind::Slow) => {
                let requests = simulator.creates(&record.run_id).len();
                assert_eq!(requests, 0, "a healthy run was cold-started: {record:?}");
                assert_eq!(dispatch.start_kind, Some(StartKind::Warm));
                healthy += 1;
            }
            Some(RunnerKind::SilentlyDead) => {
                let executed = simulator.wait_for_record(&record.run_id, |now| now.executions == 1);
                within("a lost run is executed", executed).await;
                recovered += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((healthy, recovered), (HEALTHY, LOST_FIRST + LOST_LATER));
    stop.cancel();
    stage.end(workers).await;
    stage.assert_sound().await;
}

//! A platform that fails for one to six seconds every twenty: losses are recovered soon, and no healthy run is started
//! twice.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use warmproof_lab::simulator::{ProbeFault, Rule, RunnerKind, SimulatorOptions, StartFault};

use crate::TURN;
use crate::brown_out::supervise;
use crate::growth::until_it_grows_to;
use warmproof_testkit::platform::options;
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::within;

/// From schedule to probe: the platform's own default.
const DELAY: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_secs(20);
const FAULTS_SECONDS: [u64; 6] = [1, 6, 3, 5, 2, 4];
/// Runs a second, and of these lost ones.
const RUNS: u32 = 10;
const LOST: u32 = 2;
/// Of nine losses in ten, after they were due.
const RECOVERED_WITHIN_SECONDS: f64 = 12.0;

/// Queues runs at a steady rate until the faults are over, some of them for dead runners.
async fn load(stage: &Stage, began: Instant) {
    let simulator = &stage.platform.simulator;
    let end = began + EVERY * u32::try_from(FAULTS_SECONDS.len()).unwrap();
    let (mut queued, mut at) = (0_u32, began);
    while at < end {
        if queued % RUNS < LOST {
            simulator.spawn_runner(RunnerKind::SilentlyDead);
        } else {
            simulator.spawn_runner(RunnerKind::Live);
        }
        within("a runner polls", simulator.wait_for_pollers(1)).await;
        simulator.queue_run();
        queued += 1;
        at += Duration::from_secs(1) / RUNS;
        sleep_until(at).await;
    }
}

/// Fails probes and starts for some seconds of every twenty.
async fn fail_now_and_then(stage: &Stage, began: Instant) {
    let faults = stage.platform.simulator.faults();
    for (nth, seconds) in (0_u32..).zip(FAULTS_SECONDS) {
        let begins = began + EVERY * nth + EVERY / 4;
        sleep_until(begins).await;
        faults.probe.add(Rule::always(ProbeFault::Status { status: 500 }));
        faults.start.add(Rule::always(StartFault::ServerError));
        sleep_until(begins + Duration::from_secs(seconds)).await;
        faults.probe.clear();
        faults.start.clear();
    }
}

#[tokio::test]
async fn short_faults_hold_losses_for_a_short_while() {
    let _turn = TURN.lock().await;
    let defaults = SimulatorOptions::default();
    let (start_retries, start_retry_delay) = (defaults.start_retries, defaults.start_retry_delay);
    let dequeue_block = Duration::from_millis(200);
    let stage =
        Stage::set_with(SimulatorOptions { start_retries, start_retry_delay, dequeue_block, ..options() })
            .await;
    // Each run is probed, those too whose runner announced itself and cannot start yet.
    stage.db.run("update pool set on_connect = 'keep_watching'").await;
    let worker = |name| {
        let worker = stage.worker(name).may_warn(&["probes failed", "did not visibly help"]);
        worker.env("WARMPROOF_LOG", "warn").start()
    };
    let workers = vec![worker("a"), worker("b")];
    let stop = CancellationToken::new();
    supervise(&stage, DELAY, &stop);

    let began = Instant::now();
    tokio::join!(load(&stage, began), fail_now_and_then(&stage, began));
    let simulator = &stage.platform.simulator;
    // A run that found no idle runner was no hit, and the supervisor started it cold.
    let hits = simulator.counters().hits;
    assert!(hits > 1000, "{hits}");
    until_it_grows_to("verifications end", i64::try_from(hits).unwrap(), async || {
        stage.db.value("select count(*) from outcome").await
    })
    .await;

    let (mut lost, mut healthy) = (0_i64, 0_i64);
    for record in &simulator.report().runs {
        let dispatch = &record.dispatches[0];
        if dispatch.hit_kind.is_none() {
            continue;
        }
        // Of those that live, a few are lost when a poll ends just as the broker writes to it.
        if dispatch.silently_lost {
            lost += 1;
        } else {
            let requests = simulator.creates(&record.run_id).len();
            assert_eq!(requests, 0, "a healthy run was cold-started: {record:?}");
            healthy += 1;
        }
    }
    let recovered = "select percentile_disc(SHARE) within group (order by extract(epoch from settled_at - due_at))::float8
                     from outcome where fallback_result = 'created'";
    let after = async |share: &str| stage.db.value::<f64>(&recovered.replace("SHARE", share)).await;
    let (p50, p90, p99) = (after("0.5").await, after("0.9").await, after("0.99").await);
    println!(
        "faults: {lost} lost and {healthy} healthy runs; recovered after due: p50 {p50:.1} s, p90 {p90:.1} s, p99 {p99:.1} s"
    );
    let created: i64 = stage.db.value("select count(*) from outcome where fallback_result = 'created'").await;
    assert_eq!(created, lost, "each loss is recovered");
    assert!(p90 <= RECOVERED_WITHIN_SECONDS, "{p90} s");
    stop.cancel();
    stage.end(workers).await;
    stage.assert_sound().await;
}

//! The original runner comes back in the same instant as the fallback starts.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::timeout;
use warmproof_lab::simulator::SimulatorOptions;

use crate::TURN;
use warmproof_testkit::platform::{Dispatched, SOON, options};
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::until;

const RUNS: usize = 1000;
const AT_A_TIME: usize = 50;
const BOOT: Duration = Duration::from_millis(60);
/// From the create to the revived runner's start call: both sides of the boot, so that either may win.
const REVIVED_MS_MAX: u64 = 120;
const SEED: u64 = 20_261_124;

/// One loss whose runner wakes up while its workload boots; says whether the runner won.
async fn revived(stage: &Stage, offset: Duration) -> (Dispatched, bool) {
    let lost = stage.platform.dispatch().await;
    lost.schedule(&stage.db, SOON).await;
    stage.platform.create(&lost, 1).await;
    let _ = timeout(offset, std::future::pending::<()>()).await;
    let won = stage.platform.try_start_warm(&lost).await;
    (lost, won)
}

#[tokio::test]
async fn a_runner_that_revives_while_its_fallback_starts_never_makes_two_executions() {
    let _turn = TURN.lock().await;
    let stage = Stage::set_with(SimulatorOptions { boot: BOOT, ..options() }).await;
    let log =
        |name| stage.worker(name).env("WARMPROOF_LOG", "warn").env("WARMPROOF_FALLBACK_CONCURRENCY", 50);
    let workers = vec![log("a").start(), log("b").start()];
    println!("double start: seed {SEED}");
    let mut rng = StdRng::seed_from_u64(SEED);
    let offsets: Vec<_> =
        (0..RUNS).map(|_| Duration::from_millis(rng.random_range(0..=REVIVED_MS_MAX))).collect();
    let ended: Vec<(Dispatched, bool)> = stream::iter(offsets)
        .map(|offset| revived(&stage, offset))
        .buffer_unordered(AT_A_TIME)
        .collect()
        .await;

    for (lost, _) in &ended {
        stage.platform.executed(lost).await;
        stage.outcome(&lost.run).await;
    }
    let revived = ended.iter().filter(|(_, won)| *won).count();
    until("every loser is refused", async || {
        let refused = stage.platform.simulator.counters().starts_refused;
        (usize::try_from(refused).unwrap() >= RUNS).then_some(())
    })
    .await;
    let counters = stage.platform.simulator.counters();
    println!("double start: {RUNS} runs, {revived} won by the revived runner, {counters:?}");
    for (lost, _) in &ended {
        let record = stage.platform.simulator.record_of(&lost.run).unwrap();
        assert_eq!((record.executions, record.creates), (1, 1), "{}", lost.run);
    }
    let runs = u64::try_from(RUNS).unwrap();
    assert_eq!((counters.double_starts, counters.starts_granted, counters.starts_refused), (0, runs, runs));
    assert!(revived > RUNS / 20 && revived < RUNS * 19 / 20, "each must win sometimes: {revived}");
    stage.end(workers).await;
    stage.assert_sound().await;
}

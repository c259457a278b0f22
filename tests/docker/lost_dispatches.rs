//! Fifty lost dispatches, and workers killed in the middle of what they ask the engine for.
//!
//! `SEED` chooses the points again that a failed run printed.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use warmproof::domain::outcome::FallbackResult;

use crate::support::engine::{Engine, create_of, docker_worker, engine};
use crate::support::trap::{Point, Trap};
use warmproof_testkit::process::Program;
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::within;

const DISPATCHES: usize = 50;

/// A worker that asks the engine through the trap.
fn worker(stage: &Stage, trap: &Trap, name: &str) -> Program {
    // Each kill spends an attempt of all that are under way.
    docker_worker(stage, &trap.host, name)
        .env("WARMPROOF_CREATE_ATTEMPTS", 10)
        .env("WARMPROOF_FALLBACK_CONCURRENCY", 4)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_lost_dispatch_gets_one_container_and_one_execution_however_workers_die() {
    let seed = std::env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (engine, stage) = (engine().await, Stage::set().await);
    let births = engine.births().await;
    let trap = Trap::before(&engine.host).await;
    let mut lost = Vec::new();
    for _ in 0..DISPATCHES {
        lost.push(stage.hit().await);
    }

    let points = [Point::Before, Point::Sent, Point::Answered];
    let mut kills: Vec<_> =
        ["/create", "/start"].into_iter().flat_map(|route| points.map(|point| (route, point))).collect();
    kills.extend_from_within(..);
    kills.shuffle(&mut random);
    for (nth, (route, point)) in kills.into_iter().enumerate() {
        let caught = trap.arm(route, point, random.random_range(1..=3));
        let mut killed = worker(&stage, &trap, &format!("killed-{nth}")).start();
        within(&format!("{point:?} of {route} is reached"), caught).await.expect("a trap");
        killed.kill().await;
    }
    let survivor = worker(&stage, &trap, "survivor").start();

    for dispatched in &lost {
        let outcome = stage.outcome(&dispatched.run).await;
        let result = outcome.fallback_result.map(FallbackResult::as_str);
        assert!(matches!(result, Some("created" | "existed")), "seed {seed}: {outcome:#?}");
        stage.platform.executed(dispatched).await;
    }
    let made = births.count(&engine).await;
    for dispatched in &lost {
        let name = create_of(dispatched).name;
        assert_eq!(made.get(&name), Some(&1), "seed {seed}: {name}");
        let record = stage.platform.simulator.record_of(&dispatched.run).expect("a record");
        assert_eq!(record.executions, 1, "seed {seed}: {}", dispatched.run);
    }
    assert_nothing_is_left(&engine, &lost.iter().map(|lost| create_of(lost).name).collect::<Vec<_>>()).await;
    stage.end(vec![survivor]).await;
    stage.assert_sound().await;
}

/// No container of these was made and never started. Removes them all.
async fn assert_nothing_is_left(engine: &Engine, names: &[String]) {
    for name in names {
        let state = engine.state(name).await;
        assert!(matches!(state.as_deref(), Some("running" | "exited")), "{name} is {state:?}");
        engine.remove(name).await;
    }
}

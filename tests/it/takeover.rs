//! How soon another worker takes a killed worker's claims. `make takeover` measures a hundred kills.

use std::time::{Duration, Instant};

use warmproof_lab::simulator::{ProbeFault, Rule};

use warmproof_testkit::platform::SOON;
use warmproof_testkit::stage::Stage;

/// The promised time, with the default lease.
const TAKEOVER_MAX: Duration = Duration::from_secs(8);
/// Kills at a time.
const GROUP: usize = 10;
/// Kills in an ordinary run of the tests.
const KILLS: usize = 5;

/// From the kill of a worker that holds a claim to the next worker's probe.
async fn takeover(number: usize) -> Duration {
    let stage = Stage::set().await;
    let program = |name: &str| {
        stage.worker(name).env("WARMPROOF_LEASE_MS", 5000).env("WARMPROOF_PROBE_TIMEOUT_MS", 10_000)
    };
    let (mut a, b) = (program("a").start(), program("b"));
    a.says("worker started").await;
    let lost = stage.platform.dispatch().await;
    stage.platform.simulator.faults().probe.add(Rule::always(ProbeFault::Hang).of(&lost.run).times(1));
    lost.schedule(&stage.db, SOON).await;
    stage.platform.probe(&lost, 1).await;
    let b = b.start();
    b.says("worker started").await;
    // A kill may come at any moment of the lease and its renewals, so that the worst moments are among them.
    let moment = Duration::from_millis((number as u64 * 397) % 4000);
    let _ = tokio::time::timeout(moment, std::future::pending::<()>()).await;

    let killed_at = Instant::now();
    a.kill().await;
    stage.platform.probe(&lost, 2).await;
    let took = killed_at.elapsed();
    let outcome = stage.outcome(&lost.run).await;
    assert_eq!((outcome.outcome.as_str(), outcome.claim_count), ("fallback", 2));
    stage.platform.executed(&lost).await;
    stage.audit(&[lost], vec![a, b]).await;
    took
}

#[tokio::test]
async fn a_killed_workers_claims_are_taken_by_another_worker_within_eight_seconds() {
    let kills =
        std::env::var("TAKEOVER_KILLS").map_or(KILLS, |kills| kills.parse().expect("a number of kills"));
    let mut took = Vec::with_capacity(kills);
    while took.len() < kills {
        let group = (took.len()..kills).take(GROUP);
        took.extend(futures_util::future::join_all(group.map(takeover)).await);
    }
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() * percent).div_ceil(100).max(1) - 1].as_millis();
    println!(
        "takeover after {kills} kills: p50 {} ms, p90 {} ms, p99 {} ms, max {} ms",
        at(50),
        at(90),
        at(99),
        at(100)
    );
    assert!(took.iter().all(|took| *took < TAKEOVER_MAX), "{took:?}");
}

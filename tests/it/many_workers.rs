//! Many workers over one table: exactly one of them settles each verification.

use std::collections::BTreeSet;

use warmproof::domain::dispatch::Dispatch;
use warmproof::domain::outcome::OutcomeKind;
use warmproof::domain::verification::NewVerification;
use warmproof_lab::simulator::{ProbeFault, Rule};

use warmproof_testkit::dispatch::hit;
use warmproof_testkit::platform::{Dispatched, SOON};
use warmproof_testkit::process::Program;
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::until;

const HITS: usize = 200;
/// One in so many is lost.
const LOST: usize = 10;

fn is_lost(n: usize) -> bool {
    n.is_multiple_of(LOST)
}

/// Takes dispatches and schedules them in one batch; the runs that are not lost start at once.
async fn schedule(stage: &Stage, count: usize, is_lost: impl Fn(usize) -> bool) -> Vec<Dispatched> {
    let mut hits = Vec::new();
    for n in 0..count {
        let dispatched = stage.platform.dispatch().await;
        if !is_lost(n) {
            stage.platform.start_warm(&dispatched).await;
        }
        hits.push(dispatched);
    }
    let template = hit("run_x", "snapshot_x", chrono::TimeDelta::zero());
    let new =
        |message| NewVerification { dispatch: Dispatch::parse(message, None).unwrap(), ..template.clone() };
    let batch: Vec<_> = hits.iter().map(|hit| new(hit.message.clone())).collect();
    let answers = stage.db.store.schedule(&batch, SOON).await.unwrap();
    assert!(answers.iter().all(Result::is_ok));
    hits
}

async fn all_are_settled(stage: &Stage) {
    until("all are settled", async || {
        let left: i64 = stage.db.value("select count(*) from pending").await;
        (left == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn no_claim_is_small_while_more_is_due_than_a_worker_may_hold() {
    let stage = Stage::set().await;
    let hits = schedule(&stage, HITS, |_| false).await;
    until("all are due", async || {
        let early: i64 =
            stage.db.value("select count(*) from pending where due_at > clock_timestamp()").await;
        (early == 0).then_some(())
    })
    .await;
    let worker =
        stage.worker("a").env("WARMPROOF_CLAIMS_IN_FLIGHT_MAX", 40).env("WARMPROOF_PROBE_CONCURRENCY", 2);
    // No sweep meanwhile: it shares the room between what lies above the watermark and what lies below.
    let worker = worker.env("WARMPROOF_LEASE_MS", 60_000).start();
    all_are_settled(&stage).await;
    // Each claim has its own fence. It takes at least a quarter of what may be in flight, unless less is due.
    let claims = "select count(*) as taken from outcome group by fence order by min(settled_at), fence";
    let taken: Vec<i64> = sqlx::query_scalar(claims).fetch_all(stage.db.pool()).await.unwrap();
    assert_eq!(taken.iter().sum::<i64>(), i64::try_from(HITS).unwrap());
    assert!(taken.iter().filter(|taken| **taken < 10).count() <= 1, "{taken:?}");
    stage.audit(&hits, vec![worker]).await;
}

/// A run that moved on, and whose verification is due soon.
async fn moved_on(stage: &Stage) -> Dispatched {
    let hit = stage.platform.dispatch().await;
    stage.platform.start_warm(&hit).await;
    hit.schedule(&stage.db, SOON).await;
    hit
}

#[tokio::test]
async fn a_worker_that_cannot_keep_up_leaves_the_rest_to_others() {
    let stage = Stage::set().await;
    let worker = |name| {
        let program = stage.worker(name).env("WARMPROOF_PROBE_CONCURRENCY", 1);
        program.env("WARMPROOF_PROBE_TIMEOUT_MS", 10_000).start()
    };
    let a = worker("a");
    let hanging = stage.platform.dispatch().await;
    stage.platform.start_warm(&hanging).await;
    stage.platform.simulator.faults().probe.add(Rule::always(ProbeFault::Hang).of(&hanging.run).times(1));
    hanging.schedule(&stage.db, SOON).await;
    stage.platform.probe(&hanging, 1).await;
    // Four wait behind the one that hangs.
    let mut of_a = vec![hanging];
    for _ in 0..4 {
        of_a.push(moved_on(&stage).await);
    }
    for hit in &of_a {
        stage.claimed_by("a", &hit.run).await;
    }
    until("all of them are due", async || {
        let early: i64 =
            stage.db.value("select count(*) from pending where due_at > clock_timestamp()").await;
        (early == 0).then_some(())
    })
    .await;
    let b = worker("b");
    b.says("worker started").await;
    let mut of_b = Vec::new();
    for _ in 0..8 {
        of_b.push(moved_on(&stage).await);
    }
    for hit in &of_b {
        assert_eq!(stage.outcome(&hit.run).await.worker.as_deref(), Some("b"));
    }
    stage.platform.simulator.faults().release();
    for hit in &of_a {
        assert_eq!(stage.outcome(&hit.run).await.worker.as_deref(), Some("a"));
    }
    let hits: Vec<_> = of_a.into_iter().chain(of_b).collect();
    stage.audit(&hits, vec![a, b]).await;
}

#[tokio::test]
async fn two_hundred_due_at_once_are_each_settled_once_by_one_of_four_workers() {
    let stage = Stage::set().await;
    let names = ["a", "b", "c", "d"];
    // Few claims at a time, so that all four get some.
    let calm = |program: Program| {
        program.env("WARMPROOF_PROBE_TIMEOUT_MS", 10_000).env("WARMPROOF_LEASE_MS", 20_000)
    };
    let worker = |name| calm(stage.worker(name)).env("WARMPROOF_CLAIMS_IN_FLIGHT_MAX", 20);
    let workers: Vec<_> = names.map(|name| worker(name).start()).into();
    for worker in &workers {
        worker.says("worker started").await;
    }
    let hits = schedule(&stage, HITS, is_lost).await;
    all_are_settled(&stage).await;
    for (n, hit) in hits.iter().enumerate() {
        let outcome = stage.outcome(&hit.run).await;
        let probes = stage.platform.simulator.probes(&hit.run).len();
        if is_lost(n) {
            assert_eq!(outcome.outcome, OutcomeKind::Fallback);
            // On a slow machine an observation grows too old to act on, and the worker probes again.
            assert_eq!(i32::try_from(probes).unwrap(), outcome.probe_count, "{outcome:?}");
            stage.platform.executed(hit).await;
            assert_eq!(stage.platform.simulator.record_of(&hit.run).unwrap().creates, 1);
        } else {
            assert_eq!((outcome.outcome.as_str(), outcome.claim_count), ("delivered", 1));
            assert_eq!(probes, 1, "{} was probed by two", hit.run);
            assert!(stage.platform.simulator.creates(&hit.run).is_empty());
        }
    }
    let settlers: Vec<String> =
        sqlx::query_scalar("select distinct worker from outcome").fetch_all(stage.db.pool()).await.unwrap();
    assert_eq!(BTreeSet::from_iter(settlers), names.map(str::to_owned).into(), "all four took part");
    stage.audit(&hits, workers).await;
}

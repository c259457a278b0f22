//! A worker that was stopped while its lease ran out wakes up and writes nothing.

use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
use warmproof_lab::simulator::{ProbeFault, Rule};

use warmproof_testkit::platform::{Dispatched, SOON};
use warmproof_testkit::process::Process;
use warmproof_testkit::stage::Stage;

/// A hit whose next so many probes hang.
async fn hit_with_hanging_probes(stage: &Stage, times: u32) -> Dispatched {
    let hit = stage.platform.dispatch().await;
    stage.platform.simulator.faults().probe.add(Rule::always(ProbeFault::Hang).of(&hit.run).times(times));
    hit.schedule(&stage.db, SOON).await;
    hit
}

/// A worker that is patient with its probes.
fn patient(stage: &Stage, name: &str) -> Process {
    stage.worker(name).env("WARMPROOF_PROBE_TIMEOUT_MS", 10_000).start()
}

/// Schedules another hit, which only the woken worker can settle. Once it is settled, that worker has also ended
/// the stale claim.
async fn is_awake(stage: &Stage, a: &Process, b: Process) -> (Process, Dispatched) {
    let mut b = b;
    assert_eq!(b.terminate().await, Some(0));
    a.signal(SIGCONT);
    let another = stage.hit().await;
    assert_eq!(stage.outcome(&another.run).await.worker.as_deref(), Some("a"));
    stage.platform.executed(&another).await;
    (b, another)
}

#[tokio::test]
async fn a_loss_it_saw_before_it_was_stopped_starts_nothing() {
    let stage = Stage::set().await;
    let a = patient(&stage, "a");
    let lost = hit_with_hanging_probes(&stage, 1).await;
    stage.platform.probe(&lost, 1).await;
    a.signal(SIGSTOP);
    // The answer is on its way and says that nothing acted.
    stage.platform.simulator.faults().release();
    let b = stage.worker("b").start();
    let outcome = stage.outcome(&lost.run).await;
    assert_eq!((outcome.outcome.as_str(), outcome.worker.as_deref()), ("fallback", Some("b")));
    stage.platform.executed(&lost).await;

    let (b, another) = is_awake(&stage, &a, b).await;
    assert_eq!(stage.platform.simulator.creates(&lost.run).len(), 1);
    stage.audit(&[lost, another], vec![a, b]).await;
}

#[tokio::test]
async fn a_delivery_it_saw_is_stale_while_another_worker_probes() {
    let stage = Stage::set().await;
    let a = patient(&stage, "a");
    let hit = hit_with_hanging_probes(&stage, 1).await;
    stage.platform.probe(&hit, 1).await;
    a.signal(SIGSTOP);
    stage.platform.start_warm(&hit).await;
    stage.platform.simulator.faults().release();

    stage.platform.simulator.faults().probe.add(Rule::always(ProbeFault::Hang).of(&hit.run).times(1));
    let b = patient(&stage, "b");
    stage.platform.probe(&hit, 2).await;
    a.signal(SIGCONT);
    a.says("stale: the fence moved on").await;
    let row = stage.pending(&hit.run).await.expect("the row stays with the other worker");
    assert_eq!(row.worker.as_deref(), Some("b"));

    stage.platform.simulator.faults().release();
    let outcome = stage.outcome(&hit.run).await;
    assert_eq!((outcome.outcome.as_str(), outcome.worker.as_deref()), ("delivered", Some("b")));
    stage.audit(&[hit], vec![a, b]).await;
}

#[tokio::test]
async fn a_delivery_it_saw_is_stale_after_another_worker_settled() {
    let stage = Stage::set().await;
    let a = patient(&stage, "a");
    let hit = hit_with_hanging_probes(&stage, 1).await;
    stage.platform.probe(&hit, 1).await;
    a.signal(SIGSTOP);
    let b = stage.worker("b").start();
    let outcome = stage.outcome(&hit.run).await;
    assert_eq!((outcome.outcome.as_str(), outcome.worker.as_deref()), ("fallback", Some("b")));
    stage.platform.executed(&hit).await;
    // Now it sees the cold start of the other worker.
    stage.platform.simulator.faults().release();
    a.signal(SIGCONT);
    a.says("stale: the fence moved on").await;
    stage.audit(&[hit], vec![a, b]).await;
}

#[tokio::test]
async fn a_claim_that_waited_for_its_time_is_not_probed() {
    let stage = Stage::set().await;
    let a = stage.worker("a").env("WARMPROOF_CLAIM_AHEAD_MS", 1500).start();
    let lost = stage.hit().await;
    stage.claimed_by("a", &lost.run).await;
    a.signal(SIGSTOP);
    let b = stage.worker("b").start();
    assert_eq!(stage.outcome(&lost.run).await.worker.as_deref(), Some("b"));
    stage.platform.executed(&lost).await;

    let (b, another) = is_awake(&stage, &a, b).await;
    assert_eq!(stage.platform.simulator.probes(&lost.run).len(), 1, "only the other worker probed");
    stage.audit(&[lost, another], vec![a, b]).await;
}

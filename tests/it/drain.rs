//! SIGTERM: a worker begins nothing new, and ends or releases at once what is in flight.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal::{SIGINT, SIGTERM};
use warmproof::domain::outcome::FallbackResult;
use warmproof_lab::simulator::{GatewayAnswer, GatewayEffect, GatewayFault, ProbeFault, Rule};

use warmproof_testkit::platform::SOON;
use warmproof_testkit::process::Program;
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::until;

/// Leases longer than any test: another worker can only claim a row that was released.
fn with_long_leases(program: Program) -> Program {
    program.env("WARMPROOF_LEASE_MS", 60_000).env("WARMPROOF_PROBE_TIMEOUT_MS", 10_000)
}

#[tokio::test]
async fn waiting_claims_are_released_at_once_and_a_probe_in_flight_is_settled() {
    let stage = Stage::set().await;
    let mut a = with_long_leases(stage.worker("a")).env("WARMPROOF_CLAIM_AHEAD_MS", 5000).start();
    let probed_at = stage.platform.dispatch().await;
    stage.platform.simulator.faults().probe.add(Rule::always(ProbeFault::Hang).of(&probed_at.run).times(1));
    probed_at.schedule(&stage.db, SOON).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let hit = stage.platform.hit_due_in(&stage.db, Duration::from_secs(4)).await;
        stage.claimed_by("a", &hit.run).await;
        waiting.push(hit);
    }
    stage.platform.probe(&probed_at, 1).await;
    a.signal(SIGTERM);
    for hit in &waiting {
        let row = stage.row("is released", &hit.run, |row| row.worker.is_none()).await;
        assert_eq!((row.lease_expires_at, row.probe_at), (None, row.due_at), "free, and due as promised");
    }
    assert!(a.is_running(), "a probe is in flight");
    stage.platform.start_warm(&probed_at).await;
    stage.platform.simulator.faults().release();
    assert_eq!(a.ended().await, Some(0));
    let outcome = stage.outcome(&probed_at.run).await;
    assert_eq!((outcome.outcome.as_str(), outcome.worker.as_deref()), ("delivered", Some("a")));

    let b = with_long_leases(stage.worker("b")).start();
    for hit in &waiting {
        assert_eq!(stage.outcome(&hit.run).await.worker.as_deref(), Some("b"));
        assert_eq!(stage.platform.simulator.probes(&hit.run).len(), 1);
        stage.platform.executed(hit).await;
    }
    stage.audit(&[vec![probed_at], waiting].concat(), vec![a, b]).await;
}

#[tokio::test]
async fn a_loss_seen_after_sigterm_is_left_to_others() {
    let stage = Stage::set().await;
    let mut a = with_long_leases(stage.worker("a")).start();
    let lost = stage.platform.dispatch().await;
    stage.platform.simulator.faults().probe.add(Rule::always(ProbeFault::Hang).of(&lost.run).times(1));
    lost.schedule(&stage.db, SOON).await;
    stage.platform.probe(&lost, 1).await;
    a.signal(SIGTERM);
    a.says("stopping on signal").await;
    stage.platform.simulator.faults().release();
    assert_eq!(a.ended().await, Some(0));
    assert!(stage.platform.simulator.creates(&lost.run).is_empty(), "no new create starts");
    let row = stage.pending(&lost.run).await.expect("a row");
    assert!(row.lost_at.is_some() && row.worker.is_none(), "marked and released: {row:?}");

    let b = with_long_leases(stage.worker("b")).start();
    let outcome = stage.outcome(&lost.run).await;
    assert_eq!(
        (outcome.fallback_result.map(FallbackResult::as_str), outcome.worker.as_deref()),
        (Some("created"), Some("b"))
    );
    stage.platform.executed(&lost).await;
    stage.audit(&[lost], vec![a, b]).await;
}

#[tokio::test]
async fn a_create_that_outlasts_the_grace_is_released_and_no_create_begins() {
    for effect in [GatewayEffect::None, GatewayEffect::Created] {
        let stage = Stage::set().await;
        let mut a = with_long_leases(stage.worker("a"))
            .env("WARMPROOF_SHUTDOWN_GRACE_MS", 1000)
            .env("WARMPROOF_FALLBACK_CONCURRENCY", 1)
            .may_warn(&["the grace period is over"])
            .start();
        let hanging = stage.platform.dispatch().await;
        let fault = GatewayFault { effect, answer: GatewayAnswer::Hang };
        stage.platform.simulator.faults().gateway.add(Rule::always(fault).of(&hanging.run).times(1));
        hanging.schedule(&stage.db, SOON).await;
        stage.platform.create(&hanging, 1).await;
        let waiting = stage.hit().await;
        stage.row("is permitted", &waiting.run, |row| row.create_permitted_at.is_some()).await;

        assert_eq!(a.terminate().await, Some(0));
        assert!(a.stderr().iter().any(|line| line.contains("the grace period is over")));
        for hit in [&hanging, &waiting] {
            let row = stage.pending(&hit.run).await.expect("a row");
            assert_eq!((row.worker, row.lease_expires_at), (None, None), "released, not left to its lease");
        }
        assert!(stage.platform.simulator.creates(&waiting.run).is_empty(), "no create starts after SIGTERM");

        let b = with_long_leases(stage.worker("b")).start();
        for hit in [&hanging, &waiting] {
            let outcome = stage.outcome(&hit.run).await;
            assert_eq!((outcome.outcome.as_str(), outcome.worker.as_deref()), ("fallback", Some("b")));
            stage.platform.executed(hit).await;
            let record = stage.platform.simulator.record_of(&hit.run).expect("a record");
            assert_eq!((record.creates, record.executions), (1, 1), "{effect:?}");
        }
        stage.audit(&[hanging, waiting], vec![a, b]).await;
    }
}

#[tokio::test]
async fn a_database_that_hangs_never_keeps_a_worker_beyond_its_grace() {
    let stage = Stage::set().await;
    let mut a = with_long_leases(stage.worker("a"))
        .env("WARMPROOF_SHUTDOWN_GRACE_MS", 1000)
        .env("WARMPROOF_DATABASE_STATEMENT_TIMEOUT_MS", 60_000)
        .may_warn(&["a fenced step is repeated", "the grace period is over", "could not"])
        .start();
    let lost = stage.platform.dispatch().await;
    stage.platform.simulator.faults().probe.add(Rule::always(ProbeFault::Hang).of(&lost.run).times(1));
    lost.schedule(&stage.db, SOON).await;
    stage.platform.probe(&lost, 1).await;
    let mut lock = stage.db.pool().begin().await.unwrap();
    sqlx::query("lock table pending in access exclusive mode").execute(&mut *lock).await.unwrap();
    stage.platform.simulator.faults().release();
    stage.blocked("update pending").await;

    let asked = Instant::now();
    assert_eq!(a.terminate().await, Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "it took {:?}", asked.elapsed());
    assert!(a.events().is_empty());
    lock.rollback().await.unwrap();
    assert!(stage.pending(&lost.run).await.is_some(), "nothing is lost");
    stage.assert_sound().await;
    stage.db.audit.claims_are_left();
}

#[tokio::test]
async fn a_second_signal_ends_a_worker_that_waits_for_what_is_in_flight() {
    let stage = Stage::set().await;
    // Without it the probe below would keep the worker for its whole grace period.
    let mut a =
        stage.worker("a").env("WARMPROOF_PROBE_TIMEOUT_MS", 10_000).may_warn(&["a second signal"]).start();
    let probed = stage.platform.dispatch().await;
    stage.platform.simulator.faults().probe.add(Rule::always(ProbeFault::Hang).of(&probed.run).times(1));
    probed.schedule(&stage.db, SOON).await;
    stage.platform.probe(&probed, 1).await;
    a.signal(SIGTERM);
    a.says("stopping on signal").await;
    assert!(a.is_running(), "a probe is in flight");
    // One that comes at once is taken for the first, passed on twice.
    until("it ends", async || {
        a.signal(SIGINT);
        (!a.is_running()).then_some(())
    })
    .await;
    assert_eq!(a.ended().await, Some(128 + 2));
    // As after a kill, another worker goes on when the lease is over.
    stage.platform.simulator.faults().release();
    stage.platform.start_warm(&probed).await;
    let b = stage.worker("b").start();
    assert_eq!(stage.outcome(&probed.run).await.worker.as_deref(), Some("b"));
    stage.end(vec![b]).await;
    stage.assert_sound().await;
}

//! The platform's redrive is a setting: what is late, what may be retried and when a capped loss is probed follow it.

use std::time::Duration;

use warmproof::domain::outcome::{FallbackResult, OutcomeKind};
use warmproof::domain::verification::CancelReason::Operator;
use warmproof_lab::simulator::{GatewayAnswer, GatewayEffect, GatewayFault, ProbeFault, Rule};

use warmproof_testkit::db::db;
use warmproof_testkit::dispatch::{cancellation, claim, everything, fresh, schedule};
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::until;

#[tokio::test]
async fn a_loss_is_late_five_seconds_before_its_pools_redrive() {
    // The redrive in seconds, seconds since the dequeue, whether the loss is late.
    for (redrive, since, late) in
        [(60, 50, false), (60, 58, true), (300, 58, false), (300, 297, true), (20, 16, true)]
    {
        let db = db().await;
        db.run(&format!("update pool set redrive_ms = {redrive} * 1000")).await;
        for run in ["run_a", "run_b"] {
            let _ = schedule(&db.store, fresh(run, "snapshot_1")).await;
        }
        db.run(&format!("update pending set dequeued_at = clock_timestamp() - interval '{since} s'")).await;
        for claim in claim(&db.store, everything("default", 2)).await {
            let _ = db.store.mark_lost(&claim.key, 1).await.unwrap();
        }
        // Ended by the statement for a batch, and by the function for what that leaves.
        let _ = db.store.cancel(&[cancellation("run_a", None, Operator)]).await.unwrap();
        db.run("select cancel(run_id => 'run_b', reason => 'miss')").await;
        let found: Vec<bool> = db.value("select array_agg(late) from outcome").await;
        assert_eq!(found, [late, late], "{since} s after the dequeue, redrive after {redrive} s");
    }
}

#[tokio::test]
async fn a_loss_that_no_window_can_help_is_probed_right_after_its_pools_redrive() {
    let db = db().await;
    db.run("update pool set redrive_ms = 300000, cap = 0").await;
    let _ = schedule(&db.store, fresh("run_a", "snapshot_1")).await;
    let claim = claim(&db.store, everything("default", 1)).await.pop().unwrap();
    let _ = db.store.mark_lost(&claim.key, 1).await.unwrap();
    let _ = db.store.permit_create(&claim.key, Duration::from_secs(1)).await.unwrap();
    let after: f64 = db.value("select extract(epoch from probe_at - dequeued_at)::float8 from pending").await;
    assert!((300.0..305.0).contains(&after), "{after} s after the dequeue");
}

#[tokio::test]
async fn a_worker_notes_the_redrive_of_its_configuration() {
    let stage = Stage::set().await;
    let worker = stage.worker("a").env("TRIGGER_RUN_REDRIVE_MS", 120_000).start();
    let noted = "select redrive_ms = 120000 from pool where name = 'default'";
    until("the redrive is noted", async || stage.db.value::<bool>(noted).await.then_some(())).await;
    stage.audit(&[], vec![worker]).await;
}

/// Backoffs so short that many tries fit into a second.
fn hurried(stage: &Stage) -> warmproof_testkit::process::Program {
    let mut worker = stage.worker("a").may_warn(&["probes failed", "a create failed"]);
    for name in
        ["PROBE_BACKOFF_BASE_MS", "PROBE_BACKOFF_MAX_MS", "CREATE_BACKOFF_BASE_MS", "CREATE_BACKOFF_MAX_MS"]
    {
        worker = worker.env(&format!("WARMPROOF_{name}"), 50);
    }
    worker
}

#[tokio::test]
async fn probes_and_creates_go_on_while_the_redrive_is_far() {
    let stage = Stage::set().await;
    let (lost, alive) = (stage.hit().await, stage.hit().await);
    stage.platform.start_warm(&alive).await;
    let faults = stage.platform.simulator.faults();
    faults.probe.add(Rule::always(ProbeFault::Status { status: 500 }).of(&alive.run).times(7));
    let refusal = GatewayFault { effect: GatewayEffect::None, answer: GatewayAnswer::Status { status: 429 } };
    faults.gateway.add(Rule::always(refusal).of(&lost.run).times(7));
    let worker = hurried(&stage).start();
    assert_eq!(stage.outcome(&alive.run).await.outcome, OutcomeKind::Delivered);
    assert_eq!(stage.outcome(&lost.run).await.fallback_result, Some(FallbackResult::Created));
    assert_eq!(stage.platform.simulator.creates(&lost.run).len(), 8);
    assert_eq!(stage.platform.simulator.probes(&alive.run).len(), 8);
    stage.audit(&[lost, alive], vec![worker]).await;
}

#[tokio::test]
async fn probes_end_when_the_redrive_is_near_and_where_the_operator_says() {
    for (variable, value) in [("TRIGGER_RUN_REDRIVE_MS", 10_000), ("WARMPROOF_PROBE_ATTEMPTS", 1)] {
        let stage = Stage::set().await;
        let hit = stage.hit().await;
        let fault = Rule::always(ProbeFault::Status { status: 500 });
        stage.platform.simulator.faults().probe.add(fault);
        let worker = hurried(&stage).env(variable, value).start();
        let outcome = stage.outcome(&hit.run).await;
        assert_eq!(outcome.outcome, OutcomeKind::ProbeError, "{variable}");
        let took = outcome.settled_at - outcome.dequeued_at;
        assert!(took.to_std().unwrap() < Duration::from_secs(40), "{variable}: {took}");
        stage.audit(&[hit], vec![worker]).await;
    }
}

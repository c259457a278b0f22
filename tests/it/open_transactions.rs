//! A caller's open transaction on one run delays only that run.

use std::time::Duration;

use warmproof::domain::outcome::OutcomeKind;
use warmproof_lab::simulator::{ProbeFault, Rule};

use warmproof_testkit::platform::{Dispatched, SOON};
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::until;

/// Two hits in flight at worker `a`, both with a probe that hangs.
async fn two_in_flight(stage: &Stage) -> [Dispatched; 2] {
    let hits = [stage.platform.dispatch().await, stage.platform.dispatch().await];
    for hit in &hits {
        stage.platform.simulator.faults().probe.add(Rule::always(ProbeFault::Hang).of(&hit.run).times(1));
        hit.schedule(&stage.db, SOON).await;
    }
    for hit in &hits {
        stage.platform.probe(hit, 1).await;
    }
    hits
}

#[tokio::test]
async fn the_leases_of_other_runs_are_renewed_meanwhile() {
    let stage = Stage::set().await;
    let a = stage.worker("a").env("WARMPROOF_PROBE_TIMEOUT_MS", 10_000).start();
    let [held, free] = two_in_flight(&stage).await;
    let b = stage.worker("b").start();
    let mut caller = stage.db.pool().begin().await.unwrap();
    sqlx::query("select from pending where run_id = $1 for update")
        .bind(held.run.as_str())
        .execute(&mut *caller)
        .await
        .unwrap();

    // By then the other run would have lost its lease and been claimed by the sweep of `b`.
    let margin = Duration::from_secs(2);
    until("the lease of the held run is long over", async || {
        let row = stage.pending(&held.run).await?;
        (stage.db.store.clock().await.unwrap() > row.lease_expires_at? + margin).then_some(())
    })
    .await;
    let row = stage.pending(&free.run).await.expect("a row");
    assert_eq!((row.worker.as_deref(), row.claim_count), (Some("a"), 1));
    caller.rollback().await.unwrap();
    stage.platform.simulator.faults().release();
    for hit in [&held, &free] {
        assert_eq!(stage.outcome(&hit.run).await.outcome, OutcomeKind::Fallback);
        stage.platform.executed(hit).await;
        assert_eq!(stage.platform.simulator.record_of(&hit.run).expect("a record").creates, 1);
    }
    stage.audit(&[held, free], vec![a, b]).await;
}

#[tokio::test]
async fn an_outcome_that_was_held_up_is_recorded_under_a_steady_load_of_others() {
    let stage = Stage::set().await;
    let a = stage.worker("a").env("WARMPROOF_PROBE_TIMEOUT_MS", 10_000).start();
    let held = stage.platform.dispatch().await;
    stage.platform.simulator.faults().probe.add(Rule::always(ProbeFault::Hang).of(&held.run).times(1));
    held.schedule(&stage.db, SOON).await;
    stage.platform.probe(&held, 1).await;
    stage.platform.start_warm(&held).await;
    let mut caller = stage.db.pool().begin().await.unwrap();
    sqlx::query("select from pending where run_id = $1 for update")
        .bind(held.run.as_str())
        .execute(&mut *caller)
        .await
        .unwrap();
    stage.platform.simulator.faults().release();

    let mut others = Vec::new();
    let load = async {
        loop {
            let one = stage.platform.dispatch().await;
            stage.platform.start_warm(&one).await;
            one.schedule(&stage.db, SOON).await;
            others.push(one);
        }
    };
    let settled = async {
        let many = "select count(*) from outcome";
        until("the load is steady", async || (stage.db.value::<i64>(many).await > 50).then_some(())).await;
        caller.rollback().await.unwrap();
        stage.outcome(&held.run).await
    };
    // The load goes on until the outcome is there.
    let outcome = tokio::select! {
        outcome = settled => outcome,
        never = load => never,
    };
    assert_eq!(outcome.outcome, OutcomeKind::Delivered);
    for one in &others {
        assert_eq!(stage.outcome(&one.run).await.outcome, OutcomeKind::Delivered);
    }
    let events = stage.end(vec![a]).await;
    assert!(events.len() > others.len(), "every settle is reported");
    stage.assert_sound().await;
}

#[tokio::test]
async fn the_outcomes_of_other_runs_are_recorded_meanwhile() {
    let stage = Stage::set().await;
    let a = stage.worker("a").env("WARMPROOF_PROBE_TIMEOUT_MS", 10_000).start();
    let [held, free] = two_in_flight(&stage).await;
    for hit in [&held, &free] {
        stage.platform.start_warm(hit).await;
    }
    let mut caller = stage.db.pool().begin().await.unwrap();
    sqlx::query("select from pending where run_id = $1 for update")
        .bind(held.run.as_str())
        .execute(&mut *caller)
        .await
        .unwrap();
    stage.platform.simulator.faults().release();
    assert_eq!(stage.outcome(&free.run).await.outcome, OutcomeKind::Delivered);
    assert!(stage.pending(&held.run).await.is_some(), "its row is held by the caller");
    caller.rollback().await.unwrap();
    assert_eq!(stage.outcome(&held.run).await.outcome, OutcomeKind::Delivered);
    stage.audit(&[held, free], vec![a]).await;
}

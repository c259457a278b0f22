//! The rarer ways a verification ends.

use warmproof::domain::ids::{PoolName, RunId};
use warmproof::domain::outcome::{FallbackResult, OutcomeKind, Reason};
use warmproof::store::lease::Release;
use warmproof_lab::simulator::{GatewayAnswer, GatewayEffect, GatewayFault, Rule};

use warmproof::store::upkeep::UpkeepTerms;
use warmproof_testkit::db::{db, keep_up};
use warmproof_testkit::dispatch::{claim, everything, fresh, schedule};
use warmproof_testkit::stage::Stage;

/// Shifts a row into the past, as if no worker had claimed it for `so_long`.
async fn forgotten_for(stage: &Stage, run: &RunId, so_long: &str) {
    let back = ["dequeued_at", "scheduled_at", "due_at", "probe_at", "lost_at"];
    let back = back.map(|column| format!("{column} = {column} - interval '{so_long}'")).join(", ");
    stage.db.run(&format!("update pending set {back} where run_id = '{run}'")).await;
}

#[tokio::test]
async fn a_verification_claimed_long_after_it_was_due_only_ends() {
    let stage = Stage::set().await;
    let (unseen, lost) = (stage.hit().await, stage.hit().await);
    for claim in claim(&stage.db.store, everything("default", 2)).await {
        if claim.key.run_id == lost.run {
            let _ = stage.db.store.mark_lost(&claim.key, 1).await.unwrap();
        }
        assert_eq!(stage.db.store.release(&[Release::untouched(claim.key)]).await.unwrap(), 1);
    }
    for hit in [&unseen, &lost] {
        forgotten_for(&stage, &hit.run, "1 hour").await;
    }
    let a = stage.worker("a").start();
    let ended = stage.outcome(&unseen.run).await;
    assert_eq!((ended.outcome.as_str(), ended.error.as_deref()), ("probe_error", Some("expired")));
    let ended = stage.outcome(&lost.run).await;
    assert_eq!(
        (ended.outcome.as_str(), ended.fallback_result.map(FallbackResult::as_str)),
        ("fallback", Some("failed"))
    );
    assert_eq!(ended.error.as_deref(), Some("expired"));
    for hit in [&unseen, &lost] {
        assert!(stage.platform.simulator.probes(&hit.run).is_empty(), "the worker does not probe so late");
        assert!(stage.platform.simulator.creates(&hit.run).is_empty(), "and nothing is started");
    }
    stage.audit(&[unseen, lost], vec![a]).await;
}

#[tokio::test]
async fn what_no_worker_serves_ends_a_day_after_it_was_due() {
    let db = db().await;
    db.run("insert into pool (name) values ('served'), ('removed')").await;
    db.run(
        "insert into worker (name, version, in_flight, pools, backends, problems)
         values ('w', '1', 0, array['served'], array['gateway'], array[null])",
    )
    .await;
    for (run, pool) in
        [("run_old", "default"), ("run_lost", "removed"), ("run_young", "default"), ("run_served", "served")]
    {
        let mut new = fresh(run, "snapshot_1");
        new.pool = PoolName::parse(pool).unwrap();
        let _ = schedule(&db.store, new).await;
    }
    let _ = db.store.mark_lost(&claim(&db.store, everything("removed", 1)).await[0].key, 1).await.unwrap();
    db.run("update pending set lease_expires_at = null, fence = null, worker = null").await;
    for (runs, age) in [("'run_old', 'run_lost', 'run_served'", "25 hours"), ("'run_young'", "23 hours")] {
        let back = ["dequeued_at", "scheduled_at", "due_at", "probe_at", "lost_at"];
        let back = back.map(|column| format!("{column} = {column} - interval '{age}'")).join(", ");
        db.run(&format!("update pending set {back} where run_id in ({runs})")).await;
    }
    db.run("delete from pool where name = 'removed'").await;
    let _ = keep_up(&db.store, UpkeepTerms { days_ahead: 1, retention_days: None }).await;
    let ended: Vec<String> = db
        .value("select array_agg(concat_ws(' ', run_id, outcome, fallback_result, error) order by run_id) from outcome")
        .await;
    let error = "expired: no running worker serves the pool";
    assert_eq!(ended, [format!("run_lost fallback failed {error}"), format!("run_old probe_error {error}")]);
    let left: Vec<String> = db.value("select array_agg(run_id order by run_id) from pending").await;
    assert_eq!(left, ["run_served", "run_young"]);
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_loss_that_was_seen_in_time_is_counted_however_late_it_ends() {
    let stage = Stage::set().await;
    let (late, lost) = (stage.hit().await, stage.hit().await);
    for claim in claim(&stage.db.store, everything("default", 2)).await {
        if claim.key.run_id == lost.run {
            let _ = stage.db.store.mark_lost(&claim.key, 1).await.unwrap();
        }
        assert_eq!(stage.db.store.release(&[Release::untouched(claim.key)]).await.unwrap(), 1);
    }
    for hit in [&late, &lost] {
        forgotten_for(&stage, &hit.run, "1 min").await;
    }
    let a = stage.worker("a").start();
    let ended = stage.outcome(&late.run).await;
    assert_eq!((ended.outcome.as_str(), ended.late), ("fallback", true), "it may show another dispatch");
    let ended = stage.outcome(&lost.run).await;
    assert_eq!((ended.outcome.as_str(), ended.late), ("fallback", false), "lost before the redrive");
    let counted: i64 = stage.db.value("select sum(lost)::bigint from silent_loss_minutely").await;
    assert_eq!(counted, 1);
    stage.audit(&[late, lost], vec![a]).await;
}

#[tokio::test]
async fn a_run_whose_attempt_failed_and_is_dequeued_again_was_delivered_and_not_lost() {
    let stage = Stage::set().await;
    let failed = stage.hit().await;
    stage.platform.fail_warm(&failed).await;
    let again = stage.platform.dispatch_queued().await;
    assert_eq!(again.run, failed.run);
    let a = stage.worker("a").start();
    let outcome = stage.outcome(&failed.run).await;
    assert_eq!((outcome.outcome, outcome.reason), (OutcomeKind::Delivered, Some(Reason::Started)));
    let lost: i64 = stage.db.value("select coalesce(sum(lost), 0)::bigint from silent_loss_minutely").await;
    assert_eq!(lost, 0);
    stage.platform.start_warm(&again).await;
    stage.audit(&[failed], vec![a]).await;
}

#[tokio::test]
async fn after_an_error_of_the_gateway_the_next_request_takes_another_name() {
    let stage = Stage::set().await;
    let fault =
        GatewayFault { effect: GatewayEffect::NameOnly, answer: GatewayAnswer::Status { status: 500 } };
    let a = stage.worker("a").may_warn(&["a create failed"]).start();
    let lost = stage.platform.dispatch().await;
    stage.platform.simulator.faults().gateway.add(Rule::always(fault).of(&lost.run).times(1));
    lost.schedule(&stage.db, warmproof_testkit::platform::SOON).await;
    let outcome = stage.outcome(&lost.run).await;
    assert_eq!(outcome.fallback_result.map(FallbackResult::as_str), Some("created"));
    assert_eq!((outcome.create_count, outcome.probe_count), (2, 2), "probed again before the second request");
    assert_eq!(outcome.error, None, "a good end has no error, even if a step before it failed");
    let names: Vec<_> =
        stage.platform.simulator.creates(&lost.run).into_iter().filter_map(|create| create.name).collect();
    assert_eq!(names[1], format!("{}-r2", names[0]));
    assert_eq!(outcome.workload.as_deref(), Some(names[1].as_str()));
    stage.platform.executed(&lost).await;
    stage.audit(&[lost], vec![a]).await;
}

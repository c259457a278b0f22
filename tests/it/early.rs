//! A probe that an operator asks for before it is due reports what it sees and changes nothing, unless the operator says
//! so; then its outcome is outside the rates.

use std::time::Duration;

use serde_json::json;
use warmproof::domain::claim::EarlyProbe;
use warmproof::domain::ids::RunId;
use warmproof::domain::outcome::{Ending, FallbackResult, OutcomeKind, Reason};
use warmproof::domain::verification::CancelReason::Operator;
use warmproof::store::audit::Actor;
use warmproof::store::early::ProbeNow;
use warmproof_lab::simulator::{ProbeFault, Rule};

use crate::commands::run;
use warmproof_testkit::api::{api, hit};
use warmproof_testkit::db::{Db, db};
use warmproof_testkit::dispatch::{cancellation, claim, everything, fresh, schedule, settlement, started};
use warmproof_testkit::platform::Dispatched;
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::until;

/// A hit that is due long after the test has ended.
async fn far_off(stage: &Stage) -> Dispatched {
    stage.platform.hit_due_in(&stage.db, Duration::from_mins(1)).await
}

/// Nothing but the record of the observation has changed.
async fn assert_unchanged(stage: &Stage, hit: &Dispatched) {
    let row = stage.pending(&hit.run).await.unwrap();
    assert_eq!((row.probe_at, row.early, row.lost_at, row.worker.clone()), (row.due_at, None, None, None));
    assert_eq!(stage.platform.simulator.creates(&hit.run).len(), 0);
    let failures: i32 = stage.db.value("select probe_failures from pending").await;
    assert_eq!((failures, row.last_error), (0, None));
}

#[tokio::test]
async fn it_reports_what_it_sees_and_changes_nothing() {
    let stage = Stage::set().await;
    let worker = stage.worker("a").may_warn(&["probes failed"]).start();
    worker.says("worker started").await;
    let hit = far_off(&stage).await;
    let run_id = hit.run.as_str();

    let healthy = run(&stage.db, &["probe-now", run_id]).await;
    assert_eq!(healthy.code, Some(0), "{}{}", healthy.out, healthy.err);
    assert!(healthy.out.contains("the run has not started yet; nothing changed"), "{}", healthy.out);
    assert_unchanged(&stage, &hit).await;
    let shown = run(&stage.db, &["show", run_id]).await;
    assert!(shown.out.contains("observed early: the run has not started yet"), "{}", shown.out);

    stage.platform.simulator.faults().probe.add(Rule::always(ProbeFault::Status { status: 500 }));
    let failed = run(&stage.db, &["probe-now", run_id]).await;
    assert!(failed.out.contains("the probe failed: server_error"), "{}{}", failed.out, failed.err);
    assert_unchanged(&stage, &hit).await;
    stage.platform.simulator.faults().probe.clear();

    stage.platform.start_warm(&hit).await;
    let moved = run(&stage.db, &["probe-now", run_id, "--json"]).await.json();
    assert_eq!(
        moved,
        json!({"run_id": run_id, "probes_now": true, "early": "observe", "observed": "the run was started"})
    );
    assert_unchanged(&stage, &hit).await;

    stage.db.run("update pending set scheduled_at = scheduled_at - interval '1 minute', due_at = due_at - interval '1 minute', probe_at = probe_at - interval '1 minute'").await;
    let outcome = stage.outcome(&hit.run).await;
    assert_eq!((outcome.outcome, outcome.early), (OutcomeKind::Delivered, false));
    stage.audit(&[hit], vec![worker]).await;
}

#[tokio::test]
async fn with_act_it_starts_the_run_and_no_rate_counts_it() {
    let stage = Stage::set().await;
    let worker = stage.worker("a").start();
    worker.says("worker started").await;
    let (lost, healthy) = (far_off(&stage).await, far_off(&stage).await);
    stage.platform.start_warm(&healthy).await;
    for hit in [&lost, &healthy] {
        let answer = run(&stage.db, &["probe-now", hit.run.as_str(), "--act"]).await;
        assert_eq!(answer.code, Some(0), "{}{}", answer.out, answer.err);
    }
    let outcome = stage.outcome(&lost.run).await;
    assert_eq!((outcome.fallback_result, outcome.early), (Some(FallbackResult::Created), true));
    let outcome = stage.outcome(&healthy.run).await;
    assert_eq!((outcome.reason, outcome.early), (Some(Reason::Started), true));
    let rates: (i64, i64, i64) =
        (one(&stage.db, "lost").await, one(&stage.db, "observed").await, one(&stage.db, "late").await);
    assert_eq!(rates, (0, 0, 2), "lost, observed, outside the rates");
    let latencies: i64 = stage.db.value("select count(*) from latency_hourly").await;
    assert_eq!(latencies, 0, "none was waited for");
    let lost_in_view: i64 = stage.db.value("select count(*) from outcomes where lost").await;
    assert_eq!(lost_in_view, 0);
    stage.audit(&[lost, healthy], vec![worker]).await;
}

async fn one(db: &Db, column: &str) -> i64 {
    db.value(&format!("select sum({column})::bigint from silent_loss_hourly")).await
}

/// A run that an operator had probed early and that was marked lost then.
async fn lost_early(db: &Db, run: &str) {
    let _ = schedule(&db.store, fresh(run, "snapshot_1")).await;
    let run_id = RunId::parse(run).unwrap();
    let asked = db.store.probe_now(&run_id, EarlyProbe::Act, &Actor("operator".to_owned())).await.unwrap();
    assert_eq!(asked, ProbeNow::Early(EarlyProbe::Act));
    let claim = claim(&db.store, everything("default", 1)).await.pop().unwrap();
    assert_eq!(claim.early, Some(EarlyProbe::Act));
    let _ = db.store.mark_lost(&claim.key, 1).await.unwrap();
    db.run("update pending set lease_expires_at = null, fence = null, worker = null").await;
}

#[tokio::test]
async fn every_end_of_an_early_loss_is_outside_the_rates() {
    let db = db().await;
    lost_early(&db, "run_a").await;
    let _ = db.store.cancel(&[cancellation("run_a", None, Operator)]).await.unwrap();
    lost_early(&db, "run_b").await;
    db.run("select cancel(run_id => 'run_b', reason => 'miss')").await;
    lost_early(&db, "run_c").await;
    let _ = schedule(&db.store, fresh("run_c", "snapshot_2")).await;
    let _ = db.store.cancel(&[cancellation("run_c", None, Operator)]).await.unwrap();
    lost_early(&db, "run_d").await;
    db.run("update pending set scheduled_at = scheduled_at - interval '1 day', due_at = due_at - interval '1 day', lost_at = lost_at - interval '1 day', probe_at = probe_at - interval '1 day', dequeued_at = dequeued_at - interval '1 day'").await;
    db.run("select expire_unserved(interval '1 minute', interval '15 minutes', 10)").await;
    let ends: Vec<String> = db
        .value("select array_agg(run_id || ' ' || fallback_result || ' ' || early order by settled_at) from outcome where outcome = 'fallback'")
        .await;
    let ends: Vec<&str> = ends.iter().map(String::as_str).collect();
    assert_eq!(
        ends,
        ["run_a cancelled true", "run_b cancelled true", "run_c superseded true", "run_d failed true"]
    );
    assert_eq!((one(&db, "lost").await, one(&db, "late").await), (0, 4));
    assert_eq!(db.value::<i64>("select count(*) from latency_hourly").await, 0);
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_probe_that_comes_when_the_verification_is_due_is_as_any_other() {
    let db = db().await;
    for early in [EarlyProbe::Observe, EarlyProbe::Act] {
        let run = format!("run_{}", early.as_str());
        let _ = schedule(&db.store, fresh(&run, "snapshot_1")).await;
        let run_id = RunId::parse(run.as_str()).unwrap();
        let actor = Actor("operator".to_owned());
        assert_eq!(db.store.probe_now(&run_id, early, &actor).await.unwrap(), ProbeNow::Early(early));
        db.run("update pending set scheduled_at = scheduled_at - interval '11 s', due_at = due_at - interval '11 s', dequeued_at = dequeued_at - interval '11 s'").await;
        let due = db.store.probe_now(&run_id, EarlyProbe::Act, &actor).await.unwrap();
        assert_eq!(due, ProbeNow::Due);
        let claim = claim(&db.store, everything("default", 1)).await.pop().unwrap();
        assert!(!claim.only_observes(claim.claimed_at), "{claim:?}");
        let _ = db.store.settle(&[settlement(&claim, started())]).await.unwrap();
    }
    let outside: i64 = db.value("select count(*) from outcome where early").await;
    assert_eq!(outside, 0);
    assert_eq!(one(&db, "observed").await, 2);
}

#[tokio::test]
async fn what_a_stale_claim_observed_is_not_recorded() {
    let db = db().await;
    let _ = schedule(&db.store, fresh("run_a", "snapshot_1")).await;
    let claim = claim(&db.store, everything("default", 1)).await.pop().unwrap();
    assert!(db.store.record_observation(&claim.key, "a\0b").await.unwrap());
    assert!(!db.store.record_observation(&claim.key, "again").await.unwrap());
    let observation: String = db.value("select observation from pending").await;
    assert_eq!(observation, "a\u{fffd}b");
}

#[tokio::test]
async fn the_api_says_which_kind_of_probe_it_is() {
    let api = api().await;
    api.schedule(&hit("run_a", "snapshot_1")).await;
    let answer = api.post("/v1/runs/run_a/probe-now?act=true", "").await.json();
    assert_eq!(answer, json!({"run_id": "run_a", "probes_now": true, "early": "act"}));
    let bad = api.post("/v1/runs/run_a/probe-now?act=maybe", "").await;
    assert_eq!((bad.status.as_u16(), bad.fields()), (422, vec!["query".to_owned()]));
    let detail: serde_json::Value = api.db.value("select detail from audit where action = 'probe_now'").await;
    assert_eq!(detail, json!({"early": "act"}));
    until("the row says so", async || {
        let row = api.get("/v1/runs/run_a").await.json();
        (row["verifications"][0]["early"] == "act").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_loss_that_was_acted_on_early_is_not_merely_observed_again() {
    let db = db().await;
    lost_early(&db, "run_a").await;
    let run_id = RunId::parse("run_a").unwrap();
    let asked =
        db.store.probe_now(&run_id, EarlyProbe::Observe, &Actor("operator".to_owned())).await.unwrap();
    assert_eq!(asked, ProbeNow::Due);
    let claim = claim(&db.store, everything("default", 1)).await.pop().unwrap();
    assert!(!claim.only_observes(claim.claimed_at), "{claim:?}");
    let ending = Ending::Fallback { result: FallbackResult::Failed, error: None };
    let _ = db.store.settle(&[settlement(&claim, ending)]).await.unwrap();
    assert_eq!((one(&db, "lost").await, one(&db, "late").await), (0, 1));
}

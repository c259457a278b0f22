//! The follow-up: a while after a created fallback, a worker probes whether it helped.

use warmproof::domain::outcome::{FallbackResult, OutcomeKind};
use warmproof_lab::simulator::{ProbeFault, Rule, StartFault};

use crate::metrics::{get, listens_at};
use warmproof_testkit::platform::{Dispatched, SOON};
use warmproof_testkit::process::Program;
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::until;

async fn soon(stage: &Stage) {
    stage.db.run("update pool set follow_up_after_ms = 1000").await;
}

async fn reported(stage: &Stage, lost: &Dispatched) -> String {
    let sql = format!("select result from follow_up where run_id = '{}'", lost.run);
    until("the follow-up has a result", async || {
        sqlx::query_scalar::<_, Option<String>>(sqlx::AssertSqlSafe(sql.clone()))
            .fetch_optional(stage.db.pool())
            .await
            .unwrap()
            .flatten()
    })
    .await
}

#[tokio::test]
async fn a_fallback_whose_run_started_is_confirmed() {
    let stage = Stage::set().await;
    soon(&stage).await;
    let worker = stage.worker("a").start();
    let lost = stage.hit().await;
    stage.platform.executed(&lost).await;
    assert_eq!(reported(&stage, &lost).await, "confirmed");
    stage.audit(&[lost], vec![worker]).await;
}

#[tokio::test]
async fn a_fallback_whose_workload_hangs_is_reported_and_not_repeated() {
    let stage = Stage::set().await;
    soon(&stage).await;
    let worker = stage.worker("a").start();
    let lost = stage.platform.dispatch().await;
    stage.platform.simulator.faults().start.add(Rule::always(StartFault::Hang).of(&lost.run));
    lost.schedule(&stage.db, SOON).await;
    let outcome = stage.outcome(&lost.run).await;
    assert_eq!(outcome.fallback_result.map(FallbackResult::as_str), Some("created"), "{outcome:?}");
    assert_eq!(reported(&stage, &lost).await, "not_started");
    worker.says("did not visibly help").await;
    assert_eq!(stage.platform.simulator.creates(&lost.run).len(), 1, "the result is only reported");
    let environment = [("WARMPROOF_DATABASE_URL".to_owned(), stage.db.url())].into();
    let mut show = Program::of(&["show", lost.run.as_str()], environment).start();
    assert_eq!(show.ended().await, Some(0));
    let shown = show.stdout().join("\n");
    assert!(shown.contains("follow-up: not_started"), "an operator sees it: {shown}");
    let (_, counted) = get(&format!("{}/metrics", listens_at(&worker).await)).await;
    let series = r#"warmproof_follow_ups_total{pool="default",result="not_started"} 1"#;
    assert!(counted.contains(series), "and a metric counts it: {counted}");
    stage.audit(&[lost], vec![worker]).await;
}

#[tokio::test]
async fn a_follow_up_outlives_the_worker_that_made_the_fallback() {
    let stage = Stage::set().await;
    stage.db.run("update pool set follow_up_after_ms = 3000").await;
    let mut a = stage.worker("a").start();
    let lost = stage.hit().await;
    stage.platform.executed(&lost).await;
    stage.outcome(&lost.run).await;
    a.kill().await;
    // One follow-up fails and is repeated.
    stage.platform.simulator.faults().probe.add(Rule::always(ProbeFault::Status { status: 500 }).times(1));
    let b = stage.worker("b").may_warn(&["probes failed"]).start();
    assert_eq!(reported(&stage, &lost).await, "confirmed");
    stage.end(vec![a, b]).await;
    stage.assert_sound().await;
}

#[tokio::test]
async fn a_pool_may_switch_follow_ups_off_and_delivered_runs_get_none() {
    let stage = Stage::set().await;
    let worker = stage.worker("a").start();
    let delivered = stage.platform.dispatch().await;
    stage.platform.start_warm(&delivered).await;
    delivered.schedule(&stage.db, SOON).await;
    assert_eq!(stage.outcome(&delivered.run).await.outcome, OutcomeKind::Delivered);
    stage.db.run("update pool set follow_up_after_ms = null").await;
    let lost = stage.hit().await;
    stage.platform.executed(&lost).await;
    stage.outcome(&lost.run).await;
    let follow_ups: i64 = stage.db.value("select count(*) from follow_up").await;
    assert_eq!(follow_ups, 0);
    stage.audit(&[delivered, lost], vec![worker]).await;
}

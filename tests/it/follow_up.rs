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

/// Follow-ups that are due, settled so long ago.
async fn due_since(stage: &Stage, count: u32, settled: &str) {
    let rows = format!(
        "insert into follow_up (verification_id, run_id, snapshot_id, pool, dequeued_at, settled_at, probe_at)
         select gen_random_uuid(), 'run_' || n, 'snapshot_1', 'default', at, at, at
         from generate_series(1, {count}) as n, lateral (select now() - interval '{settled}' as at) as settled"
    );
    stage.db.run(&rows).await;
}

#[tokio::test]
async fn a_worker_takes_no_more_follow_ups_than_it_can_probe_in_time() {
    let stage = Stage::set().await;
    due_since(&stage, 100, "31 s").await;
    stage.platform.simulator.faults().probe.add(Rule::always(ProbeFault::Hang));
    let worker = stage.worker("a").may_warn(&["probes failed"]).start();
    let taken = "select count(*) from follow_up where probe_count > 0";
    let first = until("some are taken", async || {
        let taken: i64 = stage.db.value(taken).await;
        (taken > 0).then_some(taken)
    })
    .await;
    // Two of ten probes, and two taken for each.
    assert_eq!(first, 4);
    let waiting = stage.db.store.pool_gauges().await.unwrap()[0].follow_ups_waiting;
    assert!((80..=96).contains(&waiting), "{waiting} are counted as waiting");
    stage.platform.simulator.faults().probe.clear();
    stage.platform.simulator.faults().release();
    until("all have been probed", async || {
        let open: i64 = stage.db.value("select count(*) from follow_up where probe_count = 0").await;
        (open == 0).then_some(())
    })
    .await;
    stage.end(vec![worker]).await;
}

#[tokio::test]
async fn a_late_follow_up_is_recorded_as_unknown_without_a_probe() {
    let stage = Stage::set().await;
    due_since(&stage, 30, "3 minutes").await;
    let worker = stage.worker("a").may_warn(&["a fallback did not visibly help"]).start();
    until("all are recorded", async || {
        let open: i64 = stage.db.value("select count(*) from follow_up where result is null").await;
        (open == 0).then_some(())
    })
    .await;
    let (_, counted) = get(&format!("{}/metrics", listens_at(&worker).await)).await;
    assert!(
        counted.contains(r#"warmproof_follow_ups_total{pool="default",result="unknown"} 30"#),
        "{counted}"
    );
    let late: i64 = stage
        .db
        .value("select count(*) from follow_up where late and error like 'late:%' and probe_count = 0")
        .await;
    assert_eq!(late, 30);
    stage.end(vec![worker]).await;
}

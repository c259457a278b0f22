//! A worker is killed at each step of a loss; another worker finishes the step, once.

use std::time::Duration;

use serde_json::value::RawValue;
use warmproof::domain::outcome::{FallbackResult, Outcome, OutcomeKind};
use warmproof_lab::simulator::{
    GatewayAnswer, GatewayEffect, GatewayFault, ProbeFault, Rule, SimulatorOptions,
};

use warmproof_testkit::gateway::http_client;
use warmproof_testkit::platform::{Dispatched, SOON, options};
use warmproof_testkit::pooler::{self, PoolMode};
use warmproof_testkit::process::Process;
use warmproof_testkit::stage::{API_TOKEN, Stage};

const HANGS_BEFORE: GatewayFault = GatewayFault { effect: GatewayEffect::None, answer: GatewayAnswer::Hang };
const HANGS_AFTER: GatewayFault =
    GatewayFault { effect: GatewayEffect::Created, answer: GatewayAnswer::Hang };

/// Starts another worker and waits until it has settled a loss and the run is executed.
async fn taken_over(stage: &Stage, lost: &Dispatched) -> (Process, Outcome) {
    let b = stage.worker("b").start();
    let outcome = stage.outcome(&lost.run).await;
    assert_eq!(outcome.outcome, OutcomeKind::Fallback, "a loss is never recorded as anything else");
    assert_eq!(outcome.worker.as_deref(), Some("b"));
    stage.platform.executed(lost).await;
    (b, outcome)
}

fn asked_and_made(stage: &Stage, lost: &Dispatched) -> (usize, u32, u32) {
    let record = stage.platform.simulator.record_of(&lost.run).expect("a record");
    (stage.platform.simulator.creates(&lost.run).len(), record.creates, record.executions)
}

/// Kills a server process that goes on for a client which is gone, as a crash of the network would.
async fn end_backend(stage: &Stage, pid: i32) {
    let ended: bool = stage.db.value(&format!("select pg_terminate_backend({pid}, 10000)")).await;
    assert!(ended);
}

#[tokio::test]
async fn killed_while_it_waits_for_the_due_time() {
    let stage = Stage::set().await;
    let mut a = stage.worker("a").env("WARMPROOF_CLAIM_AHEAD_MS", 1500).start();
    let lost = stage.hit().await;
    stage.claimed_by("a", &lost.run).await;
    a.kill().await;
    assert!(stage.platform.simulator.probes(&lost.run).is_empty());
    let (b, outcome) = taken_over(&stage, &lost).await;
    assert_eq!((outcome.claim_count, outcome.probe_count), (2, 1));
    assert_eq!(asked_and_made(&stage, &lost), (1, 1, 1));
    stage.audit(&[lost], vec![a, b]).await;
}

#[tokio::test]
async fn killed_between_claim_and_observation() {
    let stage = Stage::set().await;
    let mut a = stage.worker("a").start();
    let lost = stage.platform.dispatch().await;
    stage.platform.simulator.faults().probe.add(Rule::always(ProbeFault::Hang).of(&lost.run).times(1));
    lost.schedule(&stage.db, SOON).await;
    stage.platform.probe(&lost, 1).await;
    a.kill().await;
    let (b, outcome) = taken_over(&stage, &lost).await;
    assert_eq!(
        (outcome.claim_count, outcome.fallback_result.map(FallbackResult::as_str)),
        (2, Some("created"))
    );
    assert_eq!(stage.platform.simulator.probes(&lost.run).len(), 2);
    assert_eq!(asked_and_made(&stage, &lost), (1, 1, 1));
    stage.audit(&[lost], vec![a, b]).await;
}

#[tokio::test]
async fn killed_between_mark_and_permit() {
    let stage = Stage::set().await;
    let mut lock = stage.db.pool().begin().await.unwrap();
    sqlx::query("lock table fallback_window in access exclusive mode").execute(&mut *lock).await.unwrap();
    let mut a = stage.worker("a").start();
    let lost = stage.hit().await;
    let backend = stage.blocked("permit_create").await;
    a.kill().await;
    end_backend(&stage, backend).await;
    lock.rollback().await.unwrap();
    let row = stage.pending(&lost.run).await.unwrap();
    assert!(row.lost_at.is_some() && row.create_permitted_at.is_none(), "{row:?}");

    let (b, outcome) = taken_over(&stage, &lost).await;
    assert_eq!((outcome.claim_count, outcome.probe_count, outcome.create_count), (2, 2, 1));
    assert_eq!(outcome.lost_at, row.lost_at, "the mark keeps its first instant");
    assert_eq!(asked_and_made(&stage, &lost), (1, 1, 1));
    stage.audit(&[lost], vec![a, b]).await;
}

#[tokio::test]
async fn killed_between_mark_and_permit_and_the_run_starts_meanwhile() {
    let stage = Stage::set().await;
    let mut lock = stage.db.pool().begin().await.unwrap();
    sqlx::query("lock table fallback_window in access exclusive mode").execute(&mut *lock).await.unwrap();
    let mut a = stage.worker("a").start();
    let lost = stage.hit().await;
    let backend = stage.blocked("permit_create").await;
    a.kill().await;
    end_backend(&stage, backend).await;
    lock.rollback().await.unwrap();
    stage.platform.start_warm(&lost).await;

    let b = stage.worker("b").start();
    let outcome = stage.outcome(&lost.run).await;
    assert_eq!(
        (outcome.outcome.as_str(), outcome.fallback_result.map(FallbackResult::as_str)),
        ("fallback", Some("overtaken"))
    );
    assert!(stage.platform.simulator.creates(&lost.run).is_empty());
    stage.audit(&[lost], vec![a, b]).await;
}

#[tokio::test]
async fn killed_while_its_permit_is_on_its_way() {
    let stage = Stage::set().await;
    let mut lock = stage.db.pool().begin().await.unwrap();
    sqlx::query("lock table fallback_window in access exclusive mode").execute(&mut *lock).await.unwrap();
    let mut a = stage.worker("a").start();
    let lost = stage.hit().await;
    stage.blocked("permit_create").await;
    a.kill().await;
    lock.rollback().await.unwrap();
    // The server does not know that its client is gone: the permit commits all the same. A pooler does know, and
    // the transaction that each statement is there ends without it.
    let permitted = if pooler::mode() == Some(PoolMode::Transaction) {
        None
    } else {
        let row = stage.row("is permitted", &lost.run, |row| row.create_permitted_at.is_some()).await;
        assert_eq!(row.create_count, 0);
        row.create_permitted_at
    };

    let (b, outcome) = taken_over(&stage, &lost).await;
    assert!(
        permitted.is_none() || outcome.create_permitted_at == permitted,
        "a repeated permit keeps its instant"
    );
    let spent: i64 = stage.db.value("select sum(spent) from fallback_window").await;
    assert_eq!(spent, 1, "one unit of the cap for one run");
    assert_eq!(asked_and_made(&stage, &lost), (1, 1, 1));
    stage.audit(&[lost], vec![a, b]).await;
}

#[tokio::test]
async fn killed_with_a_create_counted_and_another_waiting_for_its_turn() {
    let stage = Stage::set().await;
    let mut a = stage.worker("a").env("WARMPROOF_FALLBACK_CONCURRENCY", 1).start();
    let first = stage.platform.dispatch().await;
    stage.platform.simulator.faults().gateway.add(Rule::always(HANGS_BEFORE).of(&first.run).times(1));
    first.schedule(&stage.db, SOON).await;
    stage.platform.create(&first, 1).await;
    let second = stage.hit().await;
    let permitted = stage.row("is permitted", &second.run, |row| row.create_permitted_at.is_some()).await;
    a.kill().await;
    assert_eq!(permitted.create_count, 0);
    assert_eq!(stage.pending(&first.run).await.unwrap().create_count, 1);

    let (b, outcome) = taken_over(&stage, &first).await;
    assert_eq!(
        (outcome.create_count, outcome.fallback_result.map(FallbackResult::as_str)),
        (2, Some("created"))
    );
    assert_eq!(asked_and_made(&stage, &first), (2, 1, 1));
    let outcome = stage.outcome(&second.run).await;
    assert_eq!(
        (outcome.create_count, outcome.fallback_result.map(FallbackResult::as_str)),
        (1, Some("created"))
    );
    stage.platform.executed(&second).await;
    assert_eq!(asked_and_made(&stage, &second), (1, 1, 1));
    stage.audit(&[first, second], vec![a, b]).await;
}

#[tokio::test]
async fn killed_with_the_workload_made_and_the_answer_on_its_way() {
    let stage = Stage::set().await;
    let mut a = stage.worker("a").start();
    let lost = stage.platform.dispatch().await;
    stage.platform.simulator.faults().gateway.add(Rule::always(HANGS_AFTER).of(&lost.run).times(1));
    lost.schedule(&stage.db, SOON).await;
    stage.platform.create(&lost, 1).await;
    a.kill().await;
    stage.platform.executed(&lost).await;
    let (b, outcome) = taken_over(&stage, &lost).await;
    assert_eq!(
        (outcome.create_count, outcome.fallback_result.map(FallbackResult::as_str)),
        (1, Some("created"))
    );
    assert_eq!(
        asked_and_made(&stage, &lost),
        (1, 1, 1),
        "the worker that takes over sees that the run started, and requests nothing"
    );
    stage.audit(&[lost], vec![a, b]).await;
}

#[tokio::test]
async fn killed_with_the_workload_made_and_still_booting() {
    let slow = SimulatorOptions { boot: Duration::from_secs(6), ..options() };
    let stage = Stage::set_with(slow).await;
    let mut a = stage.worker("a").start();
    let lost = stage.platform.dispatch().await;
    stage.platform.simulator.faults().gateway.add(Rule::always(HANGS_AFTER).of(&lost.run).times(1));
    lost.schedule(&stage.db, SOON).await;
    stage.platform.create(&lost, 1).await;
    a.kill().await;
    let (b, outcome) = taken_over(&stage, &lost).await;
    assert_eq!(
        (outcome.create_count, outcome.fallback_result.map(FallbackResult::as_str)),
        (2, Some("existed"))
    );
    assert_eq!(asked_and_made(&stage, &lost), (2, 1, 1), "asked twice under one name, made once");
    stage.audit(&[lost], vec![a, b]).await;
}

#[tokio::test]
async fn killed_between_create_and_settle() {
    let stage = Stage::set().await;
    let mut a = stage.worker("a").start();
    a.says("tables kept up").await;
    stage.slow_outcomes().await;
    let lost = stage.hit().await;
    let backend = stage.recording().await;
    stage.platform.executed(&lost).await;
    a.kill().await;
    end_backend(&stage, backend).await;
    stage.db.run("drop trigger slow on outcome").await;
    let (b, outcome) = taken_over(&stage, &lost).await;
    assert_eq!(
        (outcome.create_count, outcome.fallback_result.map(FallbackResult::as_str)),
        (1, Some("created"))
    );
    assert_eq!(asked_and_made(&stage, &lost), (1, 1, 1));
    stage.audit(&[lost], vec![a, b]).await;
}

#[tokio::test]
async fn killed_while_its_settle_is_on_its_way() {
    let stage = Stage::set().await;
    let mut a = stage.worker("a").start();
    let lost = stage.platform.dispatch().await;
    stage.platform.simulator.faults().gateway.add(Rule::always(HANGS_AFTER).of(&lost.run).times(1));
    lost.schedule(&stage.db, SOON).await;
    stage.platform.create(&lost, 1).await;
    stage.slow_outcomes().await;
    stage.platform.simulator.faults().release();
    stage.recording().await;
    a.kill().await;
    let b = stage.worker("b").start();
    b.says("worker started").await;
    let outcome = stage.outcome(&lost.run).await;
    assert_eq!(outcome.fallback_result.map(FallbackResult::as_str), Some("created"));
    stage.platform.executed(&lost).await;
    assert_eq!(asked_and_made(&stage, &lost), (1, 1, 1));
    if pooler::mode() == Some(PoolMode::Transaction) {
        // A pooler knows that its client is gone, and the transaction ends without it: another worker records.
        assert_eq!(outcome.worker.as_deref(), Some("b"));
        return stage.audit(&[lost], vec![a, b]).await;
    }
    // The server does not know that its client is gone: the outcome is recorded all the same.
    assert_eq!(outcome.worker.as_deref(), Some("a"));
    assert!(stage.end(vec![a, b]).await.is_empty(), "the worker that would have reported it is dead");
    stage.assert_sound().await;
}

#[tokio::test]
async fn a_supervisor_and_a_worker_killed_between_schedule_and_due() {
    let stage = Stage::set().await;
    let mut a = stage.worker("a").env("WARMPROOF_CLAIM_AHEAD_MS", 1500).start();
    let mut supervisor = stage.api().start();
    let ready = supervisor.prints("ready on ").await;
    let url = ready.rsplit(' ').next().unwrap();
    let lost = stage.platform.dispatch().await;
    let body = format!(r#"{{ "dequeued_message": {} }}"#, RawValue::get(&lost.message));
    let answer = http_client()
        .post(format!("{url}/v1/verifications"))
        .bearer_auth(API_TOKEN)
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 201);
    supervisor.kill().await;
    stage.claimed_by("a", &lost.run).await;
    a.kill().await;
    assert!(stage.platform.simulator.probes(&lost.run).is_empty(), "not due yet");
    let (b, _) = taken_over(&stage, &lost).await;
    assert_eq!(asked_and_made(&stage, &lost), (1, 1, 1));
    stage.audit(&[lost], vec![a, b]).await;
}

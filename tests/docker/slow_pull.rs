//! A worker whose image pull takes long: all other work goes on, and no container is made on an old observation.

use chrono::TimeDelta;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};

use warmproof::domain::outcome::FallbackResult;

use crate::support::engine::{create_of, docker_worker, engine};
use crate::support::registry::{Registry, Trouble};
use warmproof_testkit::platform::{Dispatched, SOON};
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::until;

/// How long a pull takes.
const PULL: TimeDelta = TimeDelta::minutes(1);

/// A lost dispatch whose image only this registry has.
async fn lost_with(stage: &Stage, registry: &Registry) -> Dispatched {
    let mut lost = stage.platform.dispatch().await;
    let mut message: Value = serde_json::from_str(lost.message.get()).expect("a message");
    message["image"] = json!(registry.image());
    lost.message = to_raw_value(&message).expect("JSON");
    lost.schedule(&stage.db, SOON).await;
    lost
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_pull_blocks_no_other_run_keeps_its_lease_and_is_followed_by_a_fresh_probe() {
    let (engine, stage) = (engine().await, Stage::set().await);
    let registry = Registry::with("late", Trouble::BlobWaits).await;
    let worker = docker_worker(&stage, &engine.host, "a").start();
    let lost = lost_with(&stage, &registry).await;
    until("the pull has begun", async || (registry.pulls() > 0).then_some(())).await;
    let began = stage.claimed_by("a", &lost.run).await;

    let mut others = Vec::new();
    let held_until = began.lease_expires_at.unwrap() + PULL;
    loop {
        let other = stage.hit().await;
        assert_eq!(
            stage.outcome(&other.run).await.fallback_result.map(FallbackResult::as_str),
            Some("created")
        );
        stage.platform.executed(&other).await;
        others.push(other);
        let row = stage.pending(&lost.run).await.expect("it waits for its image");
        assert_eq!((row.worker.as_deref(), row.claim_count, row.create_count), (Some("a"), 1, 0), "{row:?}");
        assert_eq!(stage.platform.simulator.probes(&lost.run).len(), 1);
        if row.lease_expires_at.unwrap() > held_until {
            break;
        }
    }
    registry.gate.add_permits(9);

    let outcome = stage.outcome(&lost.run).await;
    assert_eq!(
        (outcome.fallback_result.map(FallbackResult::as_str), outcome.create_count),
        (Some("created"), 1)
    );
    assert_eq!(outcome.claim_count, 1, "its lease held all the while");
    assert_eq!(stage.platform.simulator.probes(&lost.run).len(), 2, "probed again before the create");
    stage.platform.executed(&lost).await;
    others.push(lost);
    stage.audit(&others, vec![worker]).await;
    for made in others {
        engine.remove(&create_of(&made).name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_starts_during_the_pull_gets_no_container() {
    let (engine, stage) = (engine().await, Stage::set().await);
    let registry = Registry::with("too-late", Trouble::BlobWaits).await;
    let worker = docker_worker(&stage, &engine.host, "a").start();
    let lost = lost_with(&stage, &registry).await;
    until("the pull has begun", async || (registry.pulls() > 0).then_some(())).await;
    stage.platform.start_warm(&lost).await;
    // Longer than the age at which an observation is too old to act on.
    let renewed = stage.claimed_by("a", &lost.run).await.lease_expires_at.unwrap() + TimeDelta::seconds(2);
    stage.row("is renewed", &lost.run, |row| row.lease_expires_at > Some(renewed)).await;
    registry.gate.add_permits(9);
    let outcome = stage.outcome(&lost.run).await;
    assert_eq!(
        (outcome.fallback_result.map(FallbackResult::as_str), outcome.create_count),
        (Some("overtaken"), 0)
    );
    assert_eq!(engine.state(&create_of(&lost).name).await, None);
    stage.audit(&[lost], vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_amazons_variables_pulls_with_a_token() {
    let (engine, stage) = (engine().await, Stage::set().await);
    let registry = Registry::with("tokened", Trouble::NeedsPassword).await;
    let worker = docker_worker(&stage, &engine.host, "a")
        .env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", "not-a-secret")
        .env("AWS_REGION", "eu-central-1")
        .env("AWS_ENDPOINT_URL_ECR", registry.url())
        .start();
    let lost = lost_with(&stage, &registry).await;
    assert_eq!(stage.outcome(&lost.run).await.fallback_result.map(FallbackResult::as_str), Some("created"));
    stage.platform.executed(&lost).await;
    engine.remove(&create_of(&lost).name).await;
    stage.audit(&[lost], vec![worker]).await;
}

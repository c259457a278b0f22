//! A gateway whose answer leaves open whether it made a workload: the worker probes before it asks the gateway again.

use std::time::Duration;

use futures_util::future::join_all;
use warmproof::domain::outcome::{FallbackResult, Outcome};
use warmproof_lab::simulator::{GatewayAnswer, GatewayEffect, GatewayFault, Rule, SimulatorOptions};

use warmproof_testkit::platform::{Dispatched, SOON, options};
use warmproof_testkit::process::Program;
use warmproof_testkit::receiver::{Receiver, start_cold};
use warmproof_testkit::stage::Stage;

/// Long enough for a test's gateway, even on a busy machine.
const PATIENCE_MS: u32 = 2000;
/// From a failed create to the next probe.
const BACKOFF_MS: u32 = 1000;

/// The answers that leave it open.
const DARKNESS: [GatewayAnswer; 3] =
    [GatewayAnswer::Status { status: 502 }, GatewayAnswer::Status { status: 504 }, GatewayAnswer::Hang];

fn worker(stage: &Stage) -> Program {
    stage
        .worker("a")
        .env("COMPUTE_GATEWAY_TIMEOUT_MS", PATIENCE_MS)
        .env("WARMPROOF_CREATE_BACKOFF_BASE_MS", BACKOFF_MS)
        .env("WARMPROOF_CREATE_BACKOFF_MAX_MS", BACKOFF_MS)
}

/// A lost run whose first create goes wrong in this way.
async fn lost(stage: &Stage, effect: GatewayEffect, answer: GatewayAnswer) -> Dispatched {
    let lost = stage.platform.dispatch().await;
    let fault = GatewayFault { effect, answer };
    stage.platform.simulator.faults().gateway.add(Rule::always(fault).of(&lost.run).times(1));
    lost.schedule(&stage.db, SOON).await;
    lost
}

/// Two creates under one name, and a probe before each of them.
fn assert_probed_between(stage: &Stage, lost: &Dispatched, outcome: &Outcome) {
    assert_eq!((outcome.outcome.as_str(), outcome.create_count, outcome.probe_count), ("fallback", 2, 2));
    let probes = stage.platform.simulator.probes(&lost.run);
    let creates = stage.platform.simulator.creates(&lost.run);
    assert_eq!((probes.len(), creates.len()), (2, 2));
    let order = [&probes[0], &creates[0], &probes[1], &creates[1]].map(|visit| visit.arrived_at);
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(creates[0].name, creates[1].name, "both creates use one name");
    assert_eq!(creates[0].name, outcome.workload);
}

#[tokio::test]
async fn a_workload_that_was_not_made_is_requested_again_after_another_probe() {
    let stage = Stage::set().await;
    let a = worker(&stage).may_warn(&["a create failed"]).start();
    let losses = join_all(DARKNESS.map(|answer| lost(&stage, GatewayEffect::None, answer))).await;
    for lost in &losses {
        let outcome = stage.outcome(&lost.run).await;
        assert_probed_between(&stage, lost, &outcome);
        assert_eq!(outcome.fallback_result.map(FallbackResult::as_str), Some("created"));
        stage.platform.executed(lost).await;
        let record = stage.platform.simulator.record_of(&lost.run).unwrap();
        assert_eq!((record.creates, record.executions), (1, 1));
    }
    stage.audit(&losses, vec![a]).await;
}

#[tokio::test]
async fn a_workload_that_was_made_and_still_boots_is_found_by_its_name() {
    let stage = Stage::set_with(SimulatorOptions { boot: Duration::from_secs(10), ..options() }).await;
    let a = worker(&stage).may_warn(&["a create failed"]).start();
    let losses = join_all(DARKNESS.map(|answer| lost(&stage, GatewayEffect::Created, answer))).await;
    for lost in &losses {
        let outcome = stage.outcome(&lost.run).await;
        assert_probed_between(&stage, lost, &outcome);
        assert_eq!(outcome.fallback_result.map(FallbackResult::as_str), Some("existed"));
    }
    for lost in &losses {
        stage.platform.executed(lost).await;
        let record = stage.platform.simulator.record_of(&lost.run).unwrap();
        assert_eq!((record.creates, record.executions), (1, 1), "asked for twice, made once");
    }
    stage.audit(&losses, vec![a]).await;
}

/// The run is started and executed before its create comes to this end.
async fn is_never_requested_twice(answer: GatewayAnswer) {
    let stage = Stage::set().await;
    let mut gateway = Receiver::start().await;
    let a = worker(&stage)
        .env("COMPUTE_GATEWAY_URL", &gateway.base_url)
        // A probe follows the last request, too.
        .env("WARMPROOF_CREATE_ATTEMPTS", if answer == GatewayAnswer::Hang { 1 } else { 3 })
        .may_warn(&["a create failed"])
        .start();
    let lost = stage.hit().await;
    let call = gateway.call().await;
    let name = call.json()["name"].as_str().unwrap().to_owned();
    start_cold(&stage.platform, &lost, &name).await;
    let kept = match answer {
        GatewayAnswer::Status { status } => {
            call.answer(status);
            None
        }
        GatewayAnswer::Hang | GatewayAnswer::Reset => Some(call),
    };
    let outcome = stage.outcome(&lost.run).await;
    drop(kept);
    assert_eq!(
        (outcome.outcome.as_str(), outcome.fallback_result.map(FallbackResult::as_str)),
        ("fallback", Some("created"))
    );
    assert_eq!((outcome.create_count, outcome.probe_count), (1, 2), "{answer:?}");
    assert!(gateway.is_quiet(), "{answer:?}");
    let record = stage.platform.simulator.record_of(&lost.run).unwrap();
    assert_eq!((record.creates, record.executions), (1, 1));
    stage.audit(&[lost], vec![a]).await;
}

#[tokio::test]
async fn a_run_that_started_meanwhile_is_never_created_twice() {
    join_all(DARKNESS.map(is_never_requested_twice)).await;
}

#[tokio::test]
async fn a_broken_connection_is_followed_by_a_probe_even_after_the_last_create() {
    let stage = Stage::set().await;
    let a = worker(&stage)
        .env("WARMPROOF_CREATE_ATTEMPTS", 1)
        .env("WARMPROOF_CREATE_BACKOFF_BASE_MS", 3000)
        .env("WARMPROOF_CREATE_BACKOFF_MAX_MS", 3000)
        .may_warn(&["a create failed"])
        .start();
    let lost = lost(&stage, GatewayEffect::Created, GatewayAnswer::Reset).await;
    let outcome = stage.outcome(&lost.run).await;
    assert_eq!(
        outcome.fallback_result.map(FallbackResult::as_str),
        Some("created"),
        "not `failed`: it was made"
    );
    assert_eq!((outcome.create_count, outcome.probe_count), (1, 2));
    stage.audit(&[lost], vec![a]).await;
}

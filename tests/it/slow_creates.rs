//! Cold starts that take long: workers probe all other runs meanwhile.

use std::collections::BTreeMap;

use warmproof::domain::ids::RunId;
use warmproof::domain::outcome::{FallbackResult, OutcomeKind};

use warmproof_testkit::platform::{Dispatched, SOON};
use warmproof_testkit::receiver::{Receiver, start_cold};
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::until;

const IN_FLIGHT: usize = 10;
const AT_A_TIME: usize = 2;
/// More than one worker may have in flight.
const LOSSES: usize = 2 * IN_FLIGHT;
const WAITS: &str = "hold_reason = 'no_place' and create_permitted_at is not null";

#[tokio::test]
async fn creates_that_hang_leave_room_for_probes() {
    let stage = Stage::set().await;
    let mut gateway = Receiver::start().await;
    let worker = stage
        .worker("a")
        .env("COMPUTE_GATEWAY_URL", &gateway.base_url)
        // Longer than any wait of a test.
        .env("COMPUTE_GATEWAY_TIMEOUT_MS", 300_000)
        .env("WARMPROOF_CLAIMS_IN_FLIGHT_MAX", IN_FLIGHT)
        .env("WARMPROOF_FALLBACK_CONCURRENCY", AT_A_TIME)
        .env("WARMPROOF_HOLD_RETRY_MS", 100)
        .start();
    let mut losses = BTreeMap::<RunId, Dispatched>::new();
    for _ in 0..LOSSES {
        let lost = stage.hit().await;
        losses.insert(lost.run.clone(), lost);
    }
    let mut hanging = Vec::new();
    for _ in 0..AT_A_TIME {
        hanging.push(gateway.call().await);
    }
    // All are lost and permitted; the worker has released those without a place, and their rows show it.
    let waiting = format!("select count(*) from pending where {WAITS}");
    until("the losses without a place wait", async || {
        let waiting: i64 = stage.db.value(&waiting).await;
        (usize::try_from(waiting).unwrap() == LOSSES - IN_FLIGHT / 2).then_some(())
    })
    .await;

    let healthy = stage.platform.dispatch().await;
    stage.platform.start_warm(&healthy).await;
    healthy.schedule(&stage.db, SOON).await;
    assert_eq!(stage.outcome(&healthy.run).await.outcome, OutcomeKind::Delivered);
    assert!(gateway.is_quiet(), "meanwhile the gateway answered nothing and got no other request");

    for _ in 0..LOSSES {
        let call = match hanging.pop() {
            Some(call) => call,
            None => gateway.call().await,
        };
        let call_for = call.json();
        let run = RunId::parse(call_for["env"]["TRIGGER_RUN_ID"].as_str().unwrap()).unwrap();
        start_cold(&stage.platform, &losses[&run], call_for["name"].as_str().unwrap()).await;
        call.answer(201);
    }
    for lost in losses.values() {
        let outcome = stage.outcome(&lost.run).await;
        assert_eq!(outcome.fallback_result.map(FallbackResult::as_str), Some("created"), "{outcome:?}");
        assert_eq!((outcome.create_count, outcome.error.as_deref()), (1, None), "a wait counts as no create");
        let record = stage.platform.simulator.record_of(&lost.run).unwrap();
        assert_eq!((record.creates, record.executions), (1, 1));
    }
    let all: Vec<_> = losses.into_values().chain([healthy]).collect();
    stage.audit(&all, vec![worker]).await;
}

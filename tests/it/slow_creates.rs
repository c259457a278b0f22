//! Cold starts that take long: workers probe all other runs meanwhile.

use std::collections::BTreeMap;

use warmproof::domain::ids::RunId;
use warmproof::domain::outcome::{FallbackResult, OutcomeKind};
use warmproof::domain::verification::CancelReason;
use warmproof::store::audit::Actor;
use warmproof::store::pool::Stopped;

use warmproof_lab::simulator::{ProbeFault, Rule};
use warmproof_testkit::dispatch::cancellation;
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
async fn what_was_permitted_and_waits_for_a_slot_is_not_started_after_a_stop() {
    let stage = Stage::set().await;
    let mut gateway = Receiver::start().await;
    let worker = stage
        .worker("a")
        .env("COMPUTE_GATEWAY_URL", &gateway.base_url)
        .env("COMPUTE_GATEWAY_TIMEOUT_MS", 300_000)
        .env("WARMPROOF_FALLBACK_CONCURRENCY", 1)
        .env("WARMPROOF_HOLD_RETRY_MS", 100)
        .start();
    let losses = [stage.hit().await, stage.hit().await, stage.hit().await];
    let hanging = gateway.call().await;
    let permitted = "select count(*) from pending where create_permitted_at is not null";
    until("all have their permits", async || (stage.db.value::<i64>(permitted).await == 3).then_some(()))
        .await;

    let stopped = stage.db.store.stop_cold_starts(None, &Actor("test".to_owned())).await.unwrap();
    assert_eq!(stopped, [Stopped { pool: "default".to_owned(), cap: None }]);
    let call_for = hanging.json();
    let first = losses.iter().find(|lost| call_for["env"]["TRIGGER_RUN_ID"] == lost.run.as_str()).unwrap();
    start_cold(&stage.platform, first, call_for["name"].as_str().unwrap()).await;
    hanging.answer(201);
    assert_eq!(
        stage.outcome(&first.run).await.fallback_result,
        Some(FallbackResult::Created),
        "it was sent before"
    );
    let held = "select count(*) from pending where hold_reason = 'cap' and create_permitted_at is null";
    until("the others are held", async || (stage.db.value::<i64>(held).await == 2).then_some(())).await;
    assert!(gateway.is_quiet(), "no request was sent after the stop");

    for lost in losses.iter().filter(|lost| lost.run != first.run) {
        stage.platform.start_warm(lost).await;
        let ended =
            stage.db.store.cancel(&[cancellation(lost.run.as_str(), None, CancelReason::Connected)]).await;
        assert_eq!(ended.unwrap().len(), 1);
    }
    assert_eq!(stage.end(vec![worker]).await.len(), 1, "one settle, two cancels");
    stage.assert_sound().await;
}

#[tokio::test]
async fn losses_whose_creates_hang_do_not_stop_the_claims_of_others() {
    let stage = Stage::set().await;
    let mut gateway = Receiver::start().await;
    // Slow enough that losses wait for their probes, which is when a worker claims no more.
    stage.platform.simulator.faults().probe.add(Rule::always(ProbeFault::Delay { delay_ms: 50 }));
    let worker = stage
        .worker("a")
        .env("COMPUTE_GATEWAY_URL", &gateway.base_url)
        .env("COMPUTE_GATEWAY_TIMEOUT_MS", 300_000)
        .start();
    for _ in 0..200 {
        stage.hit().await;
    }
    let mut hanging = Vec::new();
    for _ in 0..10 {
        hanging.push(gateway.call().await);
    }
    let healthy = stage.platform.dispatch().await;
    stage.platform.start_warm(&healthy).await;
    healthy.schedule(&stage.db, SOON).await;
    assert_eq!(stage.outcome(&healthy.run).await.outcome, OutcomeKind::Delivered);
    assert!(gateway.is_quiet(), "the creates hang to the end");
    drop(worker);
    stage.db.audit.claims_are_left();
}

#[tokio::test]
async fn a_worker_leaves_the_losses_that_it_cannot_start_soon_to_another() {
    let stage = Stage::set().await;
    let mut gateway = Receiver::start().await;
    let base_url = gateway.base_url.clone();
    let worker = |name| {
        let worker = stage.worker(name).env("COMPUTE_GATEWAY_URL", &base_url);
        let worker = worker.env("COMPUTE_GATEWAY_TIMEOUT_MS", 300_000).env("WARMPROOF_HOLD_RETRY_MS", 100);
        worker.env("WARMPROOF_FALLBACK_CONCURRENCY", AT_A_TIME).start()
    };
    let first = worker("a");
    for _ in 0..LOSSES {
        stage.hit().await;
    }
    let mut hanging = Vec::new();
    for _ in 0..AT_A_TIME {
        hanging.push(gateway.call().await);
    }
    let permitted = "select count(*) from pending where create_permitted_at is not null";
    until("all have their permits", async || {
        (usize::try_from(stage.db.value::<i64>(permitted).await).unwrap() == LOSSES).then_some(())
    })
    .await;
    let second = worker("b");
    for _ in 0..AT_A_TIME {
        hanging.push(gateway.call().await);
    }
    assert_eq!(hanging.len(), 2 * AT_A_TIME, "both workers create");
    drop((first, second));
    stage.db.audit.claims_are_left();
}

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
        (usize::try_from(waiting).unwrap() == LOSSES - 2 * AT_A_TIME).then_some(())
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

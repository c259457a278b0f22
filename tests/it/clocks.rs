//! Only the database's clock counts: a process whose clock is an hour off changes nothing.

use serde_json::Value;

use warmproof_testkit::gateway::http_client;
use warmproof_testkit::platform::Dispatched;
use warmproof_testkit::process::Program;
use warmproof_testkit::stage::{API_TOKEN, Stage};

/// A caller and a worker, each with a clock of its own, verify a loss and a delivery.
async fn verified(caller: impl Fn(Program) -> Program, worker: impl Fn(Program) -> Program) {
    let stage = Stage::set().await;
    let supervisor = caller(stage.api()).start();
    let ready = supervisor.prints("ready on ").await;
    let url = ready.rsplit(' ').next().unwrap();
    let a = worker(stage.worker("a")).start();
    a.says("worker started").await;

    let (lost, alive) = (stage.platform.dispatch().await, stage.platform.dispatch().await);
    for hit in [&lost, &alive] {
        let before = stage.db.store.clock().await.unwrap();
        schedule(url, hit).await;
        let row = stage.pending(&hit.run).await.expect("a row");
        assert!(row.scheduled_at >= before && row.scheduled_at <= stage.db.store.clock().await.unwrap());
        assert_eq!((row.due_at - row.scheduled_at).num_milliseconds(), 1000);
        let dequeued_at = row.scheduled_at - row.dequeued_at;
        assert!((0..60).contains(&dequeued_at.num_seconds()), "the platform's clock, not the caller's");
    }
    stage.platform.start_warm(&alive).await;

    let outcomes = [(&lost, "fallback", 1), (&alive, "delivered", 0)];
    for (hit, expected, creates) in outcomes {
        let outcome = stage.outcome(&hit.run).await;
        assert_eq!((outcome.outcome.as_str(), outcome.late, &outcome.error), (expected, false, &None));
        assert_eq!((outcome.claim_count, outcome.probe_count), (1, 1));
        assert!(outcome.settled_at >= outcome.due_at, "not before it was due");
        assert!((outcome.settled_at - outcome.due_at).num_seconds() < 20, "{outcome:?}");
        assert_eq!(stage.platform.simulator.creates(&hit.run).len(), creates);
    }
    stage.platform.executed(&lost).await;

    let probed_at = stage.platform.simulator.probes(&lost.run)[0].arrived_at;
    let due_at = stage.outcome(&lost.run).await.due_at;
    assert!((probed_at - due_at).num_milliseconds() > -50, "probed {} early", due_at - probed_at);
    for event in a.events() {
        let millis = |key: &str| event[key].as_f64().unwrap_or_else(|| panic!("{key} in {event}"));
        assert_eq!(event["delay_ms"], 1000);
        for key in ["lag_ms", "overdue_ms"] {
            assert!((0.0..20_000.0).contains(&millis(key)), "{key}: {event}");
        }
        assert!((1000.0..21_000.0).contains(&millis("actual_delay_ms")), "{event}");
    }
    stage.audit(&[lost, alive], vec![a]).await;
}

async fn schedule(url: &str, hit: &Dispatched) {
    let message: Value = serde_json::from_str(hit.message.get()).unwrap();
    let answer = http_client()
        .post(format!("{url}/v1/verifications"))
        .bearer_auth(API_TOKEN)
        .json(&serde_json::json!({ "dequeued_message": message }))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 201);
}

#[tokio::test]
async fn true_clocks_for_comparison() {
    verified(|caller| caller, |worker| worker).await;
}

#[tokio::test]
async fn a_caller_an_hour_behind_and_a_worker_an_hour_ahead_change_nothing() {
    verified(|caller| caller.clock("-1h"), |worker| worker.clock("+1h")).await;
}

#[tokio::test]
async fn a_caller_an_hour_ahead_and_a_worker_an_hour_behind_change_nothing() {
    verified(|caller| caller.clock("+1h"), |worker| worker.clock("-1h")).await;
}

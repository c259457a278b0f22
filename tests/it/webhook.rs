//! Losses that a real worker process sends to a receiver in signed calls.

use serde::Deserialize;
use serde_json::value::RawValue;
use standardwebhooks::Webhook;
use warmproof::domain::dispatch::Dispatch;
use warmproof::domain::outcome::FallbackResult;
use warmproof::domain::verification::NewVerification;
use warmproof_lab::simulator::StartKind;

use warmproof_testkit::dispatch::{hit, schedule};
use warmproof_testkit::platform::SOON;
use warmproof_testkit::process::Program;
use warmproof_testkit::receiver::{Call, Receiver, start_cold};
use warmproof_testkit::stage::Stage;

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const KEY_PREVIOUS: &str = "whsec_C2FVsBQIhrscChlQIMVab5sSYspob7oD";
const TIMINGS: &str = r#"{"warmStartCheckMs": 12.50}"#;

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    workload: String,
    #[serde(borrow)]
    dequeued_message: &'a RawValue,
    #[serde(borrow)]
    timings: &'a RawValue,
}

fn worker(stage: &Stage, receiver: &Receiver) -> Program {
    stage
        .worker("a")
        .env("WARMPROOF_BACKEND", "webhook")
        .env("WARMPROOF_WEBHOOK_URL", format!("{}/cold", receiver.base_url))
        .env("WARMPROOF_WEBHOOK_SCHEMES", "http")
        .env("WARMPROOF_WEBHOOK_HOSTS", "127.0.0.1")
        .env("WARMPROOF_WEBHOOK_SECRET", KEY)
        .env("WARMPROOF_WEBHOOK_SECRET_PREVIOUS", KEY_PREVIOUS)
        .env("WARMPROOF_CREATE_BACKOFF_BASE_MS", 10)
        .env("WARMPROOF_CREATE_BACKOFF_MAX_MS", 10)
}

fn assert_signed(call: &Call) {
    for key in [KEY, KEY_PREVIOUS] {
        Webhook::new(key).unwrap().verify(&call.body, &call.headers).unwrap();
    }
}

fn workload(call: &Call) -> String {
    call.json()["data"]["workload"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_loss_becomes_one_signed_call_with_the_message_as_it_was_dequeued() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::start().await;
    let a = worker(&stage, &receiver).start();
    let lost = stage.platform.dispatch().await;
    let timings = RawValue::from_string(TIMINGS.to_owned()).unwrap();
    let new = NewVerification {
        dispatch: Dispatch::parse(lost.message.clone(), Some(timings)).unwrap(),
        delay: Some(SOON),
        ..hit("run_x", "snapshot_x", chrono::TimeDelta::zero())
    };
    let scheduled = schedule(&stage.db.store, new).await;

    let call = receiver.call().await;
    assert_signed(&call);
    let body: Body<'_> = serde_json::from_slice(&call.body).unwrap();
    assert_eq!(body.data.dequeued_message.get(), lost.message.get(), "byte for byte");
    assert_eq!(body.data.timings.get(), TIMINGS);
    let (name, id) = (body.data.workload, call.headers["webhook-id"].to_str().unwrap().to_owned());
    start_cold(&stage.platform, &lost, &name).await;
    call.answer(202);

    let outcome = stage.outcome(&lost.run).await;
    assert_eq!(
        (outcome.outcome.as_str(), outcome.fallback_result.map(FallbackResult::as_str)),
        ("fallback", Some("created"))
    );
    assert_eq!((outcome.probe_count, outcome.create_count), (1, 1));
    assert_eq!(outcome.workload.as_deref(), Some(name.as_str()));
    assert_eq!((id, scheduled.id.0), (outcome.id.to_string(), outcome.id));
    let record = stage.platform.simulator.record_of(&lost.run).unwrap();
    assert_eq!(record.dispatches[0].start_kind, Some(StartKind::Cold));
    assert_eq!((record.executions, record.creates), (1, 1));
    assert!(receiver.is_quiet());
    let log = a.stderr().join("\n");
    assert!(!log.contains(&KEY[6..]) && !log.contains(&KEY_PREVIOUS[6..]), "{log}");
    stage.audit(&[lost], vec![a]).await;
}

#[tokio::test]
async fn a_receiver_that_fails_is_called_again_only_after_another_probe() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::start().await;
    let a = worker(&stage, &receiver).may_warn(&["a create failed"]).start();
    let lost = stage.hit().await;
    let mut ids = Vec::new();
    for (nth, status) in [503, 503, 200].into_iter().enumerate() {
        let call = receiver.call().await;
        assert_signed(&call);
        assert_eq!(stage.platform.simulator.probes(&lost.run).len(), nth + 1, "a probe before each call");
        let row = stage.pending(&lost.run).await.unwrap();
        assert_eq!(usize::try_from(row.create_count).unwrap(), nth + 1, "counted before it is made");
        ids.push(call.headers["webhook-id"].clone());
        if status == 200 {
            start_cold(&stage.platform, &lost, &workload(&call)).await;
        }
        call.answer(status);
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "a receiver can recognize repeats: {ids:?}");
    let outcome = stage.outcome(&lost.run).await;
    assert_eq!(outcome.fallback_result.map(FallbackResult::as_str), Some("created"));
    assert_eq!((outcome.probe_count, outcome.create_count), (3, 3));
    assert!(receiver.is_quiet());
    stage.audit(&[lost], vec![a]).await;
}

#[tokio::test]
async fn a_receiver_that_starts_the_run_and_falls_silent_is_not_called_again() {
    let stage = Stage::set().await;
    let mut receiver = Receiver::start().await;
    let a = worker(&stage, &receiver)
        .env("WARMPROOF_WEBHOOK_TIMEOUT_MS", 2000)
        .may_warn(&["a create failed"])
        .start();
    let lost = stage.hit().await;
    let call = receiver.call().await;
    start_cold(&stage.platform, &lost, &workload(&call)).await;
    let outcome = stage.outcome(&lost.run).await;
    assert_eq!(outcome.fallback_result.map(FallbackResult::as_str), Some("created"));
    assert_eq!((outcome.probe_count, outcome.create_count), (2, 1));
    assert!(receiver.is_quiet());
    drop(call);
    stage.audit(&[lost], vec![a]).await;
}

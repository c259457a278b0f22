use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::config::environment::Environment;
use crate::config::reader;
use crate::config::workload::WorkloadConfig;
use crate::domain::dispatch::ColdStartRequest;
use crate::domain::ids::VerificationId;
use crate::workload::{CreateError, CreateRequest, Created, Workload};

const FRESH: &str = include_str!("../../../tests/fixtures/dequeued-message.fresh.json");
const NAME: &str = "runner-06n8r0j5c2p5ve1k3m7qfa9he1-dyx4b7nk";
const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const KEY_PREVIOUS: &str = "whsec_C2FVsBQIhrscChlQIMVab5sSYspob7oD";
const KEY_OF_OTHERS: &str = "whsec_b3RoZXJzb3RoZXJzb3RoZXJzb3RoZXJz";

type Calls = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

/// A receiver on this machine that records each call and answers all alike; returns its port.
async fn receiver(status: u16, location: String) -> (u16, Calls) {
    let calls = Calls::default();
    let notes = Arc::clone(&calls);
    let app = Router::new().fallback(move |headers: HeaderMap, body: Bytes| {
        notes.lock().expect("no panic before").push((headers, body));
        let status = StatusCode::from_u16(status).expect("a status");
        async move { (status, [(header::LOCATION, location)], "sesame-sesame") }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (port, calls)
}

/// A receiver that begins to read one call, sends this and then holds or closes the connection.
async fn broken_receiver(says: &'static str, holds: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let _begun = stream.read(&mut [0; 1024]).await.expect("a call");
        stream.write_all(says.as_bytes()).await.expect("part of an answer");
        if holds {
            std::future::pending::<()>().await;
        }
    });
    port
}

/// A webhook to a test's receiver, with the host listed unless `extra` overrides it.
fn webhook(url: &str, extra: &[(&str, &str)]) -> Workload {
    let fixed = [
        ("WARMPROOF_BACKEND", "webhook"),
        ("WARMPROOF_WEBHOOK_URL", url),
        ("WARMPROOF_WEBHOOK_SECRET", KEY),
        ("WARMPROOF_WEBHOOK_SCHEMES", "http"),
        ("WARMPROOF_WEBHOOK_HOSTS", "127.0.0.1"),
    ];
    let environment = Environment::from_pairs(fixed.into_iter().chain(extra.iter().copied()));
    let config = reader::read_all(&environment, WorkloadConfig::read).expect("a configuration");
    Workload::new(&config).expect("a webhook")
}

#[expect(clippy::disallowed_methods, reason = "receivers compare with the wall clock")]
fn fresh() -> CreateRequest {
    let request = ColdStartRequest::parse(FRESH).expect("a message");
    CreateRequest {
        name: request.workload_name(),
        verification_id: Some(VerificationId(Uuid::from_u128(7))),
        request,
        message: FRESH.trim().to_owned(),
        timings: None,
        pod_scheduled_at_ms: chrono::Utc::now().timestamp_millis(),
        request_id: None,
        traceparent: None,
    }
}

async fn outcome(port: u16) -> Result<Created, CreateError> {
    let impatient = [("WARMPROOF_WEBHOOK_TIMEOUT_MS", "300")];
    webhook(&format!("http://127.0.0.1:{port}/cold"), &impatient).create(fresh()).await
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: String,
    timestamp: chrono::DateTime<chrono::Utc>,
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    verification_id: Option<String>,
    run_id: String,
    snapshot_id: String,
    workload: String,
    #[serde(borrow)]
    dequeued_message: &'a RawValue,
    #[serde(borrow)]
    timings: Option<&'a RawValue>,
}

#[tokio::test]
async fn a_call_carries_the_dispatch_as_it_came() {
    let (port, calls) = receiver(204, String::new()).await;
    // What a parser and a printer would change: spaces, order, escapes, the form of numbers.
    let message =
        FRESH.trim().replacen('{', r#"{ "zz" : 1.0e+2,"aa":"\u00e9\/", "big":123456789012345678901,"#, 1);
    let timings = r#"{ "warmStartCheckMs" : 1.50 }"#;
    let create = CreateRequest {
        message: message.clone(),
        timings: Some(timings.to_owned()),
        request_id: Some("req-1".to_owned()),
        traceparent: fresh().request.traceparent(),
        ..fresh()
    };
    let asked_at_ms = create.pod_scheduled_at_ms;
    let created = webhook(&format!("http://127.0.0.1:{port}/cold?a=b"), &[]).create(create).await;
    assert_eq!(created, Ok(Created::Created { workload: NAME.to_owned() }));

    let calls = calls.lock().expect("no panic").clone();
    assert_eq!(calls.len(), 1, "one call");
    let (headers, body) = &calls[0];
    let body: Body<'_> = serde_json::from_slice(body).expect("the body of a call");
    assert_eq!(body.kind, "fallback.requested");
    assert_eq!(body.timestamp.timestamp_millis(), asked_at_ms);
    assert_eq!(body.data.dequeued_message.get(), message, "byte for byte");
    assert_eq!(body.data.timings.map(RawValue::get), Some(timings));
    assert_eq!(body.data.verification_id.as_deref(), Some("00000000-0000-0000-0000-000000000007"));
    assert_eq!(body.data.run_id, "run_06n8r0j5c2p5ve1k3m7qfa9he1");
    assert_eq!(body.data.snapshot_id, "snapshot_cmelv0q2h000408l2dyx4b7nk");
    assert_eq!(body.data.workload, NAME);
    let header = |name: &str| headers[name].to_str().expect("text").to_owned();
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("webhook-id"), "00000000-0000-0000-0000-000000000007");
    assert_eq!(header("webhook-timestamp"), (asked_at_ms / 1000).to_string());
    assert_eq!(header("x-request-id"), "req-1");
    assert_eq!(header("traceparent"), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
}

#[tokio::test]
async fn while_keys_change_a_receiver_with_either_of_them_agrees() {
    let (port, calls) = receiver(200, String::new()).await;
    let url = format!("http://127.0.0.1:{port}/");
    let rotating = webhook(&url, &[("WARMPROOF_WEBHOOK_SECRET_PREVIOUS", KEY_PREVIOUS)]);
    rotating.create(fresh()).await.expect("a created workload");
    webhook(&url, &[]).create(CreateRequest { verification_id: None, ..fresh() }).await.expect("another");

    let calls = calls.lock().expect("no panic").clone();
    let agrees = |key: &str, (headers, body): &(HeaderMap, Bytes)| {
        standardwebhooks::Webhook::new(key).expect("a key").verify(body, headers).is_ok()
    };
    let with_both = [KEY, KEY_PREVIOUS, KEY_OF_OTHERS].map(|key| agrees(key, &calls[0]));
    assert_eq!(with_both, [true, true, false]);
    let with_one = [KEY, KEY_PREVIOUS, KEY_OF_OTHERS].map(|key| agrees(key, &calls[1]));
    assert_eq!(with_one, [true, false, false]);
    let changed = (calls[0].0.clone(), Bytes::from_static(b"{}"));
    assert!(!agrees(KEY, &changed), "another body");
    assert_eq!(calls[1].0["webhook-id"], NAME, "without a verification: the workload's name");
}

#[tokio::test]
async fn each_status_says_what_the_next_call_may_do() {
    for status in [200, 201, 202, 204, 299] {
        let (port, _) = receiver(status, String::new()).await;
        assert_eq!(outcome(port).await, Ok(Created::Created { workload: NAME.to_owned() }), "{status}");
    }
    for status in [404, 408, 425, 429] {
        let (port, _) = receiver(status, String::new()).await;
        let reason = format!("the webhook's receiver answered {status}");
        assert_eq!(outcome(port).await, Err(CreateError::Transient { reason, name_may_be_taken: false }));
    }
    for status in [400, 401, 403, 409, 410, 422] {
        let (port, _) = receiver(status, String::new()).await;
        let reason = format!("the webhook's receiver answered {status}");
        assert_eq!(outcome(port).await, Err(CreateError::Permanent { reason }));
    }
    for status in [500, 502, 503, 504, 599] {
        let (port, _) = receiver(status, String::new()).await;
        let reason = format!("the webhook's receiver answered {status}");
        assert_eq!(outcome(port).await, Err(CreateError::Uncertain { reason }));
    }
}

#[tokio::test]
async fn a_redirect_is_refused_and_its_target_never_called() {
    let (target, calls) = receiver(200, String::new()).await;
    for status in [301, 302, 303, 307, 308] {
        let (port, _) = receiver(status, format!("http://127.0.0.1:{target}/")).await;
        let error = outcome(port).await.expect_err("a refusal");
        let reason = format!(
            "the webhook's receiver answered {status}: redirects are not followed, \
             set `WARMPROOF_WEBHOOK_URL` to the final address"
        );
        assert_eq!(error, CreateError::Permanent { reason });
    }
    assert!(calls.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn a_name_that_leads_inside_is_called_only_when_it_is_listed() {
    let (port, calls) = receiver(200, String::new()).await;
    let url = format!("http://localhost:{port}/");
    let unlisted = webhook(&url, &[("WARMPROOF_WEBHOOK_HOSTS", "")]);
    let reason = "`WARMPROOF_WEBHOOK_URL` has a host that resolves to a loopback address, \
                  which is called only if `WARMPROOF_WEBHOOK_HOSTS` lists the host";
    assert_eq!(unlisted.create(fresh()).await, Err(CreateError::Permanent { reason: reason.to_owned() }));
    assert!(calls.lock().expect("no panic").is_empty());
    for hosts in ["localhost", "other.example, LOCALHOST"] {
        let listed = webhook(&url, &[("WARMPROOF_WEBHOOK_HOSTS", hosts)]);
        listed.create(fresh()).await.expect("a created workload");
    }
    assert_eq!(calls.lock().expect("no panic").len(), 2);
}

#[tokio::test]
async fn a_receiver_that_may_have_got_the_call_is_uncertain() {
    let silent = broken_receiver("", true).await;
    let reason = "the webhook's receiver did not answer within 300 ms".to_owned();
    assert_eq!(outcome(silent).await, Err(CreateError::Uncertain { reason }));
    let closing = broken_receiver("", false).await;
    let error = outcome(closing).await.expect_err("no answer");
    let expected = matches!(&error, CreateError::Uncertain { reason }
        if reason.starts_with("the connection to the webhook's receiver broke: "));
    assert!(expected, "{error:?}");
}

#[tokio::test]
async fn an_absent_receiver_has_made_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let error = outcome(port).await.expect_err("no receiver");
    let expected = matches!(&error, CreateError::Transient { name_may_be_taken: false, reason }
        if reason.starts_with("could not reach the webhook's receiver: ") && !reason.contains("127.0.0.1"));
    assert!(expected, "{error:?}");
}

#[tokio::test]
async fn the_status_alone_decides_even_if_the_body_breaks_or_never_ends() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{";
    for holds in [true, false] {
        let port = broken_receiver(head, holds).await;
        assert_eq!(outcome(port).await, Ok(Created::Created { workload: NAME.to_owned() }));
    }
}

#[tokio::test]
async fn secrets_show_in_no_error_and_no_debug_print() {
    let (port, _) = receiver(500, String::new()).await;
    let url = format!("http://127.0.0.1:{port}/cold?token=sesame-sesame");
    let webhook = webhook(&url, &[("WARMPROOF_WEBHOOK_SECRET_PREVIOUS", KEY_PREVIOUS)]);
    let error = webhook.create(fresh()).await.expect_err("a refusal");
    let printed = format!("{error} {error:?} {webhook:?}");
    for secret in ["sesame", &KEY[6..], &KEY_PREVIOUS[6..]] {
        assert!(!printed.contains(secret), "{printed}");
    }
}

#[tokio::test]
async fn nothing_is_sent_to_prepare_to_check_or_to_discard() {
    let (port, calls) = receiver(200, String::new()).await;
    let webhook = webhook(&format!("http://127.0.0.1:{port}/"), &[]);
    let create = fresh();
    assert_eq!(webhook.prepare(&create).await, Ok(()));
    assert_eq!(webhook.check().await, Ok(()));
    assert_eq!(webhook.discard(NAME, &create.request.snapshot.friendly_id).await, Ok(()));
    assert_eq!(webhook.backend(), "webhook");
    assert!(calls.lock().expect("no panic").is_empty());
}

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::*;
use crate::config::environment::Environment;
use crate::config::reader;

const FRESH: &str = include_str!("../../tests/fixtures/dequeued-message.fresh.json");
const RETRY: &str = include_str!("../../tests/fixtures/dequeued-message.retry-scheduled.json");
const NAME: &str = "runner-06n8r0j5c2p5ve1k3m7qfa9he1-dyx4b7nk";

#[derive(Debug, Clone)]
struct Seen {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Value,
}

/// A gateway that records each request and gives the same answer to all.
async fn gateway(status: u16, answer: &'static str) -> (String, Arc<Mutex<Vec<Seen>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&seen);
    let app = Router::new().fallback(move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
        let body = serde_json::from_slice(&body).expect("a JSON body");
        notes.lock().expect("no panic before").push(Seen {
            method,
            path: uri.path().to_owned(),
            headers,
            body,
        });
        let status = StatusCode::from_u16(status).expect("a status");
        async move { (status, [(header::LOCATION, "/elsewhere")], answer) }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, app).await });
    (format!("http://{address}"), seen)
}

/// How a gateway fails to answer.
enum Break {
    /// Closes the connection once a request has begun.
    Close,
    /// Holds the connection and sends nothing.
    Silence,
    /// Sends 201 and stops in the middle of the body.
    CutBody,
}

/// A gateway that takes one connection and breaks it.
async fn broken_gateway(how: Break) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut buffer = [0; 1024];
        let _begun = stream.read(&mut buffer).await.expect("a request");
        match how {
            Break::Close => {}
            Break::Silence => std::future::pending().await,
            Break::CutBody => {
                let head = b"HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n{\"id\"";
                stream.write_all(head).await.expect("half an answer");
            }
        }
    });
    format!("http://{address}")
}

fn workload(url: &str, extra: &[(&str, &str)]) -> Workload {
    let fixed = [
        ("COMPUTE_GATEWAY_URL", url),
        ("TRIGGER_WORKLOAD_API_DOMAIN", "supervisor.example"),
        ("TRIGGER_WORKER_INSTANCE_NAME", "node-a"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otel.example"),
        ("TRIGGER_WARM_START_URL", "http://firestarter.example"),
    ];
    let environment = Environment::from_pairs(fixed.into_iter().chain(extra.iter().copied()));
    let config = reader::read_all(&environment, WorkloadConfig::read).expect("a configuration");
    Workload::new(&config).expect("a workload backend")
}

fn create_of(message: &str) -> CreateRequest {
    let request = ColdStartRequest::parse(message).expect("a message");
    CreateRequest {
        name: request.workload_name(),
        verification_id: Some(VerificationId(Uuid::nil())),
        request,
        message: message.to_owned(),
        timings: None,
        pod_scheduled_at_ms: 1_787_336_882_500,
        request_id: None,
        traceparent: None,
    }
}

fn fresh() -> CreateRequest {
    create_of(FRESH)
}

async fn outcome(status: u16, answer: &'static str) -> Result<Created, CreateError> {
    let (url, _) = gateway(status, answer).await;
    workload(&url, &[("COMPUTE_GATEWAY_AUTH_TOKEN", "sesame-sesame")]).create(fresh()).await
}

#[tokio::test]
async fn the_request_is_the_gateways_own() {
    let (url, seen) = gateway(201, r#"{"id":"i-1"}"#).await;
    let created = workload(&url, &[]).create(fresh()).await;
    assert_eq!(created, Ok(Created::Created { workload: NAME.to_owned() }));
    let seen = seen.lock().expect("no panic").clone();
    assert_eq!(seen.len(), 1, "one request");
    assert_eq!((&seen[0].method, seen[0].path.as_str()), (&Method::POST, "/api/instances"));
    assert_eq!(seen[0].headers["content-type"], "application/json");
    for name in ["authorization", "x-request-id", "traceparent", "baggage"] {
        assert!(!seen[0].headers.contains_key(name), "{name}");
    }
    let expected = json!({
        "name": NAME,
        "image": "registry.internal.example/deployments/proj_hqkldvbmxwqzwprtcyfa:20260821.3.prod",
        "env": {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://otel.example",
            "PRETTY_LOGS": "false",
            "TRIGGER_DEPLOYMENT_FRIENDLY_ID": "deployment_r8k2mfq7w3zsbd5n",
            "TRIGGER_DEPLOYMENT_ID": "deployment_r8k2mfq7w3zsbd5n",
            "TRIGGER_DEPLOYMENT_VERSION": "20260821.3",
            "TRIGGER_DEQUEUED_AT_MS": "1787336872114",
            "TRIGGER_ENV_ID": "clx3q9v2a0003ml08f1t6h2yz",
            "TRIGGER_MACHINE_CPU": "0.5",
            "TRIGGER_MACHINE_MEMORY": "0.5",
            "TRIGGER_POD_SCHEDULED_AT_MS": "1787336882500",
            "TRIGGER_RUNNER_ID": NAME,
            "TRIGGER_RUN_ID": "run_06n8r0j5c2p5ve1k3m7qfa9he1",
            "TRIGGER_SEND_RUN_DEBUG_LOGS": "false",
            "TRIGGER_SNAPSHOT_ID": "snapshot_cmelv0q2h000408l2dyx4b7nk",
            "TRIGGER_SUPERVISOR_API_DOMAIN": "supervisor.example",
            "TRIGGER_SUPERVISOR_API_PORT": "8020",
            "TRIGGER_SUPERVISOR_API_PROTOCOL": "http",
            "TRIGGER_WARM_START_URL": "http://firestarter.example",
            "TRIGGER_WORKER_INSTANCE_NAME": "node-a",
        },
        "cpu": 0.5,
        "memory_gb": 0.5,
        "metadata": {
            "runId": "run_06n8r0j5c2p5ve1k3m7qfa9he1",
            "envId": "clx3q9v2a0003ml08f1t6h2yz",
            "envType": "PRODUCTION",
            "orgId": "clx3q9tqs0001ml08d4kk9c7w",
            "projectId": "clx3q9uh40002ml08a9r3g5jb",
            "deploymentVersion": "20260821.3",
            "machine": "small-1x",
            "snapshotId": "snapshot_cmelv0q2h000408l2dyx4b7nk",
            "verificationId": "00000000-0000-0000-0000-000000000000",
        },
        "labels": { "org": "clx3q9tqs0001ml08d4kk9c7w" },
    });
    assert_eq!(seen[0].body, expected);
}

#[tokio::test]
async fn credentials_and_correlation_travel_in_headers() {
    let (url, seen) = gateway(201, r#"{"id":"i-1"}"#).await;
    let create = CreateRequest {
        request_id: Some("req-1".to_owned()),
        traceparent: fresh().request.traceparent(),
        ..fresh()
    };
    let workload = workload(&format!("{url}/"), &[("COMPUTE_GATEWAY_AUTH_TOKEN", "sesame-sesame")]);
    workload.create(create).await.expect("a workload");
    let seen = seen.lock().expect("no panic").clone();
    assert_eq!(seen[0].path, "//api/instances", "the base is used as written");
    let header = |name: &str| seen[0].headers[name].to_str().expect("text").to_owned();
    assert_eq!(header("authorization"), "Bearer sesame-sesame");
    assert_eq!(header("x-request-id"), "req-1");
    assert_eq!(header("traceparent"), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    assert_eq!(
        header("baggage"),
        "run_id=run_06n8r0j5c2p5ve1k3m7qfa9he1,snapshot_id=snapshot_cmelv0q2h000408l2dyx4b7nk"
    );
}

#[tokio::test]
async fn a_later_request_asks_under_its_own_name() {
    let (url, seen) = gateway(201, r#"{"id":"i-1"}"#).await;
    let token = [("WORKLOAD_TOKEN_ENFORCEMENT", "enforce"), ("WORKLOAD_TOKEN_SECRET", "test-secret")];
    let name = next_name(&fresh().name, 2);
    workload(&url, &token).create(CreateRequest { name: name.clone(), ..fresh() }).await.expect("a workload");
    let body = seen.lock().expect("no panic")[0].body.clone();
    assert_eq!(name, format!("{NAME}-r2"));
    assert_eq!(next_name(NAME, 1), NAME);
    assert_eq!((&body["name"], &body["env"]["TRIGGER_RUNNER_ID"]), (&json!(name), &json!(name)));
    let token = body["env"]["TRIGGER_DEPLOYMENT_ID"].as_str().expect("a token");
    assert!(token.starts_with("eyJhbGciOiJIUzI1NiJ9.") && token.ends_with("-QVs"), "{token}");
}

#[tokio::test]
async fn each_status_says_what_the_next_request_may_do() {
    let existed = Created::Existed { workload: NAME.to_owned() };
    assert_eq!(outcome(409, r#"{"error":"name taken"}"#).await, Ok(existed));
    for status in [307, 400, 401, 422] {
        let error = outcome(status, "").await.expect_err("a refusal");
        assert!(matches!(error, CreateError::Permanent { .. }), "{status}: {error:?}");
    }
    for (status, taken) in [(429, false), (500, true), (503, true)] {
        let error = outcome(status, "").await.expect_err("a refusal");
        let expected = CreateError::Transient {
            reason: format!("the gateway answered {status}"),
            name_may_be_taken: taken,
        };
        assert_eq!(error, expected);
    }
    for (status, body) in [(202, r#"{"id":"i-1"}"#), (201, ""), (201, "<html>"), (502, ""), (504, "")] {
        let error = outcome(status, body).await.expect_err("no instance");
        assert!(matches!(error, CreateError::Uncertain { .. }), "{status}: {error:?}");
    }
}

#[tokio::test]
async fn a_gateway_that_is_not_there_has_made_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let error = workload(&url, &[]).create(fresh()).await.expect_err("no gateway");
    let expected = matches!(&error, CreateError::Transient { name_may_be_taken: false, reason }
        if reason.starts_with("could not reach the gateway: ") && !reason.contains("127.0.0.1"));
    assert!(expected, "{error:?}");
}

#[tokio::test]
async fn silence_a_broken_connection_and_half_an_answer_are_uncertain() {
    let patience = [("COMPUTE_GATEWAY_TIMEOUT_MS", "100")];
    let silent = broken_gateway(Break::Silence).await;
    let error = workload(&silent, &patience).create(fresh()).await.expect_err("no answer");
    let reason = "the gateway did not answer within 100 ms".to_owned();
    assert_eq!(error, CreateError::Uncertain { reason });
    let closing = broken_gateway(Break::Close).await;
    let error = workload(&closing, &[]).create(fresh()).await.expect_err("no answer");
    let expected = matches!(&error, CreateError::Uncertain { reason }
        if reason.starts_with("the connection to the gateway broke: ") && !reason.contains("127.0.0.1"));
    assert!(expected, "{error:?}");
    let cut = broken_gateway(Break::CutBody).await;
    let error = workload(&cut, &[]).create(fresh()).await.expect_err("half an answer");
    assert!(matches!(error, CreateError::Uncertain { .. }), "{error:?}");
}

#[tokio::test]
async fn what_cannot_be_started_cold_is_never_asked_for() {
    let (url, seen) = gateway(201, r#"{"id":"i-1"}"#).await;
    let workload = workload(&url, &[]);
    let mut no_image = fresh();
    no_image.request.image = None;
    let mut no_deployment = fresh();
    no_deployment.request.deployment.friendly_id = Some(String::new());
    let cases = [
        (no_image, "Image is missing"),
        (no_deployment, "Deployment is missing"),
        (create_of(RETRY), "the run resumes from a checkpoint, which a cold start would lose"),
    ];
    for (create, reason) in cases {
        let reason = reason.to_owned();
        assert_eq!(workload.create(create).await, Err(CreateError::Permanent { reason }));
    }
    assert!(seen.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn secrets_show_in_no_error_and_no_debug_print() {
    let answer = r#"{"error":"bad env sesame-sesame hush-hush"}"#;
    let (url, _) = gateway(500, answer).await;
    let secrets = [
        ("COMPUTE_GATEWAY_AUTH_TOKEN", "sesame-sesame"),
        ("RUNNER_ADDITIONAL_ENV_VARS", "KEY=hush-hush"),
        ("WORKLOAD_TOKEN_ENFORCEMENT", "log"),
        ("WORKLOAD_TOKEN_SECRET", "test-secret"),
    ];
    let workload = workload(&url, &secrets);
    let error = workload.create(fresh()).await.expect_err("a refusal");
    let printed = format!("{error} {error:?} {workload:?}");
    for secret in ["sesame", "hush", "test-secret"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}

use std::time::Duration;

use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::probe::{BODY_BYTES_MAX, KEPT_BYTES_MAX, reset_after};
use super::*;
use crate::config::platform::PlatformConfig;
use crate::domain::ids::{RunId, SnapshotId};
use crate::domain::verdict::ProbeFailure;

const PENDING: &str = include_str!("../../tests/fixtures/latest-snapshot.pending.json");
const SECRETS: [&str; 2] = ["tr_wgt_topsecret", "managedsecret"];

fn run() -> RunId {
    RunId::parse("run_06n8r0j5c2p5ve1k3m7qfa9he1").unwrap()
}

fn client(address: &str, probe_timeout: Duration) -> Client {
    Client::new(&PlatformConfig {
        api_url: address.parse().unwrap(),
        worker_token: SecretString::from(SECRETS[0]),
        managed_secret: SecretString::from(SECRETS[1]),
        instance_name: "node-a".to_owned(),
        probe_timeout,
        redrive: crate::domain::claim::REDRIVE_DEFAULT,
    })
    .unwrap()
}

/// What a server does once it has read a request's head and the body that follows it.
enum Reply {
    Bytes(Vec<u8>),
    BytesThenReset(Vec<u8>),
    Hang,
    BytesThenHang(Vec<u8>),
}

/// Serves one connection by hand; the handle gives the request as it came.
async fn server(reply: Reply) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let handle = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = read_request(&mut stream).await;
        let (bytes, reset, hang) = match reply {
            Reply::Bytes(bytes) => (bytes, false, false),
            Reply::BytesThenReset(bytes) => (bytes, true, false),
            Reply::BytesThenHang(bytes) => (bytes, false, true),
            Reply::Hang => (Vec::new(), false, true),
        };
        // A client that has read enough may be gone already.
        let _ = stream.write_all(&bytes).await;
        if hang {
            // Until the client gives up.
            let _ = stream.read(&mut [0]).await;
        }
        if reset {
            stream.set_zero_linger().unwrap();
        }
        request
    });
    (address, handle)
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse::<usize>().unwrap());
            if body.len() >= length {
                return text.into_owned();
            }
        }
        let count = stream.read(&mut chunk).await.unwrap();
        assert!(count > 0, "the client left within its request");
        request.extend_from_slice(&chunk[..count]);
    }
}

fn http(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}connection: close\r\n\r\n{body}", body.len())
        .into_bytes()
}

async fn probe(reply: Reply) -> crate::domain::verdict::Observation {
    let (address, _served) = server(reply).await;
    client(&address, Duration::from_secs(10)).latest_snapshot(&run()).await
}

async fn failure(reply: Reply) -> ProbeFailure {
    let failure = probe(reply).await.expect_err("a failure");
    let text = format!("{failure} {failure:?}");
    for secret in SECRETS {
        assert!(!text.contains(secret), "{text}");
    }
    failure
}

#[tokio::test]
async fn a_probe_is_one_get_with_the_platforms_headers() {
    let (address, served) = server(Reply::Bytes(http("200 OK", "", PENDING))).await;
    let latest = client(&address, Duration::from_secs(10)).latest_snapshot(&run()).await.unwrap();
    assert_eq!(latest.snapshot_id.as_str(), "snapshot_cmelv0q2h000408l2dyx4b7nk");
    assert_eq!(latest.execution_status, "PENDING_EXECUTING");
    assert_eq!(latest.run_status, "PENDING");
    assert_eq!(latest.attempt_number, None);

    let request = served.await.unwrap();
    let line = "GET /engine/v1/worker-actions/runs/run_06n8r0j5c2p5ve1k3m7qfa9he1/snapshots/latest HTTP/1.1";
    assert_eq!(request.lines().next(), Some(line));
    for header in [
        "authorization: Bearer tr_wgt_topsecret",
        "x-trigger-worker-instance-name: node-a",
        "x-trigger-worker-managed-secret: managedsecret",
    ] {
        assert!(request.contains(header), "{header} is missing in {request}");
    }
    let key = request.lines().find_map(|line| line.strip_prefix("x-trigger-request-idempotency-key: "));
    assert!(uuid::Uuid::parse_str(key.unwrap()).is_ok());
    assert!(!request.contains("x-trigger-worker-runner-id"));
    assert!(!request.contains("x-trigger-worker-environment-id"));
}

#[tokio::test]
async fn every_refusal_has_its_name() {
    let status = |status: &'static str| Reply::Bytes(http(status, "", "{\"error\":\"no\"}"));
    assert_eq!(failure(status("500 Oops")).await, ProbeFailure::ServerError { status: 500 });
    assert_eq!(failure(status("503 Busy")).await, ProbeFailure::ServerError { status: 503 });
    assert_eq!(failure(status("401 No")).await, ProbeFailure::Unauthorized);
    assert_eq!(failure(status("404 No")).await, ProbeFailure::UnexpectedStatus { status: 404 });
    assert_eq!(failure(status("429 Slow")).await, ProbeFailure::RateLimited { reset_after: None });
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let reply = Reply::Bytes(http("302 Found", "location: http://127.0.0.1:1/\r\n", ""));
    assert_eq!(failure(reply).await, ProbeFailure::UnexpectedStatus { status: 302 });
}

#[tokio::test]
async fn a_429_is_reckoned_against_the_answering_clock() {
    let headers = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\nx-ratelimit-reset: 784111780000\r\n";
    let reply = Reply::Bytes(http("429 Slow", headers, ""));
    let expected = ProbeFailure::RateLimited { reset_after: Some(Duration::from_secs(3)) };
    assert_eq!(failure(reply).await, expected);
}

#[test]
fn a_reset_is_never_negative_and_never_above_a_minute() {
    let now = chrono::DateTime::from_timestamp_millis(1_000_000).unwrap();
    let mut headers = reqwest::header::HeaderMap::new();
    assert_eq!(reset_after(&headers, now), None);
    for (reset, expected_ms) in [("1002500", 2500), ("0", 0), ("999999999999", 60_000)] {
        headers.insert(wire::RATE_LIMIT_RESET_HEADER, reset.parse().unwrap());
        assert_eq!(reset_after(&headers, now), Some(Duration::from_millis(expected_ms)), "{reset}");
    }
    headers.insert(wire::RATE_LIMIT_RESET_HEADER, "soon".parse().unwrap());
    assert_eq!(reset_after(&headers, now), None);
}

#[tokio::test]
async fn what_is_no_json_differs_from_what_is_no_snapshot() {
    for body in ["", "<html>", "{\"execution\":", "{\"execution\":1} x"] {
        assert_eq!(
            failure(Reply::Bytes(http("200 OK", "", body))).await,
            ProbeFailure::InvalidJson,
            "{body}"
        );
    }
}

#[tokio::test]
async fn a_wrong_shape_names_its_field_and_never_the_body() {
    let cases = [
        ("\"version\": \"1\"", "\"version\": \"hidden\"", "`execution.version`: not of the expected form"),
        ("\"description\":", "\"x\":", "`execution.snapshot`: `description` is missing"),
        ("\"snapshot_cm", "\"hidden_cm", "`execution.snapshot.friendlyId`: not of the expected form"),
        ("run_06", "run_07", "`execution.run.friendlyId`: names another run than the one asked for"),
    ];
    for (from, to, expected) in cases {
        let body = PENDING.replace(from, to);
        assert_ne!(body, PENDING);
        let failure = failure(Reply::Bytes(http("200 OK", "", &body))).await;
        assert_eq!(failure, ProbeFailure::WrongSchema { problem: expected.to_owned() });
    }
}

#[tokio::test]
async fn a_body_above_the_limit_is_not_read_to_its_end() {
    // Promises far more than it ever sends: reading on would end in the timeout.
    for (start, limit_bytes) in [
        (r#"{"execution": {"completedWaitpoints": [""#, BODY_BYTES_MAX),
        (r#"{"execution": {"snapshot": {"id": ""#, KEPT_BYTES_MAX),
    ] {
        let mut bytes = format!("HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\n{start}").into_bytes();
        bytes.resize(bytes.len() + limit_bytes + 1, b' ');
        assert_eq!(failure(Reply::BytesThenHang(bytes)).await, ProbeFailure::BodyTooLarge { limit_bytes });
    }
}

#[tokio::test]
async fn tens_of_megabytes_of_waitpoints_are_passed_over() {
    let output = "x".repeat(100 << 10);
    let waitpoint = format!(
        r#"{{"output": "{output}", "odd": ["\ud800", 1e999, {}1{}]}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    let waitpoints = vec![waitpoint; 236].join(",");
    let body =
        PENDING.replace("\"completedWaitpoints\": []", &format!("\"completedWaitpoints\": [{waitpoints}]"));
    assert!(body.len() > 20 << 20);
    let latest = probe(Reply::Bytes(http("200 OK", "", &body))).await.unwrap();
    assert_eq!(latest.snapshot_id.as_str(), "snapshot_cmelv0q2h000408l2dyx4b7nk");
}

#[tokio::test]
async fn a_broken_connection_is_a_connection_failure() {
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"execution\":".to_vec();
    for reply in [Reply::Bytes(cut.clone()), Reply::BytesThenReset(cut), Reply::BytesThenReset(Vec::new())] {
        let failure = failure(reply).await;
        assert!(matches!(failure, ProbeFailure::Connection { .. }), "{failure:?}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    // A password in the URL must not reach the text either.
    let client = client(&format!("http://user:hidden@{closed}"), Duration::from_secs(10));
    let failure = client.latest_snapshot(&run()).await.unwrap_err();
    let ProbeFailure::Connection { problem } = &failure else { panic!("{failure:?}") };
    assert!(problem.contains("onnection refused"), "{problem}");
    assert!(!problem.contains("hidden") && !problem.contains("127.0.0.1"), "{problem}");
    assert!(!format!("{client:?}").contains("hidden"));
}

#[tokio::test]
async fn the_timeout_covers_headers_and_body() {
    let started = b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{".to_vec();
    for reply in [Reply::Hang, Reply::BytesThenHang(started)] {
        let (address, _served) = server(reply).await;
        let after = Duration::from_millis(50);
        let observation = client(&address, after).latest_snapshot(&run()).await;
        assert_eq!(observation, Err(ProbeFailure::Timeout { after }));
    }
}

#[tokio::test]
async fn a_start_is_sent_as_text_and_its_refusal_is_typed() {
    let body = "{\"error\":\"Snapshot changed inside startRunAttempt\"}";
    let (address, served) = server(Reply::Bytes(http("409 Conflict", "", body))).await;
    let snapshot = SnapshotId::parse("snapshot_a").unwrap();
    let client = client(&address, Duration::from_secs(10));
    let error = client.start_attempt(&run(), &snapshot, true).await.unwrap_err();
    let message = "Snapshot changed inside startRunAttempt".to_owned();
    assert_eq!(error, CallError::Status { status: 409, message });
    let request = served.await.unwrap();
    assert!(request.contains("content-type: text/plain;charset=UTF-8"), "{request}");
    assert!(request.ends_with("{\"isWarmStart\":true}"), "{request}");
}

#[tokio::test]
async fn the_other_calls_read_the_recorded_answers() {
    let connect = include_str!("../../tests/fixtures/connect.response.json");
    let (address, served) = server(Reply::Bytes(http("200 OK", "", connect))).await;
    let group = client(&address, Duration::from_secs(10)).connect().await.unwrap();
    assert_eq!((group.kind.as_str(), group.name.as_str()), ("MANAGED", "us-east-1"));
    assert!(served.await.unwrap().contains("content-type: application/json"));

    let message = include_str!("../../tests/fixtures/dequeued-message.fresh.json").trim();
    let (address, _served) = server(Reply::Bytes(http("200 OK", "", &format!("[{message}]")))).await;
    let messages = client(&address, Duration::from_secs(10)).dequeue().await.unwrap();
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].get(), message, "the message must survive byte for byte");

    let start = include_str!("../../tests/fixtures/start-attempt.response.json");
    let (address, _served) = server(Reply::Bytes(http("200 OK", "", start))).await;
    let snapshot = SnapshotId::parse("snapshot_a").unwrap();
    let client = client(&address, Duration::from_secs(10));
    let started = client.start_attempt(&run(), &snapshot, false).await.unwrap();
    assert_eq!(started.run.attempt_number, Some(1));
}

#[tokio::test]
async fn a_client_for_https_needs_no_provider_of_the_process() {
    let client = client("https://127.0.0.1:1", Duration::from_secs(10));
    let failure = client.latest_snapshot(&run()).await.unwrap_err();
    assert!(matches!(failure, ProbeFailure::Connection { .. }), "{failure:?}");
}

#[test]
fn a_credential_that_no_header_can_carry_names_its_variable() {
    let error = Client::new(&PlatformConfig {
        api_url: "http://127.0.0.1:1".parse().unwrap(),
        worker_token: SecretString::from("tr_wgt_a\nb"),
        managed_secret: SecretString::from("s"),
        instance_name: "node-a".to_owned(),
        probe_timeout: Duration::from_secs(2),
        redrive: crate::domain::claim::REDRIVE_DEFAULT,
    })
    .unwrap_err();
    assert_eq!(error.to_string(), "`TRIGGER_WORKER_TOKEN` holds characters that an HTTP header cannot carry");
}

/// Re-serialising a recorded answer must give it back: nothing renamed, nothing dropped, nothing null.
#[test]
fn the_wire_types_carry_every_recorded_field() {
    fn round_trip<T: serde::Serialize + serde::de::DeserializeOwned>(recorded: &str) {
        let typed: T = serde_json::from_str(recorded).unwrap();
        let recorded: serde_json::Value = serde_json::from_str(recorded).unwrap();
        assert_eq!(serde_json::to_value(typed).unwrap(), recorded);
    }
    round_trip::<wire::LatestSnapshotAnswer>(PENDING);
    round_trip::<wire::LatestSnapshotAnswer>(include_str!(
        "../../tests/fixtures/latest-snapshot.executing.json"
    ));
    round_trip::<wire::LatestSnapshotAnswer>(include_str!(
        "../../tests/fixtures/latest-snapshot.requeued.json"
    ));
    round_trip::<wire::ConnectAnswer>(include_str!("../../tests/fixtures/connect.response.json"));
    round_trip::<wire::StartAttemptAnswer>(include_str!("../../tests/fixtures/start-attempt.response.json"));
}

//! Faults between us and the API server, simulated by a server in this process; `sockets` has real ones.

use std::time::Duration;

use axum::http::{Method, Request as HttpRequest, Response, StatusCode};
use bytes::Bytes;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tower_test::mock::{self, SendResponse};

use super::connection::Timeouts;
use super::*;
use crate::config::environment::Environment;
use crate::config::reader;
use crate::config::workload::{BackendConfig, WorkloadConfig};
use crate::domain::dispatch::ColdStartRequest;
use crate::workload::token::DeploymentId;
use crate::workload::{Backend, CreateRequest, Workload};

mod sockets;

const FRESH: &str = include_str!("../../../tests/fixtures/dequeued-message.fresh.json");
const NAME: &str = "runner-06n8r0j5c2p5ve1k3m7qfa9he1-dyx4b7nk";
const SECRET: &str = "sesame-sesame";

/// Long enough for a busy machine, short enough for a test that waits for one of them.
const TIMEOUTS: Timeouts = Timeouts { read: Duration::from_secs(20), write: Duration::from_millis(300) };

/// What the simulated server does with one request.
#[derive(Debug, Clone)]
enum Step {
    /// Keeps the pod of a POST, forgets the one of a DELETE, shows it to a GET.
    Work,
    /// Works, and then never answers.
    WorkInSilence,
    /// Works, and then breaks the connection.
    WorkAndReset,
    /// Breaks the connection.
    Reset,
    /// Answers with the API's own error.
    Refuse(u16, &'static str),
    /// Answers as a proxy does.
    Proxy(u16),
    /// Changes the pod it keeps and shows it.
    Show(fn(&mut Value)),
}

use Step::{Proxy, Refuse, Reset, Show, Work, WorkAndReset, WorkInSilence};

type Sender = SendResponse<Response<Body>>;

/// An API server that takes these steps and reports the methods of the requests it got.
fn server(steps: Vec<Step>, stored: Option<Value>) -> (Client, JoinHandle<Vec<Method>>) {
    let (service, mut handle) = mock::pair::<HttpRequest<Body>, Response<Body>>();
    let server = tokio::spawn(async move {
        let (mut stored, mut seen, mut unanswered) = (stored, Vec::new(), Vec::new());
        let mut steps = steps.into_iter();
        while let Some((request, sender)) = handle.next_request().await {
            seen.push(request.method().clone());
            // More requests than steps: the list of methods shows it.
            let Some(step) = steps.next() else { continue };
            unanswered.extend(act(step, request, sender, &mut stored).await);
        }
        seen
    });
    (Client::new(service, "default"), server)
}

async fn act(
    step: Step,
    request: HttpRequest<Body>,
    sender: Sender,
    stored: &mut Option<Value>,
) -> Option<Sender> {
    let reset = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    match step {
        Work => sender.send_response(work(request, stored).await),
        WorkInSilence => {
            work(request, stored).await;
            return Some(sender);
        }
        WorkAndReset => {
            work(request, stored).await;
            sender.send_error(reset());
        }
        Reset => sender.send_error(reset()),
        Refuse(code, reason) => sender.send_response(refusal(code, reason)),
        Proxy(code) => sender.send_response(response(code, b"<html>".to_vec())),
        Show(change) => {
            stored.as_mut().map(change);
            sender.send_response(work(request, stored).await);
        }
    }
    None
}

async fn work(request: HttpRequest<Body>, stored: &mut Option<Value>) -> Response<Body> {
    let method = request.method().clone();
    let body: Bytes = request.into_body().collect_bytes().await.expect("a body");
    let pod = |pod: &Value| response(200, pod.to_string().into_bytes());
    match (method.as_str(), stored.as_ref()) {
        ("POST", None) => {
            let mut made: Value = serde_json::from_slice(&body).expect("a pod");
            made["metadata"]["uid"] = json!("uid-1");
            made["status"] = json!({"phase": "Pending"});
            pod(stored.insert(made))
        }
        ("POST", Some(_)) => refusal(409, "AlreadyExists"),
        (_, None) => refusal(404, "NotFound"),
        ("DELETE", Some(kept)) => {
            let options: Value = serde_json::from_slice(&body).expect("options");
            assert_eq!(options["preconditions"]["uid"], kept["metadata"]["uid"], "only that very pod");
            assert_eq!(options["gracePeriodSeconds"], 0);
            *stored = None;
            response(200, b"{}".to_vec())
        }
        (_, Some(kept)) => pod(kept),
    }
}

fn refusal(code: u16, reason: &str) -> Response<Body> {
    let message = format!("no: {SECRET}");
    let status =
        json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message});
    response(code, status.to_string().into_bytes())
}

fn response(code: u16, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(code).expect("a status");
    response
}

fn config(extra: &[(&str, &str)]) -> WorkloadConfig {
    let fixed = [
        ("WARMPROOF_BACKEND", "kubernetes"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otel.example"),
        ("RUNNER_ADDITIONAL_ENV_VARS", concat!("KEY=", "sesame-sesame")),
    ];
    let environment = Environment::from_pairs(fixed.into_iter().chain(extra.iter().copied()));
    reader::read_all(&environment, WorkloadConfig::read).expect("a configuration")
}

fn workload(client: Client) -> Workload {
    let config = config(&[]);
    let BackendConfig::Kubernetes(kubernetes) = &config.backend else { panic!("another backend") };
    let connection = Connection::of(client, TIMEOUTS);
    let kubernetes = Kubernetes { config: Arc::new((**kubernetes).clone()), connection };
    let deployment_id = DeploymentId::new(&config.token);
    Workload { backend: Backend::Kubernetes(kubernetes), deployment_id, runner: config.runner }
}

fn fresh() -> CreateRequest {
    let request = ColdStartRequest::parse(FRESH).expect("a message");
    CreateRequest {
        name: request.workload_name(),
        verification_id: None,
        request,
        message: FRESH.to_owned(),
        timings: None,
        pod_scheduled_at_ms: 1_787_336_882_500,
        request_id: None,
        traceparent: None,
    }
}

/// The result of a create, and the methods of its requests.
async fn outcome(steps: &[Step]) -> (Result<Created, CreateError>, String) {
    outcome_with(steps, None).await
}

async fn outcome_with(steps: &[Step], stored: Option<Value>) -> (Result<Created, CreateError>, String) {
    let (client, server) = server(steps.to_vec(), stored);
    let result = workload(client).create(fresh()).await;
    if let Err(error) = &result {
        assert!(!error.to_string().contains(SECRET), "{error}");
    }
    // The client was dropped, so the server's loop ends.
    let seen = server.await.expect("a server that did not panic");
    (result, seen.iter().map(Method::as_str).collect::<Vec<_>>().join(" "))
}

/// A pod as an earlier request of this dispatch made it.
fn ours() -> Value {
    json!({
        "metadata": {"name": NAME, "uid": "uid-0"},
        "spec": {"containers": [{"name": "run-controller", "env": [
            {"name": "TRIGGER_SNAPSHOT_ID", "value": "snapshot_cmelv0q2h000408l2dyx4b7nk"}]}]},
        "status": {"phase": "Running"},
    })
}

fn failed(pod: &mut Value) {
    pod["status"]["phase"] = json!("Failed");
}

#[expect(clippy::unnecessary_wraps, reason = "the result type of a create")]
fn created() -> Result<Created, CreateError> {
    Ok(Created::Created { workload: NAME.to_owned() })
}

#[expect(clippy::unnecessary_wraps, reason = "the result type of a create")]
fn existed() -> Result<Created, CreateError> {
    Ok(Created::Existed { workload: NAME.to_owned() })
}

#[tokio::test]
async fn one_request_makes_the_pod() {
    assert_eq!(outcome(&[Work]).await, (created(), "POST".to_owned()));
}

#[tokio::test]
async fn a_pod_that_was_made_though_its_answer_was_lost_is_found_at_once() {
    for lost in [WorkInSilence, WorkAndReset] {
        assert_eq!(outcome(&[lost, Work]).await, (created(), "POST GET".to_owned()));
    }
}

#[tokio::test]
async fn a_request_that_may_still_complete_is_uncertain() {
    for steps in
        [[Reset, Work], [Proxy(502), Work], [Proxy(504), Reset], [WorkAndReset, Refuse(403, "Forbidden")]]
    {
        let (result, methods) = outcome(&steps).await;
        assert!(matches!(result, Err(CreateError::Uncertain { .. })), "{steps:?}: {result:?}");
        assert_eq!(methods, "POST GET");
    }
}

#[tokio::test]
async fn a_server_that_failed_is_asked_again_under_the_same_name() {
    for code in [500, 503] {
        let (result, methods) = outcome(&[Refuse(code, "InternalError"), Work]).await;
        assert!(
            matches!(result, Err(CreateError::Transient { name_may_be_taken: false, .. })),
            "{code}: {result:?}"
        );
        assert_eq!(methods, "POST GET", "it may have made the pod");
    }
    let (result, methods) = outcome(&[Refuse(429, "TooManyRequests")]).await;
    assert!(matches!(result, Err(CreateError::Transient { name_may_be_taken: false, .. })), "{result:?}");
    assert_eq!(methods, "POST", "too busy to be asked more");
}

#[tokio::test]
async fn a_permanent_refusal_names_status_and_message() {
    for (code, reason) in
        [(400, "BadRequest"), (401, "Unauthorized"), (403, "Forbidden"), (404, "NotFound"), (422, "Invalid")]
    {
        let (result, methods) = outcome(&[Refuse(code, reason)]).await;
        let reason = format!("the Kubernetes API answered {code} {reason}: no: [hidden]");
        assert_eq!((result, methods.as_str()), (Err(CreateError::Permanent { reason }), "POST"));
    }
}

#[tokio::test]
async fn a_taken_name_is_success_if_the_pod_is_of_this_snapshot() {
    assert_eq!(outcome_with(&[Work, Work], Some(ours())).await, (existed(), "POST GET".to_owned()));
    let others = Show(|pod| pod["spec"]["containers"][0]["env"][0]["value"] = json!("snapshot_other"));
    let (result, _) = outcome_with(&[Work, others], Some(ours())).await;
    let reason = "the pod of this name was made for another snapshot: snapshot_other".to_owned();
    assert_eq!(result, Err(CreateError::Permanent { reason }));
    let ending = Show(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-08-21T18:27:52Z"));
    let (result, _) = outcome_with(&[Work, ending], Some(ours())).await;
    assert!(matches!(result, Err(CreateError::Transient { name_may_be_taken: false, .. })), "{result:?}");
    let (result, _) = outcome_with(&[Work, Refuse(403, "Forbidden")], Some(ours())).await;
    assert!(matches!(result, Err(CreateError::Uncertain { .. })), "{result:?}");
}

#[tokio::test]
async fn a_finished_pod_is_deleted_and_made_anew_once() {
    let (result, methods) = outcome_with(&[Work, Show(failed), Work, Work], Some(ours())).await;
    assert_eq!((result, methods.as_str()), (created(), "POST GET DELETE POST"));
    // Another worker makes one that finishes at once, each time: no loop.
    let taken = Refuse(409, "AlreadyExists");
    let (result, methods) = outcome_with(
        &[Work, Show(failed), Refuse(409, "Conflict"), taken, Show(failed), Refuse(409, "Conflict")],
        Some(ours()),
    )
    .await;
    assert!(matches!(result, Err(CreateError::Transient { .. })), "{result:?}");
    assert_eq!(methods, "POST GET DELETE POST GET DELETE");
}

#[tokio::test]
async fn a_finished_pod_behind_a_lost_answer_is_left_to_the_probe() {
    let (result, methods) = outcome(&[WorkAndReset, Show(failed)]).await;
    assert!(matches!(result, Err(CreateError::Uncertain { .. })), "{result:?}");
    assert_eq!(methods, "POST GET");
}

#[tokio::test]
async fn a_name_that_is_freed_between_two_requests_is_taken() {
    let taken = Refuse(409, "AlreadyExists");
    assert_eq!(outcome(&[taken.clone(), Work, Work]).await, (created(), "POST GET POST".to_owned()));
    let (result, methods) = outcome(&[taken.clone(), Work, taken, Work]).await;
    assert!(matches!(result, Err(CreateError::Transient { .. })), "{result:?}");
    assert_eq!(methods, "POST GET POST GET");
}

#[tokio::test]
async fn without_access_reviews_a_list_is_the_check() {
    let forbidden = Refuse(403, "Forbidden");
    for (list, usable) in [(Work, true), (forbidden.clone(), false)] {
        let (client, server) = server(vec![forbidden.clone(), list], Some(ours()));
        let checked = workload(client).check().await;
        assert_eq!(checked.is_ok(), usable, "{checked:?}");
        assert_eq!(server.await.expect("a server that did not panic"), [Method::POST, Method::GET]);
    }
}

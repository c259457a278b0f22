//! The worker API over HTTP: authentication first, then the routes of platform.md §1.4.
//!
//! Left out, because no verification depends on them: suspend, continue and the
//! notification socket.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::connection::Connection;
use super::core::Core;
use super::fault::{Faults, ProbeFault};
use super::message::ENVIRONMENT_ID;
use super::run::Refusal;
use warmproof::domain::ids::RunId;
use warmproof::platform::wire;

mod attempts;

pub(super) fn routes(core: Arc<Core>) -> Router<Arc<Core>> {
    let actions = Router::new()
        .route("/connect", post(connect).fallback(method_not_allowed))
        .route("/dequeue", post(dequeue).fallback(method_not_allowed))
        .route("/heartbeat", post(heartbeat).fallback(method_not_allowed))
        .route("/deployments/{deployment}/dequeue", get(dequeue_by_deployment).fallback(method_not_allowed))
        .route("/runs/{run}/logs/debug", post(debug_log).fallback(method_not_allowed))
        .route("/runs/{run}/snapshots/latest", get(latest).fallback(method_not_allowed))
        .route("/runs/{run}/snapshots/since/{snapshot}", get(since).fallback(method_not_allowed))
        .merge(attempts::routes())
        .layer(middleware::from_fn_with_state(core, authenticate));
    Router::new().nest(wire::BASE_PATH, actions)
}

/// Runs before any check of parameters, query or body; all failures get the same answer.
async fn authenticate(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    if is_worker(&core, request.headers()) {
        return next.run(request).await;
    }
    core.ledger.count(|counters| counters.unauthorized += 1);
    error(401, "Invalid or missing worker token")
}

fn is_worker(core: &Core, headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(token) = text(header::AUTHORIZATION.as_str()).strip_prefix("Bearer ") else { return false };
    token.starts_with(wire::WORKER_TOKEN_PREFIX)
        && !text(wire::INSTANCE_NAME_HEADER).is_empty()
        && text(wire::MANAGED_SECRET_HEADER) == core.options.managed_secret.expose_secret()
        && token == core.options.worker_token.expose_secret()
}

async fn connect(body: Bytes) -> Response {
    if let Err(refusal) = read::<wire::ConnectRequest>(&body) {
        return refusal;
    }
    let worker_group = wire::WorkerGroup { kind: "MANAGED".to_owned(), name: "simulated".to_owned() };
    Json(wire::ConnectAnswer { ok: true, worker_group }).into_response()
}

/// At most one message, for any requested count.
async fn dequeue(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    let request: wire::DequeueRequest = match read(&body) {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    let message = match request.queue_class {
        // The simulator has no scheduled runs, so their queue is always empty.
        Some(wire::QueueClass::Scheduled) => {
            tokio::time::sleep(core.options.dequeue_block).await;
            None
        }
        Some(wire::QueueClass::Default) | None => {
            core.engine.dequeue_within(core.options.dequeue_block).await
        }
    };
    Json(Vec::from_iter(message)).into_response()
}

async fn heartbeat(body: Bytes) -> Response {
    match read::<wire::HeartbeatRequest>(&body) {
        Ok(_) => Json(wire::OkAnswer { ok: true }).into_response(),
        Err(refusal) => refusal,
    }
}

async fn dequeue_by_deployment() -> Response {
    Json(json!([])).into_response()
}

async fn debug_log() -> Response {
    Json(json!({})).into_response()
}

/// The probe's route. There is no 404: each problem with the run is a 500.
async fn latest(
    State(core): State<Arc<Core>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path(run): Path<String>,
    headers: HeaderMap,
) -> Response {
    core.ledger.count(|counters| counters.probes += 1);
    let fault = core.faults.probe.strike(&run);
    let hang = core.faults.hang();
    let hangs = matches!(fault, Some(ProbeFault::Hang));
    let visit = core.probes.arrive(&run, None, &headers, fault.as_ref(), hangs);
    let response = match fault {
        None => answer_latest(&core, &run, &headers).await,
        Some(ProbeFault::Delay { delay_ms }) => {
            Faults::delay(delay_ms).await;
            answer_latest(&core, &run, &headers).await
        }
        Some(ProbeFault::Hang) => {
            hang.await;
            visit.go_on();
            answer_latest(&core, &run, &headers).await
        }
        Some(ProbeFault::Status { status }) => error(status, "Simulated failure"),
        Some(ProbeFault::RateLimited { reset_after_ms }) => rate_limited(&core, reset_after_ms),
        Some(ProbeFault::Reset) => connection.reset().await,
        Some(ProbeFault::ResetMidBody) => {
            // There is no status to record: the answer is never complete.
            drop(visit);
            return connection.reset_mid_body(200, "{\"execution\":{\"version\":\"1\",", 512);
        }
        Some(ProbeFault::InvalidJson) => as_json("<html>Bad gateway</html>"),
        Some(ProbeFault::WrongSchema) => as_json("{\"execution\":{\"version\":\"1\",\"snapshot\":{}}}"),
    };
    visit.answered(response.status().as_u16());
    response
}

async fn answer_latest(core: &Core, run: &str, headers: &HeaderMap) -> Response {
    let Some(run) = known_run(run, headers) else { return internal_error() };
    match core.engine.latest(&run).await {
        Some(execution) => Json(wire::LatestSnapshotAnswer { execution }).into_response(),
        None => internal_error(),
    }
}

async fn since(
    State(core): State<Arc<Core>>,
    Path((run, snapshot)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let Some(run) = known_run(&run, &headers) else { return internal_error() };
    match core.engine.since(&run, &snapshot).await {
        Some(snapshots) => Json(wire::SnapshotsSinceAnswer { snapshots }).into_response(),
        None => internal_error(),
    }
}

/// The run, unless its id is malformed or the caller belongs to another environment.
fn known_run(run: &str, headers: &HeaderMap) -> Option<RunId> {
    if environment(headers).is_some_and(|environment| environment != ENVIRONMENT_ID) {
        return None;
    }
    RunId::parse(run).ok()
}

/// A blank header counts as absent.
fn environment(headers: &HeaderMap) -> Option<&str> {
    let environment = headers.get(wire::ENVIRONMENT_HEADER)?.to_str().ok()?.trim();
    (!environment.is_empty()).then_some(environment)
}

fn rate_limited(core: &Core, reset_after_ms: Option<u64>) -> Response {
    let mut response = error(429, "Too many requests");
    if let Some(after) = reset_after_ms.and_then(|after| i64::try_from(after).ok()) {
        let reset = core.ledger.clock.now().timestamp_millis().saturating_add(after);
        response.headers_mut().insert(wire::RATE_LIMIT_RESET_HEADER, reset.into());
    }
    response
}

/// Parses JSON under any content type. Invalid JSON is a 500, another shape a 400 (platform.md §1.2).
#[expect(clippy::result_large_err, reason = "both sides are answers, made once per request")]
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Response> {
    let value: serde_json::Value = serde_json::from_slice(body).map_err(|_| internal_error())?;
    serde_path_to_error::deserialize(value).map_err(|problem| {
        let path: Vec<String> = problem.path().iter().map(ToString::to_string).collect();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        body_error(&path, &problem.inner().to_string())
    })
}

fn body_error(path: &[&str], message: &str) -> Response {
    let details = vec![json!({ "path": path, "message": message })];
    let body = wire::ErrorAnswer { error: "Body Error".to_owned(), details: Some(details) };
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}

fn refused(refusal: Refusal) -> Response {
    error(refusal.status, refusal.message)
}

fn error(status: u16, message: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(wire::ErrorAnswer { error: message.to_owned(), details: None })).into_response()
}

fn internal_error() -> Response {
    error(500, "Internal Server Error")
}

fn as_json(body: &'static str) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn method_not_allowed() -> Response {
    error(405, "Method not allowed")
}

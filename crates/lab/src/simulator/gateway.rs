//! The compute gateway: creates and deletes instances by name (platform.md §5.6).

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, post};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::json;

use super::connection::Connection;
use super::core::Core;
use super::fault::{GatewayAnswer, GatewayEffect, GatewayFault};
use super::runner;
use warmproof::domain::ids::{RunId, SnapshotId};

/// The fields of a create request that the simulator uses.
#[derive(Deserialize)]
struct CreateRequest {
    name: String,
    #[serde(rename = "image")]
    _image: String,
    env: RunnerEnvironment,
}

/// The variables that make a runner start an attempt at once (platform.md §5.3).
#[derive(Deserialize)]
struct RunnerEnvironment {
    #[serde(rename = "TRIGGER_RUN_ID")]
    run: RunId,
    #[serde(rename = "TRIGGER_SNAPSHOT_ID")]
    snapshot: SnapshotId,
}

pub(super) fn routes() -> axum::Router<Arc<Core>> {
    axum::Router::new().route("/api/instances", post(create)).route("/api/instances/{name}", delete(remove))
}

async fn create(
    State(core): State<Arc<Core>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !authorized(&core, &headers) {
        return error(401, "unauthorized");
    }
    let request: CreateRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(problem) => return error(400, &problem.to_string()),
    };
    let run = request.env.run.as_str();
    let fault = core.faults.gateway.strike(run);
    let hang = core.faults.hang();
    let hangs = fault.as_ref().is_some_and(|fault| fault.answer == GatewayAnswer::Hang);
    // The effect comes before the visit is recorded, so a test that sees a create hang also sees its effect.
    let registered = match fault.as_ref().map(|fault| fault.effect) {
        Some(GatewayEffect::None) => true,
        Some(GatewayEffect::NameOnly) => core.instances.register(&request.name, &core.stop).is_some(),
        Some(GatewayEffect::Created) | None => boot(&core, &request),
    };
    core.ledger.count(|counters| counters.creates += 1);
    let visit = core.creates.arrive(run, Some(request.name.clone()), &headers, fault.as_ref(), hangs);
    let response = match fault {
        None => clean_answer(registered),
        Some(GatewayFault { answer: GatewayAnswer::Status { status }, .. }) => faulty_answer(status),
        Some(GatewayFault { answer: GatewayAnswer::Reset, .. }) => connection.reset().await,
        Some(GatewayFault { answer: GatewayAnswer::Hang, effect }) => {
            hang.await;
            visit.go_on();
            clean_answer(if effect == GatewayEffect::None { boot(&core, &request) } else { registered })
        }
    };
    visit.answered(response.status().as_u16());
    response
}

/// Registers the name and boots a cold runner; false if the name is taken.
fn boot(core: &Arc<Core>, request: &CreateRequest) -> bool {
    let Some(token) = core.instances.register(&request.name, &core.stop) else { return false };
    core.ledger.created(&request.env.run);
    let (run, snapshot) = (request.env.run.clone(), request.env.snapshot.clone());
    let life = runner::cold(Arc::clone(core), run, snapshot);
    core.tasks.spawn(async move {
        token.run_until_cancelled(life).await;
    });
    true
}

fn clean_answer(registered: bool) -> Response {
    if registered {
        let id = format!("instance-{}", uuid::Uuid::new_v4());
        (StatusCode::CREATED, Json(json!({ "id": id }))).into_response()
    } else {
        error(409, "instance name is taken")
    }
}

fn faulty_answer(status: u16) -> Response {
    match status {
        200..=299 => StatusCode::from_u16(status).unwrap_or(StatusCode::ACCEPTED).into_response(),
        _ => error(status, "simulated failure"),
    }
}

async fn remove(State(core): State<Arc<Core>>, headers: HeaderMap, Path(name): Path<String>) -> Response {
    if !authorized(&core, &headers) {
        return error(401, "unauthorized");
    }
    let removed = core.instances.remove(&name);
    core.changes.ring();
    if removed { StatusCode::NO_CONTENT.into_response() } else { error(404, "no such instance") }
}

fn authorized(core: &Core, headers: &HeaderMap) -> bool {
    core.options.gateway_token.as_ref().is_none_or(|token| {
        headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .is_some_and(|given| given == token.expose_secret())
    })
}

fn error(status: u16, message: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(json!({ "error": message }))).into_response()
}

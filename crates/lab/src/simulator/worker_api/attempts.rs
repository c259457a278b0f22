//! The routes that change a run: start, complete, run heartbeat.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;

use super::super::connection::Connection;
use super::super::core::Core;
use super::super::fault::{Faults, StartFault};
use super::super::message::{DEPLOYMENT_ID, DEPLOYMENT_VERSION, ENVIRONMENT_ID};
use super::super::record::StartKind;
use super::super::runner::INSTANCE_NAME;
use super::{body_error, environment, error, internal_error, known_run, method_not_allowed, read, refused};
use warmproof::domain::ids::{RunId, SnapshotId};
use warmproof::platform::wire;

pub(super) fn routes() -> Router<Arc<Core>> {
    let path = |action| format!("/runs/{{run}}/snapshots/{{snapshot}}/{action}");
    Router::new()
        .route(&path("heartbeat"), post(heartbeat).fallback(method_not_allowed))
        .route(&path("attempts/start"), post(start).fallback(method_not_allowed))
        .route(&path("attempts/complete"), post(complete).fallback(method_not_allowed))
}

async fn heartbeat(
    State(core): State<Arc<Core>>,
    Path((run, snapshot)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Err(refusal) = read::<wire::RunHeartbeatRequest>(&body) {
        return refusal;
    }
    let Some(id) = known_run(&run, &headers) else { return no_snapshot(&run, &headers) };
    if core.engine.heartbeat(&id, &snapshot).await {
        Json(wire::OkAnswer { ok: true }).into_response()
    } else {
        no_snapshot(&run, &headers)
    }
}

async fn start(
    State(core): State<Arc<Core>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path((run, snapshot)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request: wire::StartAttemptRequest = match read(&body) {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    let fault = core.faults.start.strike(&run);
    match fault {
        None | Some(StartFault::LoseAnswer) => {}
        Some(StartFault::ServerError) => return internal_error(),
        Some(StartFault::Delay { delay_ms }) => Faults::delay(delay_ms).await,
        Some(StartFault::Hang) => core.faults.hang().await,
    }
    let warm = request.is_warm_start.unwrap_or(false);
    let Some(id) = known_run(&run, &headers) else { return no_snapshot(&run, &headers) };
    let data = match core.engine.start(&id, &snapshot, warm).await {
        None => return no_snapshot(&run, &headers),
        Some(Err(refusal)) => return refused(refusal),
        Some(Ok(data)) => data,
    };
    if fault == Some(StartFault::LoseAnswer) {
        core.ledger.count(|counters| counters.start_answers_lost += 1);
        return connection.reset().await;
    }
    note_foreign_start(&core, &id, &snapshot, warm, &headers);
    let attempt = data.run.attempt_number;
    Json(wire::StartAttemptAnswer {
        snapshot: data.snapshot,
        run: data.run,
        execution: execution(&id, attempt, core.ledger.clock.now()),
        env_vars: env_vars(&id),
    })
    .into_response()
}

/// A simulated runner records its own executions. For any other caller an answer counts as an execution.
fn note_foreign_start(core: &Core, run: &RunId, snapshot: &str, warm: bool, headers: &HeaderMap) {
    let simulated = headers.get(wire::INSTANCE_NAME_HEADER).is_some_and(|name| name == INSTANCE_NAME);
    if simulated {
        return;
    }
    if let Ok(snapshot) = SnapshotId::parse(snapshot) {
        let kind = if warm { StartKind::Warm } else { StartKind::Cold };
        core.ledger.execution_began(run, &snapshot, kind);
    }
}

async fn complete(
    State(core): State<Arc<Core>>,
    Path((run, snapshot)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request: wire::CompleteAttemptRequest = match read(&body) {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    let missing = match &request.completion {
        completion if completion.ok => completion.output_type.is_none().then_some("outputType"),
        completion => completion.error.is_none().then_some("error"),
    };
    if let Some(field) = missing {
        return body_error(&["completion", field], "Required");
    }
    let Some(id) = known_run(&run, &headers) else { return no_snapshot(&run, &headers) };
    match core.engine.complete(&id, &snapshot, &request.completion).await {
        None => no_snapshot(&run, &headers),
        Some(Err(refusal)) => refused(refusal),
        Some(Ok((attempt_status, data))) => {
            if headers.get(wire::INSTANCE_NAME_HEADER).is_none_or(|name| name != INSTANCE_NAME) {
                core.ledger.execution_ended(&id);
            }
            let result = wire::CompletionResult {
                attempt_status: attempt_status.to_owned(),
                snapshot: data.snapshot,
                run: data.run,
            };
            Json(wire::CompleteAttemptAnswer { result }).into_response()
        }
    }
}

/// 500, or 404 for a caller that is limited to one environment.
fn no_snapshot(run: &str, headers: &HeaderMap) -> Response {
    match environment(headers) {
        Some(_) => error(404, &format!("No execution snapshot found for TaskRun {run}")),
        None => internal_error(),
    }
}

fn env_vars(run: &RunId) -> serde_json::Map<String, serde_json::Value> {
    let variables = [
        ("TRIGGER_JWT", "simulated"),
        // The internal id, unlike in a runner's own environment.
        ("TRIGGER_RUN_ID", run.internal()),
        ("TRIGGER_MACHINE_PRESET", "small-1x"),
    ];
    variables.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

/// The work that the runner executes, with every field that the platform's schema requires.
fn execution(run: &RunId, attempt: Option<u32>, now: DateTime<Utc>) -> serde_json::Value {
    let now = now.to_rfc3339_opts(SecondsFormat::Millis, true);
    json!({
        "attempt": {
            "number": attempt,
            "startedAt": now,
            "id": "deprecated",
            "backgroundWorkerId": "deprecated",
            "backgroundWorkerTaskId": "deprecated",
            "status": "deprecated"
        },
        "run": {
            "id": run,
            "payload": "{}",
            "payloadType": "application/json",
            "createdAt": now,
            "tags": [],
            "isTest": false,
            "isReplay": false,
            "startedAt": now,
            "maxAttempts": 3,
            "version": DEPLOYMENT_VERSION,
            "durationMs": 0,
            "costInCents": 0,
            "baseCostInCents": 0,
            "traceContext": {},
            "priority": 0,
            "region": "us-east-1"
        },
        "task": { "id": "simulated-task", "filePath": "src/trigger/simulated.ts" },
        "queue": { "id": "queue_simulated", "name": "task/simulated-task" },
        "environment": { "id": ENVIRONMENT_ID, "slug": "prod", "type": "PRODUCTION" },
        "organization": { "id": "clx3q9tqs0001ml08d4kk9c7w", "slug": "simulated", "name": "Simulated" },
        "project": {
            "id": "clx3q9uh40002ml08a9r3g5jb",
            "ref": "proj_hqkldvbmxwqzwprtcyfa",
            "slug": "simulated",
            "name": "Simulated"
        },
        "machine": { "name": "small-1x", "cpu": 0.5, "memory": 0.5, "centsPerMs": 0.000_033_82 },
        "deployment": {
            "id": DEPLOYMENT_ID,
            "shortCode": "simulated",
            "version": DEPLOYMENT_VERSION,
            "runtime": "node-22",
            "runtimeVersion": "22.17.0"
        }
    })
}

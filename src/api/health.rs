//! `/healthz` and `/readyz`: is the process alive, and can it keep a promise now.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Api;

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    checks: Vec<Check>,
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// 200 as long as the process answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// 200 when the database answers and its schema is there, else 503 with the reasons.
pub(super) async fn readyz(State(api): State<Api>) -> Response {
    let database = match api.store.pools().await {
        Ok(_) => Check { name: "database", ok: true, reason: None },
        Err(error) => {
            tracing::warn!(%error, "not ready");
            let reason = match error.sqlstate().as_deref() {
                Some(_) if error.is_schema_missing() => "the schema is missing: run `warmproof migrate`",
                Some(_) => "the database refused a query; the log tells more",
                None => "the database cannot be reached",
            };
            Check { name: "database", ok: false, reason: Some(reason.to_owned()) }
        }
    };
    let mut checks = vec![database];
    if let Ok(durable) = api.store.commits_durably().await {
        let reason =
            "`synchronous_commit` is off for this role or database: a promise would not survive a crash";
        checks.push(Check { name: "durability", ok: durable, reason: (!durable).then(|| reason.to_owned()) });
    }
    let ready = checks.iter().all(|check| check.ok);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, checks })).into_response()
}

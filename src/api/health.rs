//! `/healthz` and `/readyz`: is the process alive, and can it keep a promise now.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Api;
use crate::store::fleet::PoolServed;

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    checks: Vec<Check>,
}

#[derive(Serialize)]
struct Check {
    name: String,
    ok: bool,
    /// Whether the API itself is not ready without it. A pool that nobody serves is no reason to turn
    /// schedules away: their promises stand in the database until somebody does.
    required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Check {
    fn required(name: &str, reason: Option<String>) -> Self {
        Self { name: name.to_owned(), ok: reason.is_none(), required: true, reason }
    }

    fn of_pool(served: &PoolServed) -> Self {
        let name = format!("pool {}", served.pool);
        let mut reasons = Vec::new();
        if served.workers == 0 {
            let pending = if served.has_pending { ", and verifications are pending in it" } else { "" };
            reasons.push(format!("no running worker serves it{pending}"));
        }
        if served.backends.len() > 1 {
            reasons.push(format!("its workers differ in their backend: {}", served.backends.join(", ")));
        }
        reasons.extend(served.problems.iter().cloned());
        let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
        Self { name, ok: reason.is_none(), required: false, reason }
    }
}

/// 200 as long as the process answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// 200 when the database answers and its schema is there, else 503 with the reasons. Pools are told of as well.
pub(super) async fn readyz(State(api): State<Api>) -> Response {
    let mut pools = Vec::new();
    let database = match api.store.pools_served().await {
        Ok(served) => {
            pools.extend(served.iter().map(Check::of_pool));
            Check::required("database", None)
        }
        Err(error) => {
            tracing::warn!(%error, "not ready");
            let reason = match error.sqlstate().as_deref() {
                Some(_) if error.is_schema_missing() => "the schema is missing: run `warmproof migrate`",
                Some(_) => "the database refused a query; the log tells more",
                None => "the database cannot be reached",
            };
            Check::required("database", Some(reason.to_owned()))
        }
    };
    let mut checks = vec![database];
    if let Ok(durable) = api.store.commits_durably().await {
        let reason =
            "`synchronous_commit` is off for this role or database: a promise would not survive a crash";
        checks.push(Check::required("durability", (!durable).then(|| reason.to_owned())));
    }
    let ready = checks.iter().all(|check| check.ok);
    checks.extend(pools);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, checks })).into_response()
}

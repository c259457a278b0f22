//! `/healthz` and `/readyz`: is the process alive, and can it keep a promise now.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;

use super::Api;
use super::problem::Problem;
use crate::store::fleet::PoolService;
use crate::telemetry::readiness::{Check, Readiness};

/// How long the database may take to report how pools are served.
const READING_MAX: Duration = Duration::from_secs(2);

/// An unserved pool is no reason to refuse schedules: the database keeps them until a worker serves the pool.
fn of_pool(served: &PoolService) -> Check {
    let mut reasons = Vec::new();
    if served.workers == 0 {
        let pending = if served.has_pending { ", and verifications are pending in it" } else { "" };
        reasons.push(format!("no running worker serves it{pending}"));
    }
    if served.backends.len() > 1 {
        reasons.push(format!("its workers differ in their backend: {}", served.backends.join(", ")));
    }
    reasons.extend(served.problems.iter().cloned());
    Check::of_pool(&served.pool, (!reasons.is_empty()).then(|| reasons.join("; ")))
}

/// 200 as long as the process answers.
#[utoipa::path(
    get, path = "/healthz", tag = "health",
    responses((status = 200, body = String, content_type = "text/plain", description = "Alive"))
)]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether a promise can be kept now.
///
/// 200 if recent schedules were written, else 503 with the reasons. The state of pools does not change that.
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses(
        (status = 200, body = Readiness, description = "Ready"),
        (status = 503, body = Readiness, description = "Not ready, and why"),
        (status = 504, body = Problem, content_type = "application/problem+json", description = "`timeout`")
    )
)]
pub(super) async fn readyz(State(api): State<Api>) -> Response {
    let database = Check::required("database", api.calls.problem().await);
    if !database.ok {
        // Every other question would wait for the same database.
        return answer(vec![database]);
    }
    let reading = async {
        let pools = api.store.pools_served().await;
        (pools, api.store.commits_durably().await)
    };
    let Ok((served, durable)) = timeout(READING_MAX, reading).await else {
        let reason = format!("the database did not answer within {} s", READING_MAX.as_secs());
        return answer(vec![Check::required("database", Some(reason))]);
    };
    let mut checks = vec![database];
    if let Ok(durable) = durable {
        let reason =
            "`synchronous_commit` is off for this role or database: a promise would not survive a crash";
        checks.push(Check::required("durability", (!durable).then(|| reason.to_owned())));
    }
    match served {
        Ok(served) => checks.extend(served.iter().map(of_pool)),
        Err(error) => tracing::warn!(%error, "could not read how pools are served"),
    }
    answer(checks)
}

fn answer(checks: Vec<Check>) -> Response {
    let readiness = Readiness::from(checks);
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

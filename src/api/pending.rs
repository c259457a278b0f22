//! `GET /v1/pending`, `POST /v1/pending/cancel`, `POST /v1/runs/{run}/probe-now`: what is
//! pending, and what an operator can do about it.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::body;
use super::openapi::{BodyRefusals, Invalid, Refusals};
use super::problem::{FieldError, Problem, parsed_name};
use crate::caller::Caller;
use crate::domain::claim::EarlyProbe;
use crate::domain::ids::{RunId, parse_name};
use crate::domain::status::Status;
use crate::store::early::ProbeNow;
use crate::store::lookup::Pending;
use crate::store::pending::{PageKey, PendingFilter};

/// Rows on a page, by default and at most.
const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 500;
/// Most verifications that one call cancels by a filter.
const CANCEL_MAX: u32 = 100_000;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PendingQuery {
    /// In this pool.
    #[param(min_length = 1, max_length = 200)]
    pool: Option<String>,
    /// From this supervisor.
    #[param(min_length = 1, max_length = 200)]
    supervisor: Option<String>,
    /// From this region.
    #[param(min_length = 1, max_length = 200)]
    region: Option<String>,
    /// Of this deployment version.
    #[param(min_length = 1, max_length = 200)]
    deployment_version: Option<String>,
    /// In this status.
    status: Option<Status>,
    /// Rows on a page; 50 by default.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next` of the previous page.
    after: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Page {
    pending: Vec<Pending>,
    /// The value of `after` for the next page; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A page of pending verifications, in the order of their next probes.
#[utoipa::path(
    get, path = "/v1/pending", tag = "lookup", security(("token" = ["read"])), params(PendingQuery),
    responses((status = 200, body = Page, description = "A page"), Refusals, Invalid)
)]
pub(super) async fn page(
    State(api): State<Api>,
    asked: Result<Query<PendingQuery>, QueryRejection>,
) -> Result<Json<Page>, Problem> {
    let Query(asked) =
        asked.map_err(|error| Problem::invalid(vec![FieldError::new("query", error.body_text())]))?;
    let limit = asked.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(invalid("limit", &format!("must be from 1 to {LIMIT_MAX}")));
    }
    let after = asked.after.as_deref().map(read_key).transpose()?;
    let mut faults = Vec::new();
    let filter = PendingFilter {
        pool: asked.pool,
        supervisor: parsed_name("supervisor", asked.supervisor, &mut faults),
        region: parsed_name("region", asked.region, &mut faults),
        deployment_version: asked.deployment_version,
        status: asked.status,
    };
    faults.extend(name_faults(&filter, ""));
    refuse(faults)?;
    let pending = api
        .store
        .pending_page(&filter, after.as_ref(), limit)
        .await
        .map_err(|error| Problem::database(&error))?;
    let full = pending.len() == limit as usize;
    let next = pending
        .last()
        .filter(|_| full)
        .map(|last| PageKey { probe_at: last.probe_at, run_id: last.run_id.clone() }.word());
    Ok(Json(Page { pending, next }))
}

fn read_key(word: &str) -> Result<PageKey, Problem> {
    PageKey::parse(word).ok_or_else(|| invalid("after", "must be `next` of an earlier page"))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CancelAsked {
    /// Which verifications; it must name at least one thing.
    filter: PendingFilter,
    /// Count and change nothing.
    #[serde(default)]
    preview: bool,
}

#[derive(Serialize, ToSchema)]
pub(super) struct CancelAnswer {
    /// How many match the filter; the count stops at 100000.
    #[serde(skip_serializing_if = "Option::is_none")]
    matching: Option<u32>,
    /// How many were cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled: Option<u32>,
    /// How many were skipped, because other transactions hold their rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    busy: Option<u32>,
}

/// Cancels all pending verifications that match a filter, or only counts them.
#[utoipa::path(
    post, path = "/v1/pending/cancel", tag = "operators", security(("token" = ["operate"])),
    request_body = CancelAsked,
    responses((status = 200, body = CancelAnswer, description = "How many"), Refusals, BodyRefusals)
)]
pub(super) async fn cancel_where(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Json<CancelAnswer>, Problem> {
    let bytes = body::bytes(bytes, api.config.body_bytes_max)?;
    let asked: CancelAsked = body::read_one(&bytes)?;
    if asked.filter == PendingFilter::default() {
        let message = "is empty; to cancel everything that is pending, cancel it pool by pool";
        return Err(invalid("/filter", message));
    }
    refuse(name_faults(&asked.filter, "/filter/"))?;
    let answer = if asked.preview {
        let matching = api.store.count_pending(&asked.filter, CANCEL_MAX).await;
        matching.map(|matching| CancelAnswer { matching: Some(matching), cancelled: None, busy: None })
    } else {
        let (api, actor) = (api.clone(), caller.actor());
        // A separate task: a client that disconnects must not leave a cancel half done and without its entry.
        let doing =
            tokio::spawn(
                async move { api.store.operator_cancel_where(&asked.filter, CANCEL_MAX, &actor).await },
            );
        let cancelled = doing.await.map_err(|error| {
            tracing::error!(%error, "could not finish a cancel");
            Problem::internal()
        })?;
        cancelled.map(|done| CancelAnswer {
            matching: None,
            cancelled: Some(done.cancelled),
            busy: Some(done.busy),
        })
    };
    answer.map(Json).map_err(|error| Problem::database(&error))
}

#[derive(Serialize, ToSchema)]
pub(super) struct Moved {
    run_id: RunId,
    /// False if the run has no pending verification, or a worker has it in flight already.
    probes_now: bool,
    /// Present if the verification is not due yet: whether the probe observes and changes nothing, or acts.
    #[serde(skip_serializing_if = "Option::is_none")]
    early: Option<EarlyProbe>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ProbeNowQuery {
    /// Judge and act even if the verification is not due yet. Its outcome is then `early`, outside all rates.
    #[serde(default)]
    act: bool,
}

/// Probes a run now instead of later. Before it is due, the probe changes nothing: what it saw is the `observation` of
/// the pending verification.
#[utoipa::path(
    post, path = "/v1/runs/{run}/probe-now", tag = "operators", security(("token" = ["operate"])),
    params(("run" = RunId, Path, description = "The run"), ProbeNowQuery),
    responses((status = 200, body = Moved, description = "Whether the probe was moved"), Refusals, Invalid)
)]
pub(super) async fn probe_now(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    run: Result<Path<String>, PathRejection>,
    asked: Result<Query<ProbeNowQuery>, QueryRejection>,
) -> Result<Json<Moved>, Problem> {
    let Path(run) = run.map_err(|_| invalid("run", "must be UTF-8"))?;
    let run_id = RunId::parse(run).map_err(|error| invalid("run", &error.to_string()))?;
    let Query(asked) =
        asked.map_err(|error| Problem::invalid(vec![FieldError::new("query", error.body_text())]))?;
    let early = if asked.act { EarlyProbe::Act } else { EarlyProbe::Observe };
    let answer = api.store.probe_now(&run_id, early, &caller.actor()).await;
    let (probes_now, early) = match answer.map_err(|error| Problem::database(&error))? {
        ProbeNow::Nothing => (false, None),
        ProbeNow::Due => (true, None),
        ProbeNow::Early(early) => (true, Some(early)),
    };
    Ok(Json(Moved { run_id, probes_now, early }))
}

/// What is wrong with the names that have no type of their own: the database accepts no other texts, not even to
/// compare.
fn name_faults(filter: &PendingFilter, place: &str) -> Vec<FieldError> {
    let names = [("pool", &filter.pool), ("deployment_version", &filter.deployment_version)];
    let faults = names.into_iter().filter_map(|(field, name)| {
        let error = parse_name(name.as_deref()?).err()?;
        Some(FieldError::new(format!("{place}{field}"), error.to_string()))
    });
    faults.collect()
}

fn refuse(faults: Vec<FieldError>) -> Result<(), Problem> {
    if faults.is_empty() { Ok(()) } else { Err(Problem::invalid(faults)) }
}

fn invalid(field: &str, message: &str) -> Problem {
    Problem::invalid(vec![FieldError::new(field, message)])
}

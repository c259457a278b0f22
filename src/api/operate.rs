//! `GET /v1/pools`, `PATCH /v1/pools/{pool}`, `GET /v1/workers`, `GET /v1/audit`: what operators see and
//! change.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::body;
use super::openapi::{BodyRefusals, Invalid, NotFound, Refusals};
use super::problem::{FieldError, Problem};
use crate::caller::Caller;
use crate::domain::ids::parse_name;
use crate::store::StoreError;
use crate::store::audit::Audited;
use crate::store::fleet::{PoolService, WorkerSeen};
use crate::store::pending::PendingCounts;
use crate::store::pool::{Pool, PoolChange};

/// Most entries of the audit in one answer.
const AUDIT_MAX: u32 = 200;

#[derive(Serialize, ToSchema)]
pub(super) struct PoolAnswer {
    #[serde(flatten)]
    settings: Pool,
    /// How it is served.
    served: Option<PoolService>,
    /// How many verifications are pending, by status; `null` if none is.
    pending: Option<PendingCounts>,
}

/// All pools: their settings, their workers and what is pending.
#[utoipa::path(
    get, path = "/v1/pools", tag = "lookup", security(("token" = ["read"])),
    responses((status = 200, body = Vec<PoolAnswer>, description = "All pools"), Refusals)
)]
pub(super) async fn pools(State(api): State<Api>) -> Result<Json<Vec<PoolAnswer>>, Problem> {
    let database = |error: StoreError| Problem::database(&error);
    let settings = api.store.pool_settings().await.map_err(database)?;
    let served = api.store.pools_served().await.map_err(database)?;
    let counts = api.store.pending_counts_soon().await.map_err(database)?;
    let of = |settings: Pool| PoolAnswer {
        served: served.iter().find(|served| served.pool == settings.name).cloned(),
        pending: counts.iter().find(|counts| counts.pool == settings.name).cloned(),
        settings,
    };
    Ok(Json(settings.into_iter().map(of).collect()))
}

/// Changes a pool's settings. Workers apply them from their next statement on.
#[utoipa::path(
    patch, path = "/v1/pools/{pool}", tag = "operators", security(("token" = ["operate"])),
    params(("pool" = String, Path, description = "The pool")),
    request_body(content = PoolChange, description = "What to change: absent stays, `null` removes"),
    responses((status = 200, body = Pool, description = "As it is now"), Refusals, BodyRefusals, NotFound)
)]
pub(super) async fn change_pool(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    pool: Result<Path<String>, PathRejection>,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Json<Pool>, Problem> {
    let absent = || Problem::not_found("no such pool; a worker that serves it registers it");
    let Path(pool) = pool.map_err(|_| absent())?;
    parse_name(&pool).map_err(|_| absent())?;
    let bytes = body::bytes(bytes, api.config.body_bytes_max)?;
    let change: PoolChange = body::read_one(&bytes)?;
    change.check().map_err(|faults| {
        let error = |fault: &crate::store::pool::OutOfRange| {
            FieldError::new(format!("/{}", fault.field), format!("must be {}", fault.expected))
        };
        Problem::invalid(faults.iter().map(error).collect())
    })?;
    let changed = api.store.change_pool(&pool, &change, &caller.actor()).await;
    changed.map_err(|error| Problem::database(&error))?.map(Json).ok_or_else(absent)
}

/// The workers that reported lately.
#[utoipa::path(
    get, path = "/v1/workers", tag = "lookup", security(("token" = ["read"])),
    responses((status = 200, body = Vec<WorkerSeen>, description = "Running ones first"), Refusals)
)]
pub(super) async fn workers(State(api): State<Api>) -> Result<Json<Vec<WorkerSeen>>, Problem> {
    api.store.workers().await.map(Json).map_err(|error| Problem::database(&error))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditAsked {
    /// Only entries with a smaller id.
    before: Option<i64>,
}

/// What operators did, newest first; at most 200 entries.
#[utoipa::path(
    get, path = "/v1/audit", tag = "lookup", security(("token" = ["read"])), params(AuditAsked),
    responses((status = 200, body = Vec<Audited>, description = "The audit"), Refusals, Invalid)
)]
pub(super) async fn audit(
    State(api): State<Api>,
    asked: Result<Query<AuditAsked>, QueryRejection>,
) -> Result<Json<Vec<Audited>>, Problem> {
    let Query(asked) =
        asked.map_err(|error| Problem::invalid(vec![FieldError::new("query", error.body_text())]))?;
    api.store.audit(asked.before, AUDIT_MAX).await.map(Json).map_err(|error| Problem::database(&error))
}

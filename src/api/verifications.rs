//! `GET /v1/verifications/{id}` and `GET /v1/runs/{run}`: what was promised and what became of it.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use super::openapi::{Invalid, NotFound, Refusals};
use super::problem::{FieldError, Problem};
use crate::domain::ids::{RunId, VerificationId};
use crate::domain::outcome::Outcome;
use crate::store::StoreError;
use crate::store::follow_up::FollowUpRecord;
use crate::store::lookup::Pending;

/// Most past verifications of a run that are shown.
const HISTORY_MAX: i64 = 100;

/// A verification: pending with its state, or settled with its outcome.
#[derive(Serialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum Verification {
    Pending(Box<Pending>),
    Claimed(Box<Pending>),
    Settled(Box<Outcome>),
}

#[derive(Serialize, ToSchema)]
pub(super) struct History {
    run_id: RunId,
    /// The pending one first, then the past, newest first.
    verifications: Vec<Verification>,
    /// The follow-ups of their created fallbacks, for pools that ask for follow-ups.
    follow_ups: Vec<FollowUpRecord>,
}

/// One verification by its id.
#[utoipa::path(
    get, path = "/v1/verifications/{id}", tag = "lookup", security(("token" = ["read"])),
    params(("id" = Uuid, Path, description = "The verification")),
    responses(
        (status = 200, body = Verification, description = "The verification"),
        Refusals, NotFound, Invalid
    )
)]
pub(super) async fn by_id(
    State(api): State<Api>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Verification>, Problem> {
    let Path(id) = id.map_err(|_| invalid("id", "must be a UUID"))?;
    let id: Uuid = id.parse().map_err(|_| invalid("id", "must be a UUID"))?;
    let database = |error: StoreError| Problem::database(&error);
    let absent = || Problem::not_found(format!("no verification {id}: never scheduled here, or pruned"));
    let run = api.store.run_of(VerificationId(id)).await.map_err(database)?.ok_or_else(absent)?;
    let run = RunId::parse(run).map_err(|_| absent())?;
    history(&api, &run)
        .await?
        .into_iter()
        .find(|verification| verification.id() == id)
        .map(Json)
        .ok_or_else(absent)
}

/// All verifications of a run: the pending one first, then at most 100 past ones, newest first.
#[utoipa::path(
    get, path = "/v1/runs/{run}", tag = "lookup", security(("token" = ["read"])),
    params(("run" = RunId, Path, description = "The run")),
    responses((status = 200, body = History, description = "The verifications"), Refusals, NotFound, Invalid)
)]
pub(super) async fn of_run(
    State(api): State<Api>,
    run: Result<Path<String>, PathRejection>,
) -> Result<Json<History>, Problem> {
    let Path(run) = run.map_err(|_| invalid("run", "must be UTF-8"))?;
    let run_id = RunId::parse(run).map_err(|error| invalid("run", &error.to_string()))?;
    let verifications = history(&api, &run_id).await?;
    if verifications.is_empty() {
        return Err(Problem::not_found(format!(
            "no verification of {run_id}: never scheduled here, or pruned"
        )));
    }
    let ids: Vec<Uuid> = verifications.iter().map(Verification::id).collect();
    let follow_ups = api.store.follow_ups_of(&ids).await.map_err(|error| Problem::database(&error))?;
    Ok(Json(History { run_id, verifications, follow_ups }))
}

async fn history(api: &Api, run_id: &RunId) -> Result<Vec<Verification>, Problem> {
    let database = |error: StoreError| Problem::database(&error);
    // Pending first: a row that settles between the two reads is then seen at least once.
    let pending = api.store.pending_of(run_id).await.map_err(database)?;
    let past = api.store.outcomes_of(run_id, HISTORY_MAX).await.map_err(database)?;
    let pending =
        pending.filter(|pending| past.iter().all(|outcome| outcome.id != pending.id)).map(|pending| {
            let pending = Box::new(pending);
            if pending.worker.is_some() {
                Verification::Claimed(pending)
            } else {
                Verification::Pending(pending)
            }
        });
    Ok(pending
        .into_iter()
        .chain(past.into_iter().map(|outcome| Verification::Settled(Box::new(outcome))))
        .collect())
}

impl Verification {
    fn id(&self) -> Uuid {
        match self {
            Self::Pending(pending) | Self::Claimed(pending) => pending.id,
            Self::Settled(outcome) => outcome.id,
        }
    }
}

fn invalid(field: &str, message: &str) -> Problem {
    Problem::invalid(vec![FieldError::new(field, message)])
}

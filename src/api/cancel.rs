//! `POST /v1/cancellations`: cancels verifications.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::body::{self, OneOrMany};
use super::openapi::{BodyRefusals, Busy, Refusals};
use super::problem::Problem;
use crate::caller::Caller;
use crate::domain::ids::{RunId, SnapshotId};
use crate::domain::verification::{CancelReason, Cancellation, Cancelled, ScheduleRefusal};
use crate::store::token::Scope;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Cancel, example = json!({"run_id": "run_mwtp8ui300000bj9lc3fwlbwr1", "reason": "connected"}))]
pub(super) struct Request {
    /// The run.
    run_id: RunId,
    /// The snapshot of the dispatch to cancel. A pending verification for another snapshot stays.
    #[serde(default)]
    snapshot_id: Option<SnapshotId>,
    /// The reason. `operator` also needs the scope `operate`.
    reason: CancelReason,
}

impl From<Request> for Cancellation {
    fn from(request: Request) -> Self {
        let Request { run_id, snapshot_id, reason } = request;
        Self { run_id, snapshot_id, reason }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = CancelResult)]
pub(super) struct Answer {
    run_id: RunId,
    #[serde(flatten)]
    cancelled: Cancelled,
}

/// Cancels verifications. 200 when all results agree, 207 when an array has mixed ones.
#[utoipa::path(
    post, path = "/v1/cancellations", tag = "supervisors", security(("token" = ["schedule"])),
    request_body = OneOrMany<Request>,
    responses(
        (status = 200, body = OneOrMany<Answer>, description = "All results agree"),
        (status = 207, body = Vec<Answer>, description = "The results differ, or are `busy`"),
        Refusals, BodyRefusals, Busy
    )
)]
pub(super) async fn cancel(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let bytes = body::bytes(bytes, api.config.body_bytes_max)?;
    let (batch, is_array): (Vec<Cancellation>, _) =
        body::read(&bytes, api.config.batch_max, |request: Request| Ok(request.into()))?.into_elements();
    if batch.iter().any(|one| one.reason == CancelReason::Operator) {
        if !caller.may(Scope::Operate) {
            return Err(Problem::forbidden(Scope::Operate));
        }
        let runs: Vec<&RunId> =
            batch.iter().filter(|one| one.reason == CancelReason::Operator).map(|one| &one.run_id).collect();
        // Written before the cancel, so that no cancel lacks its entry. An entry alone means that one was
        // tried.
        api.store.note_cancels(&runs, &caller.actor()).await.map_err(|error| Problem::database(&error))?;
    }
    let cancelled = match batch.as_slice() {
        // Single calls of many callers share a statement, and each runs after its own schedule.
        [one] if !is_array => api.calls.cancel(one.clone()).await.map(|cancelled| vec![cancelled]),
        all => api.calls.cancel_batch(all).await,
    };
    let cancelled = cancelled.map_err(|error| Problem::database(&error))?;
    if let ([Cancelled::Busy], [one], false) = (cancelled.as_slice(), batch.as_slice(), is_array) {
        return Err(Problem::busy(ScheduleRefusal::Busy(one.run_id.clone()).to_string()));
    }
    let kind = std::mem::discriminant::<Cancelled>;
    let mixed = cancelled.windows(2).any(|pair| kind(&pair[0]) != kind(&pair[1]));
    let busy = cancelled.contains(&Cancelled::Busy);
    let status = if mixed || busy { StatusCode::MULTI_STATUS } else { StatusCode::OK };
    let mut answers: Vec<Answer> = batch
        .into_iter()
        .zip(cancelled)
        .map(|(cancellation, cancelled)| Answer { run_id: cancellation.run_id, cancelled })
        .collect();
    Ok(match (is_array, answers.pop()) {
        (false, Some(one)) => (status, Json(one)).into_response(),
        (_, last) => {
            answers.extend(last);
            (status, Json(answers)).into_response()
        }
    })
}

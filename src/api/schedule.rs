//! `POST /v1/verifications`: schedules verifications of warm-start hits.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::body::{self, OneOrMany};
use super::openapi::{BodyRefusals, Busy, DequeuedMessage, Refusals};
use super::problem::{FieldError, Problem, parsed_name};
use super::{Api, pools};
use crate::domain::dispatch::Dispatch;
use crate::domain::ids::{PoolName, RunId, VerificationId};
use crate::domain::verification::{
    DELAY_MAX, DELAY_MIN, Intent, NewVerification, ScheduleRefusal, ScheduleResult, Scheduled,
};
use crate::store::schedule::ScheduleAnswer;

// Unknown keys are refused, so that a misspelt one is not silently ignored.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Schedule, example = json!({"dequeued_message": {
        "version": "1", "dequeuedAt": "2026-11-23T20:09:29.000Z",
        "run": {"friendlyId": "run_mwtp8ui300000bj9lc3fwlbwr1"},
        "snapshot": {"friendlyId": "snapshot_cmwtp9rtf0000dh5amclokb91"},
        "backgroundWorker": {"version": "20260821.3"}
    }, "supervisor": "supervisor-1"}))]
pub(super) struct Request {
    /// The message as the platform sent it. Stored byte for byte.
    #[schema(value_type = DequeuedMessage)]
    dequeued_message: Box<RawValue>,
    /// The supervisor's timings. Stored byte for byte and passed to the workload.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    timings: Option<Box<RawValue>>,
    /// The delay from now to `due_at`. By default the pool's own delay, or else the API's.
    #[serde(default)]
    #[schema(value_type = Option<u64>, minimum = 1000, maximum = 60_000)]
    delay_ms: Option<serde_json::Number>,
    /// The pool whose backend starts the run cold; `default` if absent.
    #[serde(default)]
    pool: Option<PoolName>,
    /// For reports.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200)]
    supervisor: Option<String>,
    /// For reports.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200)]
    region: Option<String>,
    /// Why the verification is scheduled.
    #[serde(default)]
    intent: Intent,
}

/// An element of an array that was not scheduled, because another open transaction holds its run's row.
#[derive(Serialize, ToSchema)]
#[schema(as = ScheduleBusy)]
pub(super) struct Held {
    run_id: RunId,
    result: HeldResult,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum HeldResult {
    Busy,
}

/// The answer to one element of an array.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ScheduleElement)]
pub(super) enum Element {
    /// On disk.
    Scheduled(Answer),
    /// Not written.
    Busy(Held),
}

#[derive(Serialize, ToSchema)]
#[schema(as = Scheduled)]
pub(super) struct Answer {
    id: VerificationId,
    run_id: RunId,
    due_at: DateTime<Utc>,
    result: ScheduleResult,
}

/// Schedules verifications. 201 when all results agree, 207 when an array has mixed ones.
#[utoipa::path(
    post, path = "/v1/verifications", tag = "supervisors", security(("token" = ["schedule"])),
    request_body = OneOrMany<Request>,
    responses(
        (status = 201, body = OneOrMany<Answer>, description = "On disk; all results agree"),
        (status = 207, body = Vec<Element>, description = "On disk but for `busy` ones; the results differ"),
        Refusals, BodyRefusals, Busy
    )
)]
pub(super) async fn schedule(
    State(api): State<Api>,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let bytes = body::bytes(bytes, api.config.body_bytes_max)?;
    let request: OneOrMany<NewVerification> = body::read(&bytes, api.config.batch_max, check)?;
    drop(bytes);
    let (batch, is_array) = request.into_elements();
    pools::check(&api, batch.iter().map(|new| &new.pool), is_array).await?;

    let runs: Vec<RunId> = batch.iter().map(|new| new.dispatch.run_id.clone()).collect();
    let answers = promise(&api, batch, is_array).await?;
    let mut elements = Vec::with_capacity(runs.len());
    for (position, (run_id, answer)) in runs.into_iter().zip(answers).enumerate() {
        match answer {
            Ok(Scheduled { result, id, due_at }) => {
                elements.push(Element::Scheduled(Answer { id, run_id, due_at, result }));
            }
            Err(ScheduleRefusal::Busy(run_id)) if is_array => {
                elements.push(Element::Busy(Held { run_id, result: HeldResult::Busy }));
            }
            Err(refusal @ ScheduleRefusal::Busy(_)) => return Err(Problem::busy(refusal.to_string())),
            // An operator deleted the pool during this request. Other elements may be written: on a
            // repeat they are duplicates, and this element is a 422.
            Err(ScheduleRefusal::UnknownPool(pool)) => {
                api.pools.forget();
                return Err(Problem::conflict(format!(
                    "the pool `{pool}` was removed a moment ago; repeat the request, it is safe to repeat"
                )));
            }
            // Only the database knows its clock. As above, other elements may be written.
            Err(refusal @ ScheduleRefusal::FromTheFuture) => {
                let element = if is_array { format!("/{position}") } else { String::new() };
                let field = format!("{element}/dequeued_message/dequeuedAt");
                return Err(Problem::invalid(vec![FieldError::new(field, refusal.to_string())]));
            }
        }
    }
    let agree = elements.windows(2).all(|pair| pair[0].result() == pair[1].result());
    let written = elements.iter().all(|element| element.result().is_some());
    let status = if agree && written { StatusCode::CREATED } else { StatusCode::MULTI_STATUS };
    Ok(match (is_array, elements.pop()) {
        (false, Some(one)) => (status, Json(one)).into_response(),
        (_, last) => {
            elements.extend(last);
            (status, Json(elements)).into_response()
        }
    })
}

impl Element {
    /// What became of it; `None`: nothing was written.
    const fn result(&self) -> Option<ScheduleResult> {
        match self {
            Self::Scheduled(answer) => Some(answer.result),
            Self::Busy(_) => None,
        }
    }
}

/// An array is a batch already; single calls of many callers share a statement.
async fn promise(
    api: &Api,
    mut batch: Vec<NewVerification>,
    is_array: bool,
) -> Result<Vec<ScheduleAnswer>, Problem> {
    let answers = match batch.pop() {
        Some(one) if !is_array => api.calls.schedule(one).await.map(|answer| vec![answer]),
        last => {
            batch.extend(last);
            api.calls.schedule_batch(&batch).await
        }
    };
    answers.map_err(|error| Problem::database(&error))
}

fn check(request: Request) -> Result<NewVerification, Vec<FieldError>> {
    let mut errors = Vec::new();
    let delay = check_delay(request.delay_ms.as_ref(), &mut errors);
    let supervisor = parsed_name("/supervisor", request.supervisor, &mut errors);
    let region = parsed_name("/region", request.region, &mut errors);
    let dispatch = Dispatch::parse(request.dequeued_message, request.timings).map_err(|error| {
        let place = format!("/dequeued_message{}", body::pointer_of_dotted(&error.field));
        errors.push(FieldError::at(&place, &error.problem));
    });
    match dispatch {
        Ok(dispatch) if errors.is_empty() => Ok(NewVerification {
            dispatch,
            pool: request.pool.unwrap_or_else(PoolName::default_pool),
            supervisor,
            region,
            intent: request.intent,
            delay,
        }),
        _ => Err(errors),
    }
}

fn check_delay(delay_ms: Option<&serde_json::Number>, errors: &mut Vec<FieldError>) -> Option<Duration> {
    let delay = Duration::from_millis(delay_ms?.as_u64().unwrap_or(0));
    if (DELAY_MIN..=DELAY_MAX).contains(&delay) {
        return Some(delay);
    }
    let (min, max) = (DELAY_MIN.as_millis(), DELAY_MAX.as_millis());
    errors.push(FieldError::new(
        "/delay_ms",
        format!("must be a whole number of milliseconds from {min} to {max}"),
    ));
    None
}

//! `GET /v1/reports/silent-loss`: rates with their intervals, from counts.

use std::ops::RangeInclusive;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use chrono::{DateTime, Datelike, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::openapi::{Invalid, Refusals};
use super::problem::{FieldError, Problem};
use crate::store::report::{LossBy, LossRates, Step};

/// What is reported by default.
const SINCE_DEFAULT: TimeDelta = TimeDelta::hours(1);
/// Instants outside these years are no time of a report, and some of them none of the database either.
const YEARS: RangeInclusive<i32> = 1..=9999;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ReportQuery {
    /// The start of the report; an hour ago by default.
    #[param(required = false)]
    since: Option<DateTime<Utc>>,
    /// How much time a line covers.
    #[param(required = false)]
    step: Option<Step>,
    /// What to group the lines by.
    #[param(required = false)]
    by: Option<LossBy>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Report {
    since: DateTime<Utc>,
    step: Step,
    by: LossBy,
    lines: Vec<LossRates>,
}

/// Losses since an instant, a line for each step and key.
#[utoipa::path(
    get, path = "/v1/reports/silent-loss", tag = "lookup", security(("token" = ["read"])),
    params(ReportQuery),
    responses((status = 200, body = Report, description = "Rates with their intervals"), Refusals, Invalid)
)]
pub(super) async fn silent_loss(
    State(api): State<Api>,
    asked: Result<Query<ReportQuery>, QueryRejection>,
) -> Result<Json<Report>, Problem> {
    let Query(asked) =
        asked.map_err(|error| Problem::invalid(vec![FieldError::new("query", error.body_text())]))?;
    let database = |error| Problem::database(&error);
    let since = match asked.since {
        Some(since) if !YEARS.contains(&since.year()) => {
            let problem = format!("must be in the years {} to {}", YEARS.start(), YEARS.end());
            return Err(Problem::invalid(vec![FieldError::new("since", problem)]));
        }
        Some(since) => since,
        None => api.store.clock().await.map_err(database)? - SINCE_DEFAULT,
    };
    let (step, by) = (asked.step.unwrap_or_default(), asked.by.unwrap_or_default());
    let lines = api.store.losses(since, step, by).await.map_err(database)?;
    Ok(Json(Report { since, step, by, lines }))
}

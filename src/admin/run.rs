//! A run: its verifications as timelines, and the actions on the pending one.

use askama::Template;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use uuid::Uuid;

use super::Admin;
use super::badge::{self, Badge};
use super::error::{PageError, redirect};
use super::form::{Fields, Operating};
use super::page::{self, Chrome, Tab};
use super::shown;
use super::timeline::{self, Moment};
use super::visitor::Reading;
use crate::domain::claim::EarlyProbe;
use crate::domain::ids::{RegionName, RunId, SupervisorName, VerificationId};
use crate::domain::outcome::Outcome;
use crate::store::early::ProbeNow;
use crate::store::follow_up::FollowUpRecord;
use crate::store::lookup::Pending;

/// Past verifications of a run that are shown.
const HISTORY_MAX: i64 = 50;

#[derive(Template)]
#[template(path = "runs.html")]
struct SearchPage {
    chrome: Chrome,
    problem: Option<String>,
}

/// One verification.
struct Reported {
    badge: Badge,
    is_pending: bool,
    due_ms: i64,
    due: String,
    facts: Vec<(&'static str, String)>,
    moments: Vec<Moment>,
}

#[derive(Template)]
#[template(path = "run.html")]
struct RunPage {
    chrome: Chrome,
    run_id: String,
    /// The dispatch of the pending verification. A cancel applies only to this dispatch.
    pending_snapshot: Option<String>,
    /// Whether that one is not due yet.
    is_early: bool,
    verifications: Vec<Reported>,
}

/// Finds a run, or the run of a verification.
pub(super) async fn search(
    State(admin): State<Admin>,
    Reading(visitor): Reading,
    fields: Fields,
) -> Result<Response, PageError> {
    let sought = fields.get("id").unwrap_or_default().trim().to_owned();
    let base = &admin.config.address.base;
    let problem = match (RunId::parse(sought.as_str()), sought.parse::<Uuid>()) {
        _ if sought.is_empty() => None,
        (Ok(run), _) => return Ok(redirect(&format!("{base}/runs/{run}"))),
        (Err(_), Ok(id)) => {
            if let Some(run) = admin.store.run_of(VerificationId(id)).await? {
                return Ok(redirect(&format!("{base}/runs/{run}")));
            }
            let reason = "it was never scheduled here, or its outcome was pruned";
            Some(format!("There is no verification with this id: {reason}."))
        }
        (Err(error), Err(_)) => Some(format!("A run’s id {error}; a verification’s id is a UUID.")),
    };
    let chrome = Chrome { sought, ..Chrome::still(&admin, &visitor, Tab::Runs) };
    let status = if problem.is_some() { StatusCode::NOT_FOUND } else { StatusCode::OK };
    let mut response = page::write(&SearchPage { chrome, problem })?;
    *response.status_mut() = status;
    Ok(response)
}

/// The page.
pub(super) async fn page(
    State(admin): State<Admin>,
    Reading(visitor): Reading,
    run: Result<Path<String>, PathRejection>,
    fields: Fields,
) -> Result<Response, PageError> {
    let run_id = parse(run)?;
    let chrome = Chrome::live(&admin, &visitor, Tab::Runs).await?;
    // Pending first: a row that settles between the two reads is then seen at least once.
    let pending = admin.store.pending_of(&run_id).await?;
    let past = admin.store.outcomes_of(&run_id, HISTORY_MAX).await?;
    let ids: Vec<Uuid> = past.iter().map(|outcome| outcome.id).collect();
    let follow_ups = admin.store.follow_ups_of(&ids).await?;
    let pending = pending.filter(|pending| past.iter().all(|outcome| outcome.id != pending.id));
    if pending.is_none() && past.is_empty() {
        let chrome = Chrome { sought: run_id.to_string(), ..chrome };
        let problem = format!(
            "There is no verification of {run_id}: it was never scheduled here, or its outcome was pruned."
        );
        let mut response = page::write(&SearchPage { chrome, problem: Some(problem) })?;
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    }
    let now = chrome.clock();
    let follow_up = |outcome: &Outcome| follow_ups.iter().find(|one| one.verification_id == outcome.id);
    let present = pending.as_ref().map(|pending| reported_pending(pending, now));
    let verifications = present
        .into_iter()
        .chain(past.iter().map(|outcome| reported_outcome(outcome, follow_up(outcome))))
        .collect();
    page::write(&RunPage {
        chrome: chrome.with_notice(notice(&fields)),
        run_id: run_id.to_string(),
        is_early: pending.as_ref().is_some_and(|pending| pending.due_at > now),
        pending_snapshot: pending.map(|pending| pending.snapshot_id),
        verifications,
    })
}

/// Probes the run now instead of later.
pub(super) async fn probe_now(
    State(admin): State<Admin>,
    run: Result<Path<String>, PathRejection>,
    operating: Operating,
) -> Result<Response, PageError> {
    let run_id = parse(run)?;
    let early = if operating.fields.get("act").is_some() { EarlyProbe::Act } else { EarlyProbe::Observe };
    let reported = match admin.store.probe_now(&run_id, early, &operating.actor).await? {
        ProbeNow::Nothing => "not",
        ProbeNow::Due => "now",
        ProbeNow::Early(EarlyProbe::Observe) => "observed",
        ProbeNow::Early(EarlyProbe::Act) => "early",
    };
    Ok(redirect(&format!("{}/runs/{run_id}?probes={reported}", admin.config.address.base)))
}

/// The run of a path.
pub(super) fn parse(run: Result<Path<String>, PathRejection>) -> Result<RunId, PageError> {
    let invalid = |problem: String| PageError::Invalid(vec![problem]);
    let Path(run) = run.map_err(|_| invalid("A run’s id is text.".to_owned()))?;
    RunId::parse(run).map_err(|error| invalid(format!("A run’s id {error}.")))
}

fn notice(fields: &Fields) -> Option<String> {
    let reported = match fields.get("probes")? {
        "now" => "It is probed now.",
        "observed" => "It is probed now. It is not due yet, so what the probe sees changes nothing.",
        "early" => {
            "It is probed now, before it is due, and acts on what it sees. No rate counts the outcome."
        }
        _ => "Nothing changed: a worker has the verification in flight already, or it has ended.",
    };
    Some(reported.to_owned())
}

fn reported_pending(pending: &Pending, now: chrono::DateTime<chrono::Utc>) -> Reported {
    Reported {
        badge: badge::of_pending(pending),
        is_pending: true,
        due_ms: pending.probe_at.timestamp_millis(),
        due: shown::relative(pending.probe_at, now),
        facts: facts(
            pending.id,
            [&pending.snapshot_id, &pending.pool, pending.intent.as_str()],
            [
                pending.supervisor.as_ref().map(SupervisorName::as_str),
                pending.region.as_ref().map(RegionName::as_str),
                pending.deployment_version.as_deref(),
            ],
            None,
        ),
        moments: timeline::present(pending, now),
    }
}

fn reported_outcome(outcome: &Outcome, follow_up: Option<&FollowUpRecord>) -> Reported {
    Reported {
        badge: badge::of_outcome(outcome),
        is_pending: false,
        due_ms: 0,
        due: String::new(),
        facts: facts(
            outcome.id,
            [&outcome.snapshot_id, &outcome.pool, outcome.intent.as_str()],
            [
                outcome.supervisor.as_ref().map(SupervisorName::as_str),
                outcome.region.as_ref().map(RegionName::as_str),
                outcome.deployment_version.as_deref(),
            ],
            outcome.traceparent.as_deref(),
        ),
        moments: timeline::past(outcome, follow_up),
    }
}

fn facts(
    id: Uuid,
    [snapshot, pool, intent]: [&str; 3],
    [supervisor, region, version]: [Option<&str>; 3],
    traceparent: Option<&str>,
) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("Pool", pool.to_owned()),
        ("Supervisor", shown::or_dash(supervisor)),
        ("Region", shown::or_dash(region)),
        ("Deployment version", shown::or_dash(version)),
        ("Intent", intent.to_owned()),
        ("Snapshot", snapshot.to_owned()),
        ("Verification", id.to_string()),
    ];
    if let Some(trace) = traceparent.and_then(|text| text.split('-').nth(1)) {
        facts.push(("Trace", trace.to_owned()));
    }
    facts
}

//! `warmproof show RUN`: why a run was cold-started, or was not, as a timeline.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::json;

use super::output;
use crate::domain::ids::{RunId, SupervisorName};
use crate::domain::outcome::{Outcome, OutcomeKind, Reason};
use crate::store::follow_up::FollowUpRecord;
use crate::store::lookup::Pending;

/// Past verifications of a run that are shown.
const HISTORY_MAX: i64 = 20;

/// Which run to show.
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The run's friendly id, such as `run_06n8r0j5c2p5ve1k3m7qfa9he1`
    run: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One event of the past or the future.
struct Moment {
    at: DateTime<Utc>,
    what: String,
}

/// Shows the run's verifications, the newest last. Exits with 1 if there are none.
pub(super) async fn show(args: ShowArgs) -> anyhow::Result<ExitCode> {
    let run_id = RunId::parse(args.run)?;
    let store = output::connect().await?;
    let pending = store.pending_of(&run_id).await?;
    let mut outcomes = store.outcomes_of(&run_id, HISTORY_MAX).await?;
    outcomes.reverse();
    let ids: Vec<_> = outcomes.iter().map(|outcome| outcome.id).collect();
    let follow_ups = store.follow_ups_of(&ids).await?;
    if args.json {
        output::json(&json!({
            "run_id": run_id, "pending": pending, "outcomes": outcomes, "follow_ups": follow_ups,
        }))?;
    } else {
        for outcome in &outcomes {
            let follow_up = follow_ups.iter().find(|one| one.verification_id == outcome.id);
            let title = format!("{} of snapshot {}", outcome.outcome.as_str(), outcome.snapshot_id);
            tell(&title, past(outcome, follow_up))?;
        }
        if let Some(pending) = &pending {
            tell(&format!("pending for snapshot {}", pending.snapshot_id), present(pending))?;
        }
    }
    if outcomes.is_empty() && pending.is_none() {
        if !args.json {
            output::line(&format!(
                "no verification of {run_id}: it was never scheduled here, or its outcome was pruned"
            ))?;
        }
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(title: &str, mut moments: Vec<Moment>) -> anyhow::Result<()> {
    moments.sort_by_key(|moment| moment.at);
    output::line(&output::plain(title))?;
    let begin = moments.first().map_or(DateTime::UNIX_EPOCH, |moment| moment.at);
    for moment in moments {
        let since = output::span(moment.at - begin);
        output::line(&format!(
            "  {}  +{since:>10}  {}",
            output::instant(moment.at),
            output::plain(&moment.what)
        ))?;
    }
    output::line("")
}

fn past(outcome: &Outcome, follow_up: Option<&FollowUpRecord>) -> Vec<Moment> {
    let mut moments = vec![
        dequeued(outcome.dequeued_at),
        scheduled(outcome.scheduled_at, &outcome.pool, outcome.supervisor.as_ref()),
        Moment { at: outcome.due_at, what: "due".to_owned() },
        Moment { at: outcome.settled_at, what: ended(outcome) },
    ];
    moments.extend(steps(outcome.connected_at, outcome.lost_at, outcome.create_permitted_at));
    if let Some(record) = follow_up {
        let (at, what) = match (&record.result, record.probed_at) {
            (Some(result), Some(at)) => {
                let error = record.error.as_deref().map_or(String::new(), |error| format!(": {error}"));
                (at, format!("follow-up: {}{error}", result.as_str()))
            }
            _ => (record.probe_at, "follow-up is due".to_owned()),
        };
        moments.push(Moment { at, what });
    }
    moments
}

fn present(pending: &Pending) -> Vec<Moment> {
    let mut next = "next probe".to_owned();
    if let Some(worker) = &pending.worker {
        next = format!("{next}, in flight at {worker}");
    }
    if let Some(reason) = pending.hold_reason {
        next = format!("{next}; held: {}", reason.as_str());
    }
    if let Some(error) = &pending.last_error {
        next = format!("{next}; {error}");
    }
    let mut moments = vec![
        dequeued(pending.dequeued_at),
        scheduled(pending.scheduled_at, &pending.pool, pending.supervisor.as_ref()),
        Moment { at: pending.due_at, what: "due".to_owned() },
        Moment { at: pending.probe_at, what: next },
    ];
    moments.extend(steps(pending.connected_at, pending.lost_at, pending.create_permitted_at));
    moments
        .extend(pending.observed().map(|(at, what)| Moment { at, what: format!("observed early: {what}") }));
    moments
}

fn dequeued(at: DateTime<Utc>) -> Moment {
    Moment { at, what: "dequeued, by the platform's clock".to_owned() }
}

fn scheduled(at: DateTime<Utc>, pool: &str, supervisor: Option<&SupervisorName>) -> Moment {
    let by = supervisor.map_or(String::new(), |supervisor| format!(" by {supervisor}"));
    Moment { at, what: format!("scheduled in pool {pool}{by}") }
}

fn steps(
    connected_at: Option<DateTime<Utc>>,
    lost_at: Option<DateTime<Utc>>,
    permitted_at: Option<DateTime<Utc>>,
) -> impl Iterator<Item = Moment> {
    [
        (connected_at, "the runner connected"),
        (lost_at, "marked lost: the platform still had the dispatched snapshot"),
        (permitted_at, "a cold start was permitted"),
    ]
    .into_iter()
    .filter_map(|(at, what)| Some(Moment { at: at?, what: what.to_owned() }))
}

/// How the verification ended, in one sentence.
fn ended(outcome: &Outcome) -> String {
    let reason = outcome.reason.map_or("", Reason::as_str);
    let mut reported = match outcome.outcome {
        OutcomeKind::Delivered => format!("delivered: the run was {reason}"),
        OutcomeKind::Cancelled => format!("cancelled: {reason}"),
        OutcomeKind::Superseded => "superseded by a newer dispatch".to_owned(),
        OutcomeKind::Fallback | OutcomeKind::ProbeError => outcome.outcome.as_str().to_owned(),
    };
    let facts = [
        outcome.fallback_result.map(|result| format!("result {}", result.as_str())),
        outcome.workload.as_ref().map(|workload| format!("workload {workload}")),
        outcome.worker.as_ref().map(|worker| format!("by worker {worker}")),
        outcome.probe_ms.map(|ms| format!("last probe {ms} ms")),
        Some(format!(
            "{} claims, {} probes, {} creates",
            outcome.claim_count, outcome.probe_count, outcome.create_count
        )),
        outcome.late.then(|| "late: the probe may have seen the redriven dispatch".to_owned()),
        outcome.early.then(|| "early: an operator asked for it before it was due".to_owned()),
        outcome.error.as_ref().map(|error| format!("error: {error}")),
    ];
    for fact in facts.into_iter().flatten() {
        reported = format!("{reported}; {fact}");
    }
    reported
}

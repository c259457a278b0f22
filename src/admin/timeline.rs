//! A verification's life as moments: hit, probe, verdict, fallback, outcome.

use chrono::{DateTime, TimeDelta, Utc};

use super::shown;
use crate::domain::ids::SupervisorName;
use crate::domain::outcome::{FallbackResult, Outcome, OutcomeKind, Reason};
use crate::domain::verification::Intent;
use crate::store::follow_up::{FollowUpRecord, FollowUpResult};
use crate::store::lookup::Pending;

/// One thing that happened, or will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moment {
    /// When, if known: the instants of claims and probes are not stored.
    pub(super) at: Option<DateTime<Utc>>,
    /// The time since the first moment.
    pub(super) since: String,
    pub(super) what: String,
    pub(super) reported: String,
    /// `good`, `info`, `warn`, `bad`, `next`, or nothing.
    pub(super) level: &'static str,
}

impl Moment {
    fn new(at: impl Into<Option<DateTime<Utc>>>, level: &'static str, what: impl Into<String>) -> Self {
        Self {
            at: at.into(),
            since: String::new(),
            what: shown::plain(&what.into()),
            reported: String::new(),
            level,
        }
    }

    fn reported(self, facts: impl IntoIterator<Item = Option<String>>) -> Self {
        Self { reported: shown::plain(&facts.into_iter().flatten().collect::<Vec<_>>().join(" · ")), ..self }
    }

    /// For the template.
    pub(super) fn instant(&self) -> String {
        self.at.map(shown::instant).unwrap_or_default()
    }

    pub(super) fn machine(&self) -> String {
        self.at.map(shown::machine).unwrap_or_default()
    }
}

/// The moments of a verification that has ended.
pub(super) fn past(outcome: &Outcome, record: Option<&FollowUpRecord>) -> Vec<Moment> {
    let mut moments = begin(
        outcome.dequeued_at,
        outcome.scheduled_at,
        outcome.intent,
        &outcome.pool,
        outcome.supervisor.as_ref(),
    );
    let was_due = outcome.due_at <= outcome.settled_at;
    if was_due {
        moments.push(
            Moment::new(outcome.due_at, "", "Due").reported([Some("nothing had cancelled it".to_owned())]),
        );
    }
    if outcome.claim_count > 0 {
        let worker = outcome.worker.as_deref().unwrap_or("a worker");
        moments.push(
            Moment::new(None, "info", format!("Claimed by {worker}"))
                .reported([Some(shown::times(outcome.claim_count.into(), "claim"))]),
        );
    }
    if outcome.probe_count > 0 {
        moments.push(Moment::new(None, "info", "Probed").reported([
            outcome.probe_ms.map(|ms| format!("the last probe took {ms} ms")),
            Some(shown::times(outcome.probe_count.into(), "probe")),
            outcome.error.as_ref().filter(|_| outcome.outcome == OutcomeKind::ProbeError).cloned(),
        ]));
    }
    moments.extend(steps(outcome.connected_at, outcome.lost_at, outcome.create_permitted_at));
    if outcome.create_count > 0 {
        moments.push(Moment::new(None, "warn", "Cold start requested").reported([
            outcome.workload.as_ref().map(|name| format!("workload {name}")),
            Some(shown::times(outcome.create_count.into(), "request")),
        ]));
    }
    moments.push(end(outcome));
    if let Some(record) = record {
        moments.push(follow_up(record));
    }
    in_order(moments)
}

/// The moments of a pending verification.
pub(super) fn present(pending: &Pending, now: DateTime<Utc>) -> Vec<Moment> {
    let mut moments = begin(
        pending.dequeued_at,
        pending.scheduled_at,
        pending.intent,
        &pending.pool,
        pending.supervisor.as_ref(),
    );
    let is_due = pending.due_at <= now;
    moments.push(Moment::new(pending.due_at, if is_due { "" } else { "next" }, "Due"));
    let is_claimed = pending.lease_expires_at.is_some_and(|end| end > now);
    if pending.probe_count > 0 {
        moments.push(
            Moment::new(None, "info", "Probed").reported([
                Some(shown::times(pending.probe_count.into(), "probe")),
                pending.last_error.clone(),
            ]),
        );
    }
    moments.extend(steps(pending.connected_at, pending.lost_at, pending.create_permitted_at));
    moments.extend(pending.observed().map(|(at, what)| {
        Moment::new(at, "info", "Observed early").reported([Some(what), Some("nothing changed".to_owned())])
    }));
    if pending.create_count > 0 {
        moments.push(Moment::new(None, "warn", "Cold start requested").reported([
            pending.workload.as_ref().map(|name| format!("workload {name}")),
            Some(shown::times(pending.create_count.into(), "request")),
        ]));
    }
    if is_claimed {
        let worker = pending.worker.as_deref().unwrap_or("a worker");
        let lease = pending.lease_expires_at.map(|end| format!("its lease ends {}", shown::instant(end)));
        moments.push(
            Moment::new(None, "info", format!("In flight at {worker}"))
                .reported([lease, Some(shown::times(pending.claim_count.into(), "claim"))]),
        );
    }
    if pending.probe_at != pending.due_at || is_due {
        let why = pending.hold_reason.map(|reason| format!("held: {}", reason.as_str().replace('_', " ")));
        moments.push(Moment::new(pending.probe_at, "next", "Next probe").reported([why]));
    }
    in_order(moments)
}

fn begin(
    dequeued_at: DateTime<Utc>,
    scheduled_at: DateTime<Utc>,
    intent: Intent,
    pool: &str,
    supervisor: Option<&SupervisorName>,
) -> Vec<Moment> {
    let what = match intent {
        Intent::Dispatch => "Dispatch scheduled",
        Intent::Hit => "Warm-start hit scheduled",
    };
    let facts = [supervisor.map(|supervisor| format!("by {supervisor}")), Some(format!("in pool {pool}"))];
    vec![
        Moment::new(dequeued_at, "", "Dequeued").reported([Some("by the platform’s clock".to_owned())]),
        Moment::new(scheduled_at, "info", what).reported(facts),
    ]
}

fn steps(
    connected_at: Option<DateTime<Utc>>,
    lost_at: Option<DateTime<Utc>>,
    permitted_at: Option<DateTime<Utc>>,
) -> impl Iterator<Item = Moment> {
    let steps = [
        (connected_at, "good", "Runner connected", ""),
        (lost_at, "bad", "Verdict: lost", "the platform still had the dispatched snapshot"),
        (permitted_at, "warn", "Cold start permitted", ""),
    ];
    steps.into_iter().filter_map(|(at, level, what, reported)| {
        Some(Moment { reported: reported.to_owned(), ..Moment::new(at?, level, what) })
    })
}

/// How it ended.
fn end(outcome: &Outcome) -> Moment {
    let (level, what) = match outcome.outcome {
        OutcomeKind::Delivered => match outcome.reason {
            Some(Reason::Requeued) => {
                ("bad", "Delivered by the platform’s redrive: the warm start was lost".to_owned())
            }
            reason => ("good", format!("Delivered: the run was {}", reason.map_or("", Reason::as_str))),
        },
        OutcomeKind::Cancelled => match outcome.reason {
            Some(Reason::Connected) => ("good", "Cancelled: the runner connected".to_owned()),
            Some(Reason::Miss) => ("", "Cancelled: the broker had no runner".to_owned()),
            Some(Reason::Operator) => ("warn", "Cancelled by an operator".to_owned()),
            reason => ("warn", format!("Cancelled: {}", reason.map_or("", Reason::as_str))),
        },
        OutcomeKind::Superseded => ("", "Superseded by a newer dispatch".to_owned()),
        OutcomeKind::ProbeError => {
            ("warn", "Ended without an answer from the platform: nothing was started".to_owned())
        }
        OutcomeKind::Fallback => fell_back(outcome.fallback_result),
    };
    Moment::new(outcome.settled_at, level, what).reported([
        outcome
            .late
            .then(|| "late: the probe may have seen the redriven dispatch, so no rate counts it".to_owned()),
        outcome
            .early
            .then(|| "early: an operator asked for it before it was due, so no rate counts it".to_owned()),
        outcome
            .workload
            .as_ref()
            .filter(|_| outcome.create_count == 0)
            .map(|name| format!("workload {name}")),
        outcome
            .error
            .as_ref()
            .filter(|_| outcome.outcome != OutcomeKind::ProbeError)
            .map(|error| format!("error: {error}")),
    ])
}

fn fell_back(result: Option<FallbackResult>) -> (&'static str, String) {
    let (level, reported) = match result {
        None => ("", "its result is not known"),
        Some(FallbackResult::Created) => ("good", "a workload was created"),
        Some(FallbackResult::Existed) => ("good", "its workload existed already"),
        Some(FallbackResult::Overtaken) => ("warn", "the original runner acted after all"),
        Some(FallbackResult::Requeued) => ("warn", "the platform’s redrive came first"),
        Some(FallbackResult::Failed) => ("bad", "no create was confirmed"),
        Some(FallbackResult::Suppressed) => ("warn", "the pool is in shadow, nothing was created"),
        Some(FallbackResult::Cancelled) => ("warn", "cancelled after the loss was marked"),
        Some(FallbackResult::Superseded) => ("", "superseded by a newer dispatch"),
    };
    (level, format!("Fallback: {reported}"))
}

fn follow_up(record: &FollowUpRecord) -> Moment {
    let (level, what) = match record.result {
        Some(FollowUpResult::Confirmed) => ("good", "Follow-up: the run has started"),
        Some(FollowUpResult::NotStarted) => ("bad", "Follow-up: the run has not started"),
        Some(FollowUpResult::Unknown) => ("warn", "Follow-up: the probe failed"),
        None => ("next", "Follow-up"),
    };
    Moment::new(record.probed_at.unwrap_or(record.probe_at), level, what).reported([record.error.clone()])
}

/// Sorts moments by time. A moment without a time follows the moment before it.
fn in_order(moments: Vec<Moment>) -> Vec<Moment> {
    let mut known = DateTime::<Utc>::MIN_UTC;
    let mut placed: Vec<(DateTime<Utc>, Moment)> = Vec::with_capacity(moments.len());
    for moment in moments {
        known = moment.at.unwrap_or(known);
        placed.push((known, moment));
    }
    placed.sort_by_key(|(at, _)| *at);
    let first = placed.iter().find_map(|(_, moment)| moment.at);
    let since = |at: Option<DateTime<Utc>>| match (at, first) {
        (Some(at), Some(first)) if at > first => format!("+{}", elapsed(at - first)),
        _ => String::new(),
    };
    placed.into_iter().map(|(_, moment)| Moment { since: since(moment.at), ..moment }).collect()
}

/// To the millisecond below a minute.
fn elapsed(span: TimeDelta) -> String {
    let ms = span.num_milliseconds();
    if ms < 60_000 { format!("{}.{:03} s", ms / 1000, ms % 1000) } else { shown::span(span) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("an instant")
    }

    #[test]
    fn moments_are_in_order_and_those_without_a_time_follow_their_cause() {
        let moments = in_order(vec![
            Moment::new(at(10), "", "due"),
            Moment::new(None, "", "claimed"),
            Moment::new(at(5), "", "connected"),
            Moment::new(at(12), "", "ended"),
        ]);
        let reported: Vec<_> =
            moments.iter().map(|moment| (moment.what.as_str(), moment.since.as_str())).collect();
        assert_eq!(
            reported,
            [("connected", ""), ("due", "+5.000 s"), ("claimed", ""), ("ended", "+7.000 s")]
        );
    }

    #[test]
    fn every_result_of_a_fallback_has_words() {
        use crate::domain::outcome::FallbackResult as Result;
        let all = [
            Result::Created,
            Result::Existed,
            Result::Overtaken,
            Result::Requeued,
            Result::Failed,
            Result::Suppressed,
            Result::Cancelled,
            Result::Superseded,
        ];
        for result in all {
            assert_ne!(fell_back(Some(result)).1, format!("Fallback: {}", result.as_str()));
        }
    }
}

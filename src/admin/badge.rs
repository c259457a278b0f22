//! Badges: a word with a colour, for the state of a pool or a verification.

use crate::domain::outcome::{FallbackResult, Outcome, OutcomeKind, Reason};
use crate::domain::status::{HoldReason, Status};
use crate::store::gauges::PoolGauges;
use crate::store::lookup::Pending;
use crate::store::pool::Pool;

/// A word with a colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Badge {
    pub(super) text: String,
    /// `good`, `info`, `warn`, `bad`, or nothing.
    pub(super) level: &'static str,
}

impl Badge {
    pub(super) fn new(level: &'static str, text: impl Into<String>) -> Self {
        Self { text: text.into(), level }
    }
}

/// The state of a pool.
pub(super) fn of_pool(gauges: &PoolGauges, settings: Option<&Pool>) -> Vec<Badge> {
    let shadow = settings.is_some_and(|pool| pool.shadow);
    let stopped = settings.is_some_and(|pool| pool.cap == Some(0));
    let all = [
        (gauges.paused, Badge::new("warn", "paused")),
        (gauges.brown_out, Badge::new("warn", "brown-out")),
        (shadow, Badge::new("info", "shadow")),
        (stopped, Badge::new("warn", "cap 0")),
    ];
    let mut badges: Vec<Badge> =
        all.into_iter().filter(|(is_so, _)| *is_so).map(|(_, badge)| badge).collect();
    if badges.is_empty() {
        badges.push(Badge::new("good", "active"));
    }
    badges
}

/// The status of a pending verification, with a detail if there is one.
pub(super) fn of_pending(row: &Pending) -> Badge {
    let beside = match row.status {
        Status::Held => row.hold_reason.map(HoldReason::as_str),
        Status::Claimed | Status::Overdue | Status::Lost if row.create_permitted_at.is_some() => {
            Some("cold start permitted")
        }
        Status::Claimed | Status::Overdue if row.lost_at.is_some() => Some("lost"),
        Status::Waiting if row.connected_at.is_some() => Some("runner connected"),
        Status::Waiting if row.probe_at > row.due_at => Some("probes again"),
        Status::Claimed | Status::Overdue | Status::Lost | Status::Waiting => None,
    };
    let level = match row.status {
        Status::Overdue | Status::Lost => "bad",
        Status::Claimed if row.lost_at.is_some() => "bad",
        Status::Claimed => "info",
        Status::Held => "warn",
        Status::Waiting if row.connected_at.is_some() => "good",
        Status::Waiting if row.probe_at > row.due_at => "warn",
        Status::Waiting => "",
    };
    let word = row.status.as_str();
    Badge::new(
        level,
        beside.map_or(word.to_owned(), |beside| format!("{word}: {}", beside.replace('_', " "))),
    )
}

/// How a verification ended.
pub(super) fn of_outcome(outcome: &Outcome) -> Badge {
    let reason = outcome.reason.map(Reason::as_str);
    let (level, detail) = match (outcome.outcome, outcome.reason) {
        (OutcomeKind::Delivered, Some(Reason::Requeued)) => ("bad", reason),
        (OutcomeKind::Delivered, _) | (OutcomeKind::Cancelled, Some(Reason::Connected)) => ("good", reason),
        (OutcomeKind::Fallback, _) => ("bad", outcome.fallback_result.map(FallbackResult::as_str)),
        (OutcomeKind::ProbeError, _) => ("warn", None),
        (OutcomeKind::Cancelled | OutcomeKind::Superseded, _) => ("", reason),
    };
    let word = outcome.outcome.as_str();
    let text = detail.map_or(word.to_owned(), |detail| format!("{word}: {detail}"));
    Badge::new(level, text.replace('_', " "))
}

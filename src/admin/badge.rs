//! Badges: a word with a colour, for how a pool or a verification stands.

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::outcome::Outcome;
use crate::store::gauges::PoolGauges;
use crate::store::lookup::Pending;
use crate::store::pool::Pool;

/// Past its look by more than this is overdue, as everywhere else.
const OVERDUE_AFTER: TimeDelta = TimeDelta::seconds(2);

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

/// How a pool stands.
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

/// How a pending verification stands.
pub(super) fn of_pending(row: &Pending, now: DateTime<Utc>) -> Badge {
    let is_claimed = row.lease_expires_at.is_some_and(|end| end > now);
    let held = row.last_error.as_deref().and_then(|error| error.strip_prefix("held: "));
    match (is_claimed, row.create_permitted_at.is_some(), row.lost_at.is_some(), held) {
        (_, true, _, _) => Badge::new("bad", "starting cold"),
        (true, false, true, _) => Badge::new("bad", "lost, claimed"),
        (true, false, false, _) => Badge::new("info", "claimed"),
        (false, false, true, Some(why)) => Badge::new("warn", format!("held: {}", why.replace('_', " "))),
        (false, false, true, None) => Badge::new("bad", "lost"),
        (false, false, false, _) if row.look_at + OVERDUE_AFTER < now => Badge::new("bad", "overdue"),
        (false, false, false, _) if row.connected_at.is_some() => Badge::new("good", "connected, watched"),
        (false, false, false, _) if row.look_at > row.due_at => Badge::new("warn", "looks again"),
        (false, false, false, _) => Badge::new("", "waiting"),
    }
}

/// How a verification ended.
pub(super) fn of_outcome(outcome: &Outcome) -> Badge {
    let told = |detail: Option<&String>| match detail {
        Some(detail) => format!("{}: {}", outcome.outcome, detail.replace('_', " ")).replace('_', " "),
        None => outcome.outcome.replace('_', " "),
    };
    match outcome.outcome.as_str() {
        "delivered" if outcome.reason.as_deref() == Some("requeued") => {
            Badge::new("bad", told(outcome.reason.as_ref()))
        }
        "delivered" => Badge::new("good", told(outcome.reason.as_ref())),
        "fallback" => Badge::new("bad", told(outcome.fallback_result.as_ref())),
        "probe_error" => Badge::new("warn", told(None)),
        "cancelled" if outcome.reason.as_deref() == Some("connected") => {
            Badge::new("good", told(outcome.reason.as_ref()))
        }
        _ => Badge::new("", told(outcome.reason.as_ref())),
    }
}

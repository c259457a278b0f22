//! The bars that a release must meet, checked against the document of one run.
//!
//! Each phase publishes the figures that have a bar under `bars`, by the names below. A missing
//! figure was not measured; it is reported as such, neither met nor missed.

use serde_json::Value;

/// The side of its bar that a figure must be on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// Higher is better.
    AtLeast(f64),
    /// Lower is better.
    AtMost(f64),
}

/// One bar.
#[derive(Debug, Clone, Copy)]
pub struct Bar {
    /// What it measures.
    pub what: &'static str,
    phase: &'static str,
    figure: &'static str,
    /// The limit.
    pub bound: Bound,
}

const fn least(what: &'static str, phase: &'static str, figure: &'static str, bound: f64) -> Bar {
    Bar { what, phase, figure, bound: Bound::AtLeast(bound) }
}

const fn most(what: &'static str, phase: &'static str, figure: &'static str, bound: f64) -> Bar {
    Bar { what, phase, figure, bound: Bound::AtMost(bound) }
}

/// All bars.
pub const BARS: [Bar; 22] = [
    least("life through the batch API / in the server", "life", "life_to_limit", 0.70),
    least("single schedule, 256 callers / bulk", "schedule", "single_to_bulk", 0.80),
    most("single schedule, 256 callers, p99 ms", "schedule", "single_p99_ms", 15.0),
    least("plain single-row, 16 callers / commit limit", "schedule", "plain_to_commit_limit", 0.75),
    most("lag p99 at 5 000/s, 4 workers / bare timers", "lag", "lag_p99_to_timers", 2.0),
    most("lag p99 beside a pool with a slow platform / without", "neighbour", "neighbour_p99_ratio", 2.0),
    most("burst of 50 000, last verdict, seconds", "burst", "burst_50000_seconds", 6.0),
    most("cancel-heavy through the api, call p99 ms", "cancel_heavy", "cancel_heavy_call_p99_ms", 10.0),
    most("cancel-heavy, lateness of the rest, p99 ms", "cancel_heavy", "cancel_heavy_late_p99_ms", 5.0),
    most("lag p99, snapshot held / without", "held", "held_p99_ratio", 1.5),
    most("claim p99, 8 million future rows / empty", "depth", "claim_p99_future_ratio", 1.2),
    most("claim p99, 250 000 overdue elsewhere / empty", "depth", "claim_p99_overdue_ratio", 1.2),
    most("WAL bytes per verification", "wal", "wal_bytes", 1900.0),
    most("idle worker, queries per second", "idle", "idle_queries", 5.0),
    most("idle worker and its backends, % of a core", "idle", "idle_cpu_percent", 0.2),
    least("HTTP schedule, arrays of 100 / library", "http", "arrays_to_library", 0.6),
    least("HTTP schedule, single / library", "http", "singles_to_library", 0.2),
    most("RSS of a worker at 5 000/s, MB", "lag", "worker_rss_mb", 64.0),
    most("report over a day of outcomes, p95 ms", "reading", "report_p95_ms", 50.0),
    most("answer or command over a day of outcomes, p95 ms", "reading", "answer_p95_ms", 200.0),
    most("page over a day of outcomes, p95 ms", "reading", "page_p95_ms", 200.0),
    most("RSS of the api at saturation, MB", "http", "api_rss_mb", 128.0),
];

/// How a figure compares with its bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// On the right side.
    Met,
    /// On the wrong side.
    Missed,
    /// Not in the document.
    NotMeasured,
}

impl Judgement {
    /// The word for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "MISSED",
            Self::NotMeasured => "not measured",
        }
    }
}

impl Bar {
    /// The figure of a run, and how it compares with the bar.
    #[must_use]
    pub fn judge(&self, document: &Value) -> (Option<f64>, Judgement) {
        let figure = document["phases"][self.phase]["bars"][self.figure].as_f64();
        let result = match (figure, self.bound) {
            (None, _) => Judgement::NotMeasured,
            (Some(figure), Bound::AtLeast(bar)) if figure >= bar => Judgement::Met,
            (Some(figure), Bound::AtMost(bar)) if figure <= bar => Judgement::Met,
            (Some(_), _) => Judgement::Missed,
        };
        (figure, result)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_figure_is_met_missed_or_not_measured() {
        let judged = |life: Value| {
            let document = json!({ "phases": { "life": { "bars": { "life_to_limit": life } } } });
            BARS[0].judge(&document).1
        };
        assert_eq!(judged(json!(0.70)), Judgement::Met);
        assert_eq!(judged(json!(0.69)), Judgement::Missed);
        assert_eq!(judged(Value::Null), Judgement::NotMeasured);
        let document = json!({ "phases": { "wal": { "bars": { "wal_bytes": 1901 } } } });
        let results: Vec<_> = BARS.iter().map(|bar| bar.judge(&document).1).collect();
        assert_eq!(results.iter().filter(|result| **result == Judgement::Missed).count(), 1);
        assert_eq!(results.iter().filter(|result| **result == Judgement::Met).count(), 0);
    }
}

//! What needs attention, the worst first.

use super::Readings;
use crate::admin::shown;

/// One thing that needs attention.
pub(super) struct Warning {
    pub(super) level: &'static str,
    pub(super) what: &'static str,
    pub(super) reported: String,
    pub(super) path: Option<&'static str>,
}

/// All warnings.
pub(super) fn of(facts: &Readings) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut add =
        |level, what, reported: String, path| warnings.push(Warning { level, what, reported, path });
    if facts.account.conservation.unaccounted != 0 {
        let reported = format!(
            "{} verifications are unaccounted for. This is a defect: keep the log and run `warmproof doctor`",
            facts.account.conservation.unaccounted
        );
        add("bad", "conservation", reported, None);
    }
    for pool in &facts.gauges {
        let name = shown::plain(&pool.pool);
        if pool.workers == 0 && pool.pending > 0 {
            let reported = format!(
                "No running worker serves {name}, and {} verifications are pending in it",
                pool.pending
            );
            add("bad", "unserved", reported, Some("/workers"));
        }
        if pool.overdue > 0 {
            let reported = format!(
                "{} verifications of {name} are overdue, the longest by {:.0} s",
                pool.overdue, pool.overdue_longest_seconds
            );
            add("bad", "overdue", reported, Some("/pending?status=overdue"));
        }
        if pool.brown_out {
            let reported =
                format!("Many probes of {name} fail: {} losses are held until that ends", pool.held);
            add("warn", "brown-out", reported, Some("/pending?status=held"));
        } else if pool.held > 0 {
            let reported = format!("{} losses of {name} are held", pool.held);
            add("warn", "held", reported, Some("/pending?status=held"));
        }
        if pool.paused {
            add("warn", "paused", format!("{name} is paused: nothing is probed"), Some("/pools"));
        }
    }
    for pool in &facts.served {
        for problem in &pool.problems {
            add(
                "bad",
                "backend",
                format!("{}: {}", shown::plain(&pool.pool), shown::plain(problem)),
                Some("/workers"),
            );
        }
        if pool.backends.len() > 1 {
            let reported = format!(
                "{}: its workers differ in their backend: {}",
                shown::plain(&pool.pool),
                pool.backends.join(", ")
            );
            add("bad", "backend", reported, Some("/workers"));
        }
    }
    warnings.sort_by_key(|warning| warning.level != "bad");
    warnings
}

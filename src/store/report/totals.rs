//! Lines of a report of losses, summed over time.

use chrono::TimeDelta;
use serde::Serialize;

use super::{LossRates, Step};
use crate::domain::wilson::Share;

/// The span up to which minutes are kept and hours are too coarse.
const MINUTES_UP_TO: TimeDelta = TimeDelta::hours(3);
/// The span from which hours are too many to show.
const DAYS_FROM: TimeDelta = TimeDelta::days(4);

/// One key's sums over all lines.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Total {
    /// Which pool, supervisor and so on.
    pub key: Option<String>,
    /// Verifications scheduled.
    pub scheduled: i64,
    /// What the rate is a share of.
    pub observed: i64,
    /// Of those, lost.
    pub lost: i64,
    /// Fallbacks that the original runner overtook.
    pub overtaken: i64,
    /// Ended without an observation.
    pub probe_error: i64,
    /// Outside all rates: seen too late to know which dispatch started, or asked for early by an operator.
    pub late: i64,
    /// `lost` of `observed`.
    pub loss_rate: Option<f64>,
    /// Lower end of its interval.
    pub loss_rate_low: Option<f64>,
    /// Upper end of its interval.
    pub loss_rate_high: Option<f64>,
}

impl Total {
    /// The rate with its interval.
    #[must_use]
    pub fn share(&self) -> Option<Share> {
        Share::of(self.lost, self.observed)
    }
}

impl Step {
    /// The step that shows a span best.
    #[must_use]
    pub fn of_span(span: TimeDelta) -> Self {
        match span {
            span if span <= MINUTES_UP_TO => Self::Minute,
            span if span >= DAYS_FROM => Self::Day,
            _ => Self::Hour,
        }
    }
}

/// The sums of each key, the highest rate first.
#[must_use]
pub fn totals(lines: &[LossRates]) -> Vec<Total> {
    let mut places = std::collections::HashMap::new();
    let mut totals: Vec<Total> = Vec::new();
    for line in lines {
        let place = *places.entry(line.key.as_deref()).or_insert_with(|| {
            totals.push(Total { key: line.key.clone(), ..Total::default() });
            totals.len() - 1
        });
        let total = &mut totals[place];
        total.scheduled += line.scheduled;
        total.observed += line.observed;
        total.lost += line.lost;
        total.overtaken += line.overtaken;
        total.probe_error += line.probe_error;
        total.late += line.late;
    }
    for total in &mut totals {
        if let Some(share) = total.share() {
            total.loss_rate = Some(share.rate);
            (total.loss_rate_low, total.loss_rate_high) = (Some(share.low), Some(share.high));
        }
    }
    totals.sort_by(|one, other| {
        other.loss_rate.partial_cmp(&one.loss_rate).unwrap_or(std::cmp::Ordering::Equal)
    });
    totals
}

//! Percentiles and rates.

use std::time::Duration;

use serde::Serialize;

/// What a set of measured times says, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// How many were measured.
    pub count: usize,
    /// Median.
    pub p50: f64,
    /// One in a hundred is longer.
    pub p99: f64,
    /// One in a thousand is longer.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl Percentiles {
    /// Sorts and reads off; `None` of nothing.
    #[must_use]
    pub fn of(mut millis: Vec<f64>) -> Option<Self> {
        millis.sort_by(f64::total_cmp);
        let at = |permille: usize| {
            let rank = (millis.len() * permille).div_ceil(1000).max(1);
            millis.get(rank - 1).copied()
        };
        Some(Self { count: millis.len(), p50: at(500)?, p99: at(990)?, p999: at(999)?, max: *millis.last()? })
    }
}

/// So many in so long, per second.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
pub fn per_second(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// Milliseconds with fractions.
#[must_use]
pub fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

/// The middle one of a few runs.
#[must_use]
pub fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_read_off_by_rank() {
        let figures = Percentiles::of((1..=1000).rev().map(f64::from).collect()).expect("figures");
        assert_eq!((figures.p50, figures.p99, figures.p999, figures.max), (500.0, 990.0, 999.0, 1000.0));
        assert_eq!(Percentiles::of(Vec::new()), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(Vec::new()), None);
    }
}

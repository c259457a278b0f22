//! Percentiles and rates.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::spent::CpuPerRow;

/// The percentiles of a set of measured times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// How many were measured.
    pub count: usize,
    /// Median.
    pub p50: f64,
    /// 99 % are at most this long.
    pub p99: f64,
    /// 99.9 % are at most this long.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl Percentiles {
    /// Sorts the times and picks the percentiles; `None` for an empty set.
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

/// The rate per second.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
pub fn per_second(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// A duration as milliseconds with fractions.
#[must_use]
pub fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

/// The median of a few runs.
#[must_use]
pub fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len().checked_sub(1)? / 2).copied()
}

/// One measurement of one variant.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Rows a second.
    pub per_second: f64,
    /// How long its calls took, where single calls were timed.
    pub calls: Option<Percentiles>,
    /// What it cost, where it was metered.
    pub cpu: Option<CpuPerRow>,
}

impl From<f64> for Round {
    fn from(per_second: f64) -> Self {
        Self { per_second, calls: None, cpu: None }
    }
}

/// Variants measured in turns, so that a noisy minute affects all of them.
#[derive(Debug, Default)]
pub struct Rounds {
    variants: Vec<(String, Vec<Round>)>,
}

impl Rounds {
    /// Adds a measurement.
    pub fn add(&mut self, variant: &str, round: impl Into<Round>) {
        let round = round.into();
        match self.variants.iter_mut().find(|(name, _)| name == variant) {
            Some((_, rounds)) => rounds.push(round),
            None => self.variants.push((variant.to_owned(), vec![round])),
        }
    }

    fn of(&self, variant: &str) -> &[Round] {
        self.variants.iter().find(|(name, _)| name == variant).map_or(&[], |(_, rounds)| rounds)
    }

    /// Median rate of a variant.
    #[must_use]
    pub fn rate(&self, variant: &str) -> Option<f64> {
        median(self.of(variant).iter().map(|round| round.per_second).collect())
    }

    /// Median over rounds of one figure of a variant's call times.
    #[must_use]
    pub fn call(&self, variant: &str, figure: fn(&Percentiles) -> f64) -> Option<f64> {
        median(self.of(variant).iter().filter_map(|round| round.calls.as_ref().map(figure)).collect())
    }

    /// Median over rounds of the cost of a variant's row.
    fn cpu(&self, variant: &str, figure: fn(&CpuPerRow) -> f64) -> Option<f64> {
        median(self.of(variant).iter().filter_map(|round| round.cpu.as_ref().map(figure)).collect())
    }

    /// The variant with the best median rate.
    #[must_use]
    pub fn best<'v>(&self, variants: &[&'v str]) -> Option<&'v str> {
        let rate = |variant: &&&str| self.rate(variant).unwrap_or(0.0);
        variants.iter().max_by(|one, other| rate(one).total_cmp(&rate(other))).copied()
    }

    /// Median over rounds of the ratio of two variants.
    #[must_use]
    pub fn ratio(&self, variant: &str, to: &str) -> Option<f64> {
        let rounds = self.of(variant).iter().zip(self.of(to));
        median(rounds.map(|(one, other)| one.per_second / other.per_second).collect())
    }

    /// One row per variant: medians, lowest and highest rate, and the rate of each round.
    #[must_use]
    pub fn rows(&self) -> Value {
        let row = |(name, rounds): &(String, Vec<Round>)| {
            let rates: Vec<f64> = rounds.iter().map(|round| round.per_second.round()).collect();
            json!({
                "variant": name,
                "per_second": self.rate(name).map(f64::round),
                "lowest": rates.iter().copied().min_by(f64::total_cmp),
                "highest": rates.iter().copied().max_by(f64::total_cmp),
                "p50_ms": self.call(name, |calls| calls.p50),
                "p99_ms": self.call(name, |calls| calls.p99),
                "p999_ms": self.call(name, |calls| calls.p999),
                "max_ms": self.call(name, |calls| calls.max),
                "server_cpu_us": self.cpu(name, |cpu| cpu.server_us),
                "client_cpu_us": self.cpu(name, |cpu| cpu.client_us),
                "rounds": rates,
            })
        };
        self.variants.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_picked_by_rank() {
        let figures = Percentiles::of((1..=1000).rev().map(f64::from).collect()).expect("figures");
        assert_eq!((figures.p50, figures.p99, figures.p999, figures.max), (500.0, 990.0, 999.0, 1000.0));
        assert_eq!(Percentiles::of(Vec::new()), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn ratios_are_taken_within_rounds() {
        let mut rounds = Rounds::default();
        for (ours, limit) in [(50.0, 100.0), (8.0, 10.0), (60.0, 100.0)] {
            rounds.add("ours", ours);
            rounds.add("limit", limit);
        }
        assert_eq!(rounds.ratio("ours", "limit"), Some(0.6));
        assert_eq!(rounds.rate("limit"), Some(100.0));
        assert_eq!(rounds.best(&["ours", "limit"]), Some("limit"));
        assert_eq!(rounds.ratio("ours", "unknown"), None);
    }
}

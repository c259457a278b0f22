//! A share with its 95 % interval after Wilson (1927), as `wilson_95` in the database computes it.

use serde::Serialize;

/// The quantile of the normal distribution that leaves 2.5 % at each end.
const Z: f64 = 1.959_963_984_540_054;

/// A share and its interval, each from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    /// What was seen.
    pub rate: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl Share {
    /// `part` of `whole`; `None` when `whole` is 0.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 do not occur")]
    pub fn of(part: i64, whole: i64) -> Option<Self> {
        if whole <= 0 {
            return None;
        }
        let (k, n) = (part as f64, whole as f64);
        let (rate, z2) = (k / n, Z * Z);
        let middle = (rate + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let half = Z / (1.0 + z2 / n) * (rate * (1.0 - rate) / n + z2 / (4.0 * n * n)).sqrt();
        Some(Self { rate, low: (middle - half).max(0.0), high: (middle + half).min(1.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::Share;

    #[test]
    fn a_rate_comes_with_the_interval_of_wilson() {
        assert_eq!(Share::of(0, 0), None);
        // Worked by hand for 2 of 3 and for 0 of 10.
        let Share { rate, low, high } = Share::of(2, 3).expect("a rate");
        assert!(
            (rate - 0.666_67).abs() < 1e-4 && (low - 0.207_66).abs() < 1e-4 && (high - 0.938_51).abs() < 1e-4
        );
        let Share { low, high, .. } = Share::of(0, 10).expect("a rate");
        assert!(low.abs() < 1e-9 && (high - 0.277_53).abs() < 1e-4, "{low} {high}");
    }
}

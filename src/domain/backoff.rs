//! The next delay from a count: exponential, bounded, jittered.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// A delay that doubles with each failure up to a bound, with up to one delay of jitter on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The delay after the first failure, before jitter.
    pub base: Duration,
    /// The longest delay, before jitter.
    pub max: Duration,
}

impl Backoff {
    /// The delay after `failures` failures (1 for the first). `seed` decides the jitter.
    #[must_use]
    pub fn delay(&self, failures: u32, seed: u64) -> Duration {
        let nth = usize::try_from(failures.max(1) - 1).unwrap_or(usize::MAX).min(32);
        ExponentialBuilder::new()
            .with_min_delay(self.base)
            .with_max_delay(self.max)
            .with_max_times(nth + 1)
            .with_jitter()
            .with_jitter_seed(seed)
            .build()
            .nth(nth)
            .unwrap_or(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(8) };

    #[test]
    fn a_delay_doubles_up_to_its_bound_and_jitters_above_it() {
        for (failures, base) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (4_000_000_000, 8)] {
            let base = Duration::from_secs(base);
            for seed in 0..50 {
                let delay = BACKOFF.delay(failures, seed);
                assert!(delay >= base && delay <= base * 2, "{failures} failures: {delay:?}");
            }
        }
    }

    #[test]
    fn the_jitter_follows_the_seed() {
        let delays: std::collections::HashSet<_> = (0..20).map(|seed| BACKOFF.delay(1, seed)).collect();
        assert!(delays.len() > 10);
        assert_eq!(BACKOFF.delay(1, 7), BACKOFF.delay(1, 7));
    }
}

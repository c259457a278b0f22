//! When rows and bare timers of a benchmark are due.

use std::time::Duration;

/// A rate per second for a time, spread evenly or in groups that share one instant.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Due per second.
    pub rate: u32,
    /// For how many seconds.
    pub seconds: u32,
    /// How many share one instant; 1 spreads evenly.
    pub group: u32,
}

impl Pace {
    /// How many in total.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.rate * self.seconds
    }

    /// From the start to the instant of the n-th.
    #[must_use]
    pub fn offset(&self, nth: u32) -> Duration {
        let first_of_group = nth - nth % self.group.max(1);
        Duration::from_secs(u64::from(first_of_group)) / self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_shares_the_instant_of_its_first() {
        let pace = Pace { rate: 100, seconds: 1, group: 20 };
        assert_eq!(pace.count(), 100);
        assert_eq!(pace.offset(19), Duration::ZERO);
        assert_eq!(pace.offset(39), Duration::from_millis(200));
        assert_eq!(Pace { group: 1, ..pace }.offset(39), Duration::from_millis(390));
    }
}

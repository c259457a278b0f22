//! Skew: how far the platform's clock is from the database's, learned from what was scheduled.
//!
//! A dispatch that left the queue within the last second cannot be a retry of one that has ended, so outcomes need
//! not be searched. Whether it is so recent must not depend on two clocks that agree: the most recent dispatches of
//! the last minute show by how much they differ. Only a short cut depends on it. A wrong skew costs a search, or lets
//! a retry revive a run that ended within the last seconds, which costs a probe.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

/// A larger skew is a fault to be mended, and is not followed.
const SKEW_MAX: TimeDelta = TimeDelta::seconds(5);
/// A call may be quicker than all before it by so much.
const MARGIN: TimeDelta = TimeDelta::milliseconds(200);
/// For how long the most recent dispatch counts, at least; at most twice as long.
const WINDOW: Duration = Duration::from_secs(30);

/// The skew of each pool: their platforms have clocks of their own.
#[derive(Debug, Default)]
pub(in crate::store) struct Skews {
    pools: Mutex<HashMap<String, Seen>>,
}

/// The shortest times from the dequeue to the schedule, in this window and the one before.
#[derive(Debug, Clone, Copy)]
struct Seen {
    since: Instant,
    now: TimeDelta,
    before: Option<TimeDelta>,
}

impl Seen {
    fn shortest(&self) -> TimeDelta {
        self.before.map_or(self.now, |before| before.min(self.now))
    }
}

impl Skews {
    /// When a dispatch left the queue by the database's clock, as far as is known.
    pub(super) fn by_our_clock(&self, pool: &str, dequeued_at: DateTime<Utc>) -> DateTime<Utc> {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let skew = pools.get(pool).map_or(TimeDelta::zero(), |seen| seen.shortest() - MARGIN);
        dequeued_at.checked_add_signed(skew).unwrap_or(dequeued_at)
    }

    /// A new dispatch was scheduled at `scheduled_at` by the database's clock.
    pub(super) fn learn(&self, pool: &str, dequeued_at: DateTime<Utc>, scheduled_at: DateTime<Utc>) {
        let took = scheduled_at - dequeued_at;
        if took.abs() > SKEW_MAX {
            return;
        }
        let now = Instant::now();
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        match pools.get_mut(pool) {
            Some(seen) if now < seen.since + WINDOW => seen.now = seen.now.min(took),
            Some(seen) => {
                let before = (now < seen.since + 2 * WINDOW).then_some(seen.now);
                *seen = Seen { since: now, now: took, before };
            }
            None => drop(pools.insert(pool.to_owned(), Seen { since: now, now: took, before: None })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(1) + TimeDelta::milliseconds(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_off_by_seconds_is_followed_and_one_that_is_mended_too() {
        for off in [-5000, -1500, 0, 1500, 4900] {
            let skews = Skews::default();
            assert_eq!(skews.by_our_clock("default", at(0)), at(0), "nothing is known yet");
            // The quickest of all shows the skew; a retry that comes late does not change it.
            for took in [40, 20, 900, 30] {
                skews.learn("default", at(0), at(off + took));
            }
            assert_eq!(skews.by_our_clock("default", at(0)), at(off + 20 - 200), "off by {off} ms");
            assert_eq!(skews.by_our_clock("other", at(0)), at(0), "another platform");
            for _ in 0..3 {
                tokio::time::advance(WINDOW).await;
                skews.learn("default", at(0), at(25));
            }
            assert_eq!(skews.by_our_clock("default", at(0)), at(25 - 200), "the clock was set");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_far_off_is_not_followed() {
        let skews = Skews::default();
        skews.learn("default", at(0), at(5001));
        skews.learn("default", at(0), at(-59_000));
        assert_eq!(skews.by_our_clock("default", at(0)), at(0));
    }
}

//! The database's clock as a worker knows it: readings, carried forward by its own stopwatch.
//!
//! All probes are late by as long as the answer of the reading took that they go by.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use crate::store::{Store, StoreError};

/// How often the database's clock is read, so that a step of it or a drift of ours stays small.
const READ_EVERY: Duration = Duration::from_secs(10);
/// How soon it is read again after no answer was quick.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// How long a reading is used for want of a quick one. Two clocks drift apart by less than 2 ms meanwhile.
const FORGET_AFTER: Duration = Duration::from_secs(30);
/// An answer this quick is good enough. A busy worker notices some answers milliseconds after they came.
const QUICK: Duration = Duration::from_millis(1);
/// How often the clock is read at most for a quick answer, and for how long: claims wait meanwhile.
const TRIES_MAX: u32 = 5;
const TRIES_TOOK_MAX: Duration = Duration::from_millis(20);

/// The database's clock, carried forward by our own stopwatch. It is never ahead of the database, except
/// after a step back that is too small to tell from a slow answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct DbClock {
    read: DateTime<Utc>,
    at: Instant,
}

/// A reading that is behind the expected one by this much more than its answer took means that the clock stepped back:
/// the earlier reading is dropped.
const STEPPED_BACK: TimeDelta = TimeDelta::milliseconds(50);

impl DbClock {
    /// A reading of the database's clock that arrived at `at`.
    pub(super) fn new(read: DateTime<Utc>, at: Instant) -> Self {
        Self { read, at }
    }

    /// The better one of two readings, at this instant of the stopwatch.
    ///
    /// Each reading is behind by as long as its answer took, so the one that is further ahead is nearer. The newer one's
    /// took `took`.
    pub(super) fn or_nearer(self, newer: Self, took: Duration) -> Self {
        let expected = self.at(newer.at);
        let explained = STEPPED_BACK + TimeDelta::from_std(took).unwrap_or(TimeDelta::MAX);
        if expected > newer.read && expected - newer.read < explained { self } else { newer }
    }

    /// The database's clock at an instant of ours.
    pub(super) fn at(&self, instant: Instant) -> DateTime<Utc> {
        let passed = instant.saturating_duration_since(self.at);
        self.read + TimeDelta::from_std(passed).unwrap_or(TimeDelta::MAX)
    }

    /// The database's clock now.
    pub(super) fn now(&self) -> DateTime<Utc> {
        self.at(Instant::now())
    }
}

/// The best reading of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Readings {
    known: Option<Known>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    clock: DbClock,
    read_again_at: Instant,
    forget_at: Instant,
}

impl Readings {
    /// The clock, read again at intervals. A quick reading replaces the old one; until one comes, a slow one does so
    /// only if it is nearer.
    pub(super) async fn read(&mut self, store: &Store) -> Result<DbClock, StoreError> {
        let now = Instant::now();
        let known = self.known.filter(|known| now < known.forget_at);
        if let Some(known) = known.filter(|known| now < known.read_again_at) {
            return Ok(known.clock);
        }
        let (reading, is_quick) = try_for_a_quick_one(store).await?;
        let clock = known
            .filter(|_| !is_quick)
            .map_or(reading, |known| known.clock.or_nearer(reading, now.elapsed()));
        let forget_at = known.filter(|_| !is_quick).map_or(now + FORGET_AFTER, |known| known.forget_at);
        let read_again_at = now + if is_quick { READ_EVERY } else { READ_AGAIN };
        self.known = Some(Known { clock, read_again_at, forget_at });
        Ok(clock)
    }

    /// Adds a reading that came with something else that took `took`; answers the nearer one.
    pub(super) fn also(&mut self, reading: DbClock, took: Duration) -> DbClock {
        let Some(known) = self.known.as_mut() else { return reading };
        known.clock = known.clock.or_nearer(reading, took);
        known.clock
    }
}

/// Reads until an answer is quick, and keeps the nearest reading; answers also whether one was.
async fn try_for_a_quick_one(store: &Store) -> Result<(DbClock, bool), StoreError> {
    let began = Instant::now();
    let mut nearest: Option<DbClock> = None;
    let mut tries = 0;
    loop {
        let asked = Instant::now();
        let read = store.clock().await?;
        let arrived = Instant::now();
        let reading = DbClock::new(read, arrived);
        tries += 1;
        let best = nearest.map_or(reading, |nearest| nearest.or_nearer(reading, arrived - asked));
        let is_quick = arrived - asked <= QUICK;
        if is_quick || tries == TRIES_MAX || began.elapsed() >= TRIES_TOOK_MAX {
            return Ok((best, is_quick));
        }
        nearest = Some(best);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_readings_the_one_further_ahead_is_kept_unless_the_clock_stepped_back() {
        let (noon, start) = (DateTime::UNIX_EPOCH, Instant::now());
        let second = Duration::from_secs(1);
        let read = |millis| DbClock::new(noon + TimeDelta::milliseconds(millis), start + second);
        let known = DbClock::new(noon, start);
        let at_two = |clock: DbClock| (clock.at(start + 2 * second) - noon).num_milliseconds();
        let quick = Duration::from_millis(10);
        assert_eq!(at_two(known.or_nearer(read(990), quick)), 2000, "its answer took 10 ms");
        assert_eq!(at_two(known.or_nearer(read(1010), quick)), 2010, "nearer than what was known");
        assert_eq!(at_two(known.or_nearer(read(-500), quick)), 500, "the clock was set back");
        let slow = Duration::from_millis(400);
        assert_eq!(at_two(known.or_nearer(read(600), slow)), 2000, "its answer was slow");
    }
}

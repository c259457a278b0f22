//! Sickness: a worker whose own probes of a pool fail while those of other workers succeed.
//!
//! Its way to the platform is broken, or its credentials are wrong, and no other worker need suffer. It gives back
//! what it has claimed of the pool, without a failure on the row, and claims no more. From time to time it claims
//! one row to try, and is well again when a probe is answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::backoff::Backoff;

/// How long a sick worker waits before it tries again.
const TRY_AGAIN: Backoff = Backoff { base: Duration::from_secs(2), max: Duration::from_secs(10) };
/// A worker that was well for so long begins anew when it falls sick.
const WELL_AFTER: Duration = Duration::from_mins(2);

/// Whether this worker can probe one pool.
#[derive(Debug, Default)]
pub(super) struct Sickness {
    sick: Mutex<Option<Sick>>,
    /// Whether `sick` holds something, for each probe that is due.
    is_sick: AtomicBool,
    /// When the worker was well again, and how often it had tried: one that falls sick again soon goes on from there.
    recovered: Mutex<Option<(Instant, u32)>>,
}

#[derive(Debug)]
struct Sick {
    failure: String,
    tries: u32,
    try_at: Instant,
}

impl Sickness {
    fn lock(&self) -> MutexGuard<'_, Option<Sick>> {
        self.sick.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tallies of all workers show that only ours fail. Answers whether that is new.
    pub(super) fn found(&self, failure: &str) -> bool {
        let mut sick = self.lock();
        if sick.is_some() {
            return false;
        }
        let earlier = self.recovered.lock().unwrap_or_else(PoisonError::into_inner).take();
        let tries = earlier
            .filter(|(at, _)| at.elapsed() < WELL_AFTER)
            .map_or(1, |(_, tries)| tries.saturating_add(1));
        let try_at = Instant::now() + TRY_AGAIN.delay(tries, rand::random());
        *sick = Some(Sick { failure: failure.to_owned(), tries, try_at });
        // Under the lock, so that it always says the same as the state.
        self.is_sick.store(true, Ordering::Relaxed);
        true
    }

    /// The probe of a row that was claimed to try was answered or failed. Answers whether the worker is well by it.
    pub(super) fn tried(&self, is_answered: bool) -> bool {
        let mut state = self.lock();
        let Some(sick) = state.as_mut() else { return false };
        if !is_answered {
            sick.tries = sick.tries.saturating_add(1);
            sick.try_at = Instant::now() + TRY_AGAIN.delay(sick.tries, rand::random());
            return false;
        }
        *self.recovered.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), sick.tries));
        *state = None;
        self.is_sick.store(false, Ordering::Relaxed);
        true
    }

    /// How many rows may be claimed, of `room`: one to try now and then while the worker is sick.
    pub(super) fn claimable(&self, room: usize) -> usize {
        match self.lock().as_mut() {
            None => room,
            Some(sick) if sick.try_at <= Instant::now() => room.min(1),
            Some(_) => 0,
        }
    }

    /// Rows are about to be claimed. While the worker is sick they are claimed to try, and no more are until as much
    /// time is over again. Answers whether it is sick.
    pub(super) fn tries(&self) -> bool {
        match self.lock().as_mut() {
            None => false,
            Some(sick) => {
                sick.try_at = Instant::now() + TRY_AGAIN.delay(sick.tries, rand::random());
                true
            }
        }
    }

    /// Whether the worker is sick.
    pub(super) fn is_sick(&self) -> bool {
        self.is_sick.load(Ordering::Relaxed)
    }

    /// What to tell people, while the worker is sick.
    pub(super) fn problem(&self) -> Option<String> {
        let sick = self.lock();
        sick.as_ref().map(|sick| {
            format!(
                "this worker is sick: its own probes fail while those of other workers succeed ({})",
                sick.failure
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sick_worker_claims_one_row_at_a_time_with_growing_pauses_until_a_probe_is_answered() {
        let sickness = Sickness::default();
        assert_eq!((sickness.claimable(100), sickness.tries()), (100, false));
        assert!(sickness.found("timeout"));
        assert!(!sickness.found("timeout"), "it is known");
        assert!(sickness.is_sick());
        assert!(sickness.problem().unwrap().contains("timeout"));
        let mut longest = Duration::ZERO;
        for _ in 0..8 {
            assert_eq!(sickness.claimable(100), 0);
            let began = Instant::now();
            while sickness.claimable(100) == 0 {
                tokio::time::advance(Duration::from_secs(1)).await;
            }
            longest = began.elapsed();
            assert_eq!((sickness.claimable(100), sickness.tries()), (1, true));
            assert_eq!(sickness.claimable(100), 0, "one row to try at a time");
            assert!(!sickness.tried(false));
        }
        assert!(longest >= TRY_AGAIN.max / 2, "{longest:?}");
        assert!(sickness.tried(true));
        assert_eq!((sickness.claimable(100), sickness.problem(), sickness.is_sick()), (100, None, false));

        assert!(sickness.found("timeout"));
        tokio::time::advance(TRY_AGAIN.max / 2).await;
        assert_eq!(sickness.claimable(100), 0, "so soon, it goes on where it was");
    }
}

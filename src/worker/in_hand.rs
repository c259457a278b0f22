//! The claims a worker holds right now, and until when, by its own reckoning.
//!
//! The database decides when a lease has ended. What is kept here is the earlier
//! end that the worker reckons from the moment *before* it asked, so that it stops
//! acting on a claim no later than somebody else may take it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::domain::claim::{Claim, ClaimKey};
use crate::store::lease::Renewal;

/// The database's clock, carried forward by our own stopwatch. Never ahead of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct DbClock {
    read: DateTime<Utc>,
    at: Instant,
}

impl DbClock {
    /// A reading of the database's clock that arrived at `at`.
    pub(super) fn new(read: DateTime<Utc>, at: Instant) -> Self {
        Self { read, at }
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

/// One claim in hand. Dropping it takes it out of the register.
#[derive(Debug)]
pub(super) struct Held {
    /// The claim.
    pub(super) claim: Claim,
    /// The database's clock.
    pub(super) clock: DbClock,
    /// When to look, on our stopwatch.
    pub(super) look_at: Instant,
    register: Arc<InHand>,
}

impl Held {
    /// Whether nobody else can have taken the claim, by our own reckoning.
    pub(super) fn is_live(&self) -> bool {
        self.register.lock().get(&self.claim.key).is_some_and(|end| Instant::now() < *end)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.register.lock().remove(&self.claim.key);
        self.register.freed.notify_one();
    }
}

/// The register of all claims in hand.
#[derive(Debug, Default)]
pub(super) struct InHand {
    // Keyed with the fence: a claim lost and taken again by ourselves is another claim.
    ends: Mutex<HashMap<ClaimKey, Instant>>,
    freed: Notify,
}

impl InHand {
    fn lock(&self) -> MutexGuard<'_, HashMap<ClaimKey, Instant>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes claims into hand that were asked for at `asked` and arrived now.
    pub(super) fn take(self: &Arc<Self>, claims: Vec<Claim>, asked: Instant, lease: Duration) -> Vec<Held> {
        let arrived = Instant::now();
        // The clock is read for each row as it is claimed, and a large claim takes many milliseconds: the
        // last reading is the nearest to this moment, and none is ahead of it.
        let read = claims.iter().map(|claim| claim.claimed_at).max();
        let mut ends = self.lock();
        claims
            .into_iter()
            .map(|mut claim| {
                claim.claimed_at = read.unwrap_or(claim.claimed_at);
                ends.insert(claim.key.clone(), asked + lease);
                Held {
                    clock: DbClock::new(claim.claimed_at, arrived),
                    look_at: arrived + claim.look_in(),
                    claim,
                    register: Arc::clone(self),
                }
            })
            .collect()
    }

    /// How many claims are in hand.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Waits until a claim was let go since the last such wait.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// The claims whose lease has less than `left` to run.
    pub(super) fn ending_within(&self, left: Duration) -> Vec<ClaimKey> {
        let bound = Instant::now() + left;
        self.lock().iter().filter(|(_, end)| **end < bound).map(|(key, _)| key.clone()).collect()
    }

    /// All claims in hand.
    pub(super) fn keys(&self) -> Vec<ClaimKey> {
        self.lock().keys().cloned().collect()
    }

    /// Notes the answer to a renewal that was asked for at `asked`. A lost claim ends in the past, so
    /// that its holder finds out before its next step; one whose row was locked keeps its end.
    pub(super) fn renewed(&self, asked_for: &[ClaimKey], answer: &Renewal, asked: Instant, lease: Duration) {
        let mut ends = self.lock();
        for key in asked_for {
            match ends.get_mut(key) {
                Some(end) if answer.renewed.contains(&key.id) => *end = asked + lease,
                Some(end) if !answer.busy.contains(&key.id) => *end = asked,
                Some(_) | None => {}
            }
        }
    }
}

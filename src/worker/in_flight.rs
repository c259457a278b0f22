//! The claims that a worker holds now, and until when by its own stopwatch.
//!
//! The database decides when a lease has ended. The register keeps an earlier end, which
//! the worker measures from the moment *before* it asked. So it stops acting on a claim
//! before another worker can take it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::db_clock::DbClock;
use super::limits::Limits;
use crate::domain::claim::{Claim, ClaimKey};
use crate::domain::ids::PoolName;
use crate::store::lease::Renewal;

/// One claim in flight. Dropping it takes it out of the register.
#[derive(Debug)]
pub(super) struct InFlight {
    /// The claim.
    pub(super) claim: Claim,
    /// The database's clock.
    pub(super) clock: DbClock,
    /// When to probe, on our stopwatch.
    pub(super) probe_at: Instant,
    /// What is done at a time for its pool.
    pub(super) limits: Arc<Limits>,
    /// Claimed by a sick worker, to see whether it is well again.
    pub(super) is_trial: bool,
    register: Arc<InFlightRegister>,
}

impl InFlight {
    /// Whether no other worker can have taken the claim, by our own stopwatch.
    pub(super) fn is_live(&self) -> bool {
        self.register.lock().get(&self.claim.key).is_some_and(|end| Instant::now() < *end)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.register.lock().remove(&self.claim.key);
        self.limits.claim_ended();
        self.register.freed.notify_one();
    }
}

/// The register of all claims in flight.
#[derive(Debug, Default)]
pub(super) struct InFlightRegister {
    // Keyed with the fence: a claim that was lost and taken again by this worker is another claim.
    ends: Mutex<HashMap<ClaimKey, Instant>>,
    freed: Notify,
}

impl InFlightRegister {
    fn lock(&self) -> MutexGuard<'_, HashMap<ClaimKey, Instant>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers claims that were asked for at `asked` and have just arrived.
    pub(super) fn take(
        self: &Arc<Self>,
        claims: Vec<Claim>,
        limits: &BTreeMap<PoolName, Arc<Limits>>,
        trying: &BTreeSet<PoolName>,
        asked: Instant,
        lease: Duration,
        clock: DbClock,
    ) -> Vec<InFlight> {
        let arrived = Instant::now();
        let now = clock.at(arrived);
        let mut ends = self.lock();
        claims
            .into_iter()
            .map(|mut claim| {
                claim.claimed_at = now;
                ends.insert(claim.key.clone(), asked + lease);
                let probe_at = arrived + claim.probe_in();
                let limits = Arc::clone(&limits[&claim.pool]);
                limits.claim_taken();
                let is_trial = trying.contains(&claim.pool);
                InFlight { clock, probe_at, claim, limits, is_trial, register: Arc::clone(self) }
            })
            .collect()
    }

    /// How many claims are in flight.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// What ends [`InFlightRegister::freed`].
    pub(super) fn freed_signal(&self) -> &Notify {
        &self.freed
    }

    /// Waits until a claim was removed, or a probe got its slot, since the last such wait.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Waits until no claim is in flight. Not beside [`InFlightRegister::freed`]: only one of them
    /// would be notified.
    pub(super) async fn emptied(&self) {
        while self.len() > 0 {
            self.freed().await;
        }
    }

    /// The claims whose lease has less than `left` to run.
    pub(super) fn ending_within(&self, left: Duration) -> Vec<ClaimKey> {
        let bound = Instant::now() + left;
        self.lock().iter().filter(|(_, end)| **end < bound).map(|(key, _)| key.clone()).collect()
    }

    /// Ends every claim by our own stopwatch: no task acts on its claim after this.
    pub(super) fn forsake(&self) {
        let now = Instant::now();
        self.lock().values_mut().for_each(|end| *end = now);
    }

    /// All claims in flight.
    pub(super) fn keys(&self) -> Vec<ClaimKey> {
        self.lock().keys().cloned().collect()
    }

    /// Records the answer to a renewal that was asked for at `asked`. A lost claim gets an end in the past,
    /// so that its task notices before its next step. A claim whose row was locked keeps its end.
    pub(super) fn renewed(&self, asked_for: &[ClaimKey], answer: &Renewal, asked: Instant, lease: Duration) {
        let mut ends = self.lock();
        for key in asked_for {
            match ends.get_mut(key) {
                Some(end) if answer.renewed.contains(key) => *end = asked + lease,
                Some(end) if !answer.busy.contains(key) => *end = asked,
                Some(_) | None => {}
            }
        }
    }
}

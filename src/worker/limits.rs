//! Limits: what a worker does at a time for one pool.
//!
//! Each pool has its own, so that a platform or a backend that is slow delays only its own runs. All pools together
//! are bounded by the claims in flight.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, Semaphore};

use super::sickness::Sickness;
use crate::config::worker::WorkerConfig;

/// The limits of one pool.
#[derive(Debug)]
pub(super) struct Limits {
    /// Whether this worker can probe it.
    pub(super) sickness: Sickness,
    /// Probes of verifications at a time.
    pub(super) probes: Semaphore,
    /// Probes of follow-ups at a time; apart, so that no verification waits for one.
    pub(super) follow_ups: Semaphore,
    /// Cold starts at a time.
    pub(super) fallbacks: Semaphore,
    /// Claims that may be in flight for a cold start, including those that wait for an image or a slot.
    pub(super) fallback_places: Semaphore,
    /// Those of them that have their image: being created, and as many that wait for a slot. Other workers may have
    /// free slots, so the rest is given back.
    pub(super) fallback_queue: Semaphore,
    waiting: AtomicUsize,
    waiting_max: usize,
    claims: AtomicUsize,
    claims_max: usize,
}

/// One probe that is due and waits for a slot. Dropping it ends the wait.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    waiting: &'a AtomicUsize,
    freed: &'a Notify,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.freed.notify_one();
    }
}

impl Limits {
    /// The limits of one of `pools` pools.
    pub(super) fn of_one(config: &WorkerConfig, pools: usize) -> Self {
        let probes = config.probe_concurrency as usize;
        Self {
            sickness: Sickness::default(),
            probes: Semaphore::new(probes),
            follow_ups: Semaphore::new(probes.div_ceil(5)),
            fallbacks: Semaphore::new(config.fallback_concurrency as usize),
            fallback_places: Semaphore::new((config.fallbacks_in_flight_max() / pools.max(1)).max(1)),
            fallback_queue: Semaphore::new(2 * config.fallback_concurrency as usize),
            waiting: AtomicUsize::new(0),
            waiting_max: config.probes_waiting_max(),
            claims: AtomicUsize::new(0),
            claims_max: (config.claims_in_flight_max as usize / pools.max(1)).max(1),
        }
    }

    /// Counts a claim in flight.
    pub(super) fn claim_taken(&self) {
        self.claims.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts it no more.
    pub(super) fn claim_ended(&self) {
        self.claims.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many more claims of the pool may be in flight. `None` if they are fewer than are worth a claim, `wanted` or
    /// a quarter of all, or if so many of its probes wait that its further rows are left to other workers.
    pub(super) fn room(&self, wanted: usize) -> Option<usize> {
        let room = self.claims_max.saturating_sub(self.claims.load(Ordering::Relaxed));
        let is_worth_it = room >= wanted.min(self.claims_max / 4).max(1);
        let room = self.sickness.claimable(room);
        (is_worth_it && room > 0 && self.waiting.load(Ordering::Relaxed) < self.waiting_max).then_some(room)
    }

    /// Counts a probe that is due and has to wait; `freed` is notified when it waits no more.
    pub(super) fn wait<'a>(&'a self, freed: &'a Notify) -> Waiting<'a> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting { waiting: &self.waiting, freed }
    }
}

//! Tally: tells the database how many probes failed, so that all workers see one brown-out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::domain::ids::PoolName;
use crate::store::Store;
use crate::store::tally::ProbeTally;

/// How often a worker tells; a brown-out is seen by others this much later.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Probes and failures since the last telling, by pool.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<HashMap<PoolName, (u32, u32)>>);

impl Tally {
    /// Counts one probe.
    pub(super) fn count(&self, pool: &PoolName, failed: bool) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (probes, failures) = counts.entry(pool.clone()).or_default();
        *probes += 1;
        *failures += u32::from(failed);
    }

    /// Tells what was counted, if anything. What could not be told is dropped: it would be stale news.
    pub(super) async fn tell(&self, store: &Store) {
        let counts = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let tallies: Vec<ProbeTally> = counts
            .into_iter()
            .map(|(pool, (probes, failures))| ProbeTally { pool, probes, failures })
            .collect();
        if tallies.is_empty() {
            return;
        }
        if let Err(error) = store.tally_probes(&tallies).await {
            tracing::warn!(%error, "could not tell how probes go");
        }
    }
}

/// Tells every second until `done`.
pub(super) async fn keep(shared: Arc<Shared>, done: CancellationToken) {
    let mut rounds = interval(TELL_EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = rounds.tick() => shared.tally.tell(&shared.store).await,
            () = done.cancelled() => return,
        }
    }
}

//! Tallies: reports to the database how many probes failed, so that all workers see one brown-out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::domain::ids::PoolName;
use crate::domain::verdict::ProbeFailure;
use crate::store::tally::ProbeTally;

/// How often a worker reports; other workers see a brown-out this much later.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Probes and failures since the last report, by pool.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    counts: Mutex<BTreeMap<PoolName, (u32, u32)>>,
    /// The last failure, for the log: one line a second is enough.
    last_failure: Mutex<Option<String>>,
    /// One report at a time: a caller that waited for one knows that everything before it is reported.
    telling: tokio::sync::Mutex<()>,
}

impl Tallies {
    /// Counts one probe.
    pub(super) fn count(&self, pool: &PoolName, failure: Option<&ProbeFailure>) {
        self.add(pool, 1, u32::from(failure.is_some()));
        if let Some(failure) = failure {
            *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure.to_string());
        }
    }

    fn add(&self, pool: &PoolName, probes: u32, failures: u32) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, failed) = counts.entry(pool.clone()).or_default();
        *all += probes;
        *failed += failures;
    }

    /// Reports what was counted, if anything. What could not be reported is counted again.
    pub(super) async fn tell(&self, shared: &Shared) {
        let _turn = self.telling.lock().await;
        let counts = std::mem::take(&mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner));
        // In the order of pools, so that the reports of two workers never deadlock.
        let tallies: Vec<ProbeTally> = counts
            .into_iter()
            .map(|(pool, (probes, failures))| ProbeTally { pool, probes, failures })
            .collect();
        if tallies.is_empty() {
            return;
        }
        let last = self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(last) = &last {
            let failures: u32 = tallies.iter().map(|tally| tally.failures).sum();
            tracing::warn!(failures, last, "probes failed");
        }
        match shared.store.tally_probes(&shared.config.name, &tallies).await {
            Ok(sick) => {
                // Earlier reports may outlive their cause: only a new failure makes a worker sick.
                let failing = tallies.iter().filter(|tally| tally.failures > 0 && sick.contains(&tally.pool));
                failing.for_each(|tally| found_sick(shared, &tally.pool, last.as_deref()));
            }
            Err(error) => {
                tracing::warn!(%error, "could not report how many probes failed");
                for tally in &tallies {
                    self.add(&tally.pool, tally.probes, tally.failures);
                }
            }
        }
    }
}

fn found_sick(shared: &Shared, pool: &PoolName, failure: Option<&str>) {
    if shared.limits[pool].sickness.found(failure.unwrap_or("no failure is known")) {
        tracing::error!(
            %pool,
            failure,
            "this worker is sick: its probes fail while those of other workers succeed; it gives its claims back"
        );
    }
}

/// Reports every second until `done`.
pub(super) async fn keep(shared: Arc<Shared>, done: CancellationToken) {
    let mut rounds = interval(TELL_EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = rounds.tick() => shared.tally.tell(&shared).await,
            () = done.cancelled() => return,
        }
    }
}

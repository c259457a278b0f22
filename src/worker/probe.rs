//! Probe: one question to the platform, its judgement, and what follows when nothing is to be started.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::Shared;
use super::in_flight::InFlight;
use super::repeat::repeat;
use crate::config::worker::WorkerConfig;
use crate::domain::dispatch::ColdStartRequest;
use crate::domain::outcome::{Ending, Settlement};
use crate::domain::verdict::{Dispatched, Observation, ProbeFailure, Verdict, judge};
use crate::store::StoreError;
use crate::store::fall_back::Fenced;
use crate::store::lease::Release;
use crate::telemetry::{metrics, traces};

/// An older one is probed again before a create is counted, so that the count still finds it recent enough.
pub(super) const OBSERVATION_FRESH: Duration = Duration::from_secs(1);

/// What is left to do with a claim. Each claim ends in exactly one of these.
pub(super) enum Next {
    /// Record how it ended.
    Settle(Settlement),
    /// Give it back, to be probed now or later.
    Release(Release),
    /// It is not ours any more, or was given back already.
    Drop,
}

/// One probe of the platform.
pub(super) struct Probing {
    /// When it began.
    pub(super) at: Instant,
    /// Probes the row does not count yet.
    pub(super) probes: u32,
    /// How long the probe took, in milliseconds.
    pub(super) probe_ms: Option<u32>,
    /// Why it failed.
    pub(super) failure: Option<ProbeFailure>,
    /// When the loss was marked, by this probe or an earlier one.
    pub(super) lost_at: Option<DateTime<Utc>>,
    /// The trace span of the claim; it ends with its settle.
    pub(super) span: Span,
}

impl Probing {
    /// What to record, given how it ended.
    pub(super) fn settlement(&self, in_flight: &InFlight, ending: Ending) -> Settlement {
        // The observation that marked a loss decides whether it is late. The loss may wait for its turn until
        // long after the redrive, and what a later probe sees does not change that it was a loss.
        let judged_at = self.lost_at.unwrap_or_else(|| in_flight.clock.at(self.at));
        Settlement {
            key: in_flight.claim.key.clone(),
            ending,
            probes: self.probes,
            probe_ms: self.probe_ms,
            late: in_flight.claim.is_late(judged_at),
            workload: None,
        }
    }
}

/// Probes and judges; `None` when the worker stops or the claim is lost before the probe.
pub(super) async fn probe_and_judge(
    shared: &Shared,
    in_flight: &InFlight,
    probing: &mut Probing,
    seed: u64,
) -> Option<Verdict> {
    let waiting = in_flight.limits.wait(shared.in_flight.freed_signal());
    let _slot = slot(&in_flight.limits.probes, shared).await?;
    drop(waiting);
    if !in_flight.is_live() {
        return None;
    }
    probing.at = Instant::now();
    let observation = probe(shared, in_flight, probing).await;
    let claim = &in_flight.claim;
    let attempt_number = match &observation {
        Ok(latest) if latest.depends_on_attempt(&claim.snapshot_id) => {
            dispatched_attempt(shared, in_flight, seed).await?
        }
        Ok(_) | Err(_) => None,
    };
    let is_late = claim.is_late(in_flight.clock.at(probing.at));
    Some(judge(Dispatched { snapshot_id: &claim.snapshot_id, attempt_number, is_late }, observation))
}

/// The attempt that was dispatched, from the stored message; `None` inside if the message cannot be read, and
/// outside if the claim is lost.
async fn dispatched_attempt(shared: &Shared, in_flight: &InFlight, seed: u64) -> Option<Option<u32>> {
    let read = async || match shared.store.message(&in_flight.claim.key).await {
        Err(StoreError::Corrupt { .. }) => Ok(Fenced::Ours(None)),
        Ok(Fenced::Ours(stored)) => Ok(Fenced::Ours(ColdStartRequest::parse(&stored.message).ok())),
        Ok(Fenced::Stale) => Ok(Fenced::Stale),
        Err(error) => Err(error),
    };
    match repeat(in_flight, seed, read).await? {
        Fenced::Ours(request) => Some(request.map(|request| request.run.attempt_number)),
        Fenced::Stale => None,
    }
}

/// What follows from a verdict that starts nothing.
pub(super) async fn conclude(
    shared: &Shared,
    in_flight: &InFlight,
    probing: &Probing,
    verdict: Verdict,
    seed: u64,
) -> Next {
    match verdict {
        Verdict::Acted { acted, warm_start } => {
            Next::Settle(probing.settlement(in_flight, Ending::Delivered { acted, warm_start }))
        }
        Verdict::Unknown(failure) => probe_again(shared, in_flight, probing, &failure, seed).await,
        Verdict::Lost => Next::Release(Release::untouched(in_flight.claim.key.clone())),
    }
}

/// A failed probe starts nothing: probe again while tries and time are left, then record the error.
async fn probe_again(
    shared: &Shared,
    in_flight: &InFlight,
    probing: &Probing,
    failure: &ProbeFailure,
    seed: u64,
) -> Next {
    if in_flight.limits.sickness.is_sick() {
        return given_back_by_the_sick(in_flight, probing, failure);
    }
    let failures = in_flight.claim.probe_failures + 1;
    let mut wait = shared.config.probe_backoff().delay(failures, seed);
    if let ProbeFailure::RateLimited { reset_after: Some(reset_after) } = failure {
        wait = wait.max(*reset_after);
    }
    let again_at = in_flight.clock.now() + wait;
    // The failed probes of a brown-out must not end a loss that the brown-out holds.
    let tries_left =
        in_flight.claim.lost_at.is_some() || WorkerConfig::is_left(shared.config.probe_attempts, failures);
    if tries_left && in_flight.claim.may_probe_again_at(again_at) {
        return Next::Release(Release {
            probe_again_in: Some(wait),
            probes: probing.probes,
            failures: 1,
            error: Some(failure.to_string()),
            ..Release::untouched(in_flight.claim.key.clone())
        });
    }
    // Before a failure ends the verification: is it the platform's, or that of this worker alone?
    shared.tally.tell(shared).await;
    if in_flight.limits.sickness.is_sick() {
        return given_back_by_the_sick(in_flight, probing, failure);
    }
    Next::Settle(probing.settlement(in_flight, Ending::ProbeError { error: failure.to_string() }))
}

/// The failure says nothing of the run: the row counts none, and another worker probes it at once.
fn given_back_by_the_sick(in_flight: &InFlight, probing: &Probing, failure: &ProbeFailure) -> Next {
    Next::Release(Release {
        probes: probing.probes,
        error: Some(failure.to_string()),
        ..Release::untouched(in_flight.claim.key.clone())
    })
}

async fn probe(shared: &Shared, in_flight: &InFlight, probing: &mut Probing) -> Observation {
    probing.probes += 1;
    let span = traces::probe();
    let asked = shared.served(in_flight).probe.latest_snapshot(&in_flight.claim.key.run_id);
    let observation = asked.instrument(span.clone()).await;
    let took = probing.at.elapsed();
    let lag = probing.probe_ms.is_none().then(|| in_flight.clock.at(probing.at) - in_flight.claim.probe_at);
    probing.probe_ms = u32::try_from(took.as_millis()).ok();
    probing.failure = observation.as_ref().err().cloned();
    shared.tally.count(&in_flight.claim.pool, probing.failure.as_ref());
    if in_flight.is_trial && in_flight.limits.sickness.tried(observation.is_ok()) {
        tracing::info!(pool = %in_flight.claim.pool, "a probe was answered: this worker is well again");
    }
    span.record("result", probing.failure.as_ref().map_or("answered", ProbeFailure::kind));
    metrics::probed(&in_flight.claim.pool, took, probing.failure.as_ref(), lag);
    observation
}

/// A slot under a limit; `None` when the worker stops first.
pub(super) async fn slot<'a>(slots: &'a Semaphore, shared: &Shared) -> Option<SemaphorePermit<'a>> {
    tokio::select! {
        biased;
        () = shared.stop.cancelled() => None,
        slot = slots.acquire() => slot.ok(),
    }
}

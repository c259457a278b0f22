//! One verification's life in one function: wait, probe, judge, fall back, settle.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, Span};

use super::in_flight::InFlight;
use super::{Shared, fallback, settle};
use crate::domain::outcome::{Ending, FallbackResult, Settlement};
use crate::domain::verdict::{LatestSnapshot, ProbeFailure, Verdict, judge};
use crate::store::lease::Release;
use crate::telemetry::{metrics, traces};

/// What is left to do with a claim. Each claim ends in exactly one of these.
pub(super) enum Next {
    /// Record how it ended.
    Settle(Settlement),
    /// Give it back, to be looked at now or later.
    Release(Release),
    /// It is not ours any more, or was given back already.
    Drop,
}

/// Verifies one claim to its end and hands the end over.
pub(super) async fn run(shared: Arc<Shared>, in_flight: InFlight, seed: u64) {
    let span = traces::verification(&in_flight.claim);
    let lost_at = in_flight.claim.lost_at;
    let mut probing =
        Probing { at: Instant::now(), probes: 0, probe_ms: None, failure: None, lost_at, span: span.clone() };
    let life = async {
        let next = verify(&shared, &in_flight, &mut probing, seed).await;
        if let Next::Settle(settlement) = &next {
            Box::pin(fallback::discard_leftovers(&shared, &in_flight, settlement)).await;
        }
        settle::hand_over(&shared, in_flight, probing, next).await;
    };
    // Halted, it is dropped where it stands, and its claim is given back.
    let _ = shared.halt.run_until_cancelled(life.instrument(span)).await;
}

async fn verify(shared: &Shared, in_flight: &InFlight, probing: &mut Probing, seed: u64) -> Next {
    if !due(shared, in_flight).await {
        return Next::Release(Release::untouched(in_flight.claim.key.clone()));
    }
    if in_flight.clock.now() > in_flight.claim.due_at + shared.config.expire_after {
        return Next::Settle(expired(in_flight, probing));
    }
    match self::probe_and_judge(shared, in_flight, probing).await {
        // Boxed, as is all that few claims need: thousands wait for their look at a time.
        Some(Verdict::Lost) => Box::pin(fallback::fall_back(shared, in_flight, probing, seed)).await,
        Some(verdict) => conclude(shared, in_flight, probing, verdict, seed),
        None if shared.stop.is_cancelled() => Next::Release(Release::untouched(in_flight.claim.key.clone())),
        None => Next::Drop,
    }
}

/// Probes and judges; `None` when the worker stops or the claim is lost before the probe.
pub(super) async fn probe_and_judge(
    shared: &Shared,
    in_flight: &InFlight,
    probing: &mut Probing,
) -> Option<Verdict> {
    let waiting = shared.in_flight.wait();
    let _slot = slot(&shared.probe_slots, shared).await?;
    drop(waiting);
    if !in_flight.is_live() {
        return None;
    }
    probing.at = Instant::now();
    let observation = probe(shared, in_flight, probing).await;
    Some(judge(&in_flight.claim.snapshot_id, observation))
}

/// What follows from a verdict that starts nothing.
pub(super) fn conclude(
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
        Verdict::Unknown(failure) => probe_again(shared, in_flight, probing, &failure, seed),
        Verdict::Lost => Next::Release(Release::untouched(in_flight.claim.key.clone())),
    }
}

/// One look at the platform.
pub(super) struct Probing {
    /// When it began.
    pub(super) at: Instant,
    /// Probes the row does not count yet.
    pub(super) probes: u32,
    /// How long the probe took, in milliseconds.
    pub(super) probe_ms: Option<u32>,
    /// Why it learned nothing.
    pub(super) failure: Option<ProbeFailure>,
    /// When the loss was marked, by this look or an earlier one.
    pub(super) lost_at: Option<DateTime<Utc>>,
    /// What is traced of the claim; it ends with its settle.
    pub(super) span: Span,
}

impl Probing {
    /// What to record, given how it ended.
    pub(super) fn settlement(&self, in_flight: &InFlight, ending: Ending) -> Settlement {
        // A loss is judged by the observation that marked it: it may wait for its turn until long after the redrive,
        // and what is seen then does not make it any less of a loss.
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

/// Waits for the moment to look; `false` when the worker stops first.
async fn due(shared: &Shared, in_flight: &InFlight) -> bool {
    tokio::select! {
        biased;
        () = shared.stop.cancelled() => false,
        () = sleep_until(in_flight.probe_at) => true,
    }
}

/// A place among the limited; `None` when the worker stops first.
pub(super) async fn slot<'a>(
    slots: &'a tokio::sync::Semaphore,
    shared: &Shared,
) -> Option<tokio::sync::SemaphorePermit<'a>> {
    tokio::select! {
        biased;
        () = shared.stop.cancelled() => None,
        slot = slots.acquire() => slot.ok(),
    }
}

async fn probe(
    shared: &Shared,
    in_flight: &InFlight,
    probing: &mut Probing,
) -> Result<LatestSnapshot, ProbeFailure> {
    probing.probes += 1;
    let span = traces::probe();
    let asked = shared.served(in_flight).probe.latest_snapshot(&in_flight.claim.key.run_id);
    let observation = asked.instrument(span.clone()).await;
    let took = probing.at.elapsed();
    let lag = probing.probe_ms.is_none().then(|| in_flight.clock.at(probing.at) - in_flight.claim.probe_at);
    probing.probe_ms = u32::try_from(took.as_millis()).ok();
    probing.failure = observation.as_ref().err().cloned();
    shared.tally.count(&in_flight.claim.pool, probing.failure.as_ref());
    span.record("result", probing.failure.as_ref().map_or("answered", ProbeFailure::kind));
    metrics::probed(&in_flight.claim.pool, took, probing.failure.as_ref(), lag);
    observation
}

/// A failed probe starts nothing: look again while tries and time are left, then record the error.
fn probe_again(
    shared: &Shared,
    in_flight: &InFlight,
    probing: &Probing,
    failure: &ProbeFailure,
    seed: u64,
) -> Next {
    let failures = in_flight.claim.probe_failures + 1;
    let mut wait = shared.config.probe_backoff().delay(failures, seed);
    if let ProbeFailure::RateLimited { reset_after: Some(reset_after) } = failure {
        wait = wait.max(*reset_after);
    }
    let again_at = in_flight.clock.now() + wait;
    // A loss that is held through a brown-out is not given up for the probes that made the brown-out.
    let tries_left = in_flight.claim.lost_at.is_some() || failures < shared.config.probe_attempts;
    if tries_left && in_flight.claim.may_probe_again_at(again_at) {
        return Next::Release(Release {
            probe_again_in: Some(wait),
            probes: probing.probes,
            failures: 1,
            error: Some(failure.to_string()),
            ..Release::untouched(in_flight.claim.key.clone())
        });
    }
    Next::Settle(probing.settlement(in_flight, Ending::ProbeError { error: failure.to_string() }))
}

/// Too long overdue to act on: whatever was dispatched then is history.
fn expired(in_flight: &InFlight, probing: &Probing) -> Settlement {
    let error = "expired".to_owned();
    let ending = match in_flight.claim.lost_at {
        None => Ending::ProbeError { error },
        Some(_) => Ending::Fallback { result: FallbackResult::Failed, error: Some(error) },
    };
    probing.settlement(in_flight, ending)
}

/// A observation older than this starts nothing (design §3, create).
pub(super) const OBSERVATION_AGE_MAX: Duration = Duration::from_secs(2);
/// One older than this is made anew before a create is counted, so that the count still finds it young enough.
pub(super) const OBSERVATION_FRESH: Duration = Duration::from_secs(1);

//! One verification's life in one function: wait, probe, judge, fall back, settle.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, Span};

use super::in_hand::Held;
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
pub(super) async fn run(shared: Arc<Shared>, held: Held, seed: u64) {
    let span = traces::verification(&held.claim);
    let lost_at = held.claim.lost_at;
    let mut look =
        Look { at: Instant::now(), probes: 0, probe_ms: None, failure: None, lost_at, span: span.clone() };
    let life = async {
        let next = verify(&shared, &held, &mut look, seed).await;
        if let Next::Settle(settlement) = &next {
            Box::pin(fallback::discard_leftovers(&shared, &held, settlement)).await;
        }
        settle::hand_over(&shared, held, look, next).await;
    };
    // Halted, it is dropped where it stands, and its claim is given back.
    let _ = shared.halt.run_until_cancelled(life.instrument(span)).await;
}

async fn verify(shared: &Shared, held: &Held, look: &mut Look, seed: u64) -> Next {
    if !due(shared, held).await {
        return Next::Release(Release::untouched(held.claim.key.clone()));
    }
    if held.clock.now() > held.claim.due_at + shared.config.expire_after {
        return Next::Settle(expired(held, look));
    }
    match self::look(shared, held, look).await {
        // Boxed, as is all that few claims need: thousands wait for their look at a time.
        Some(Verdict::Lost) => Box::pin(fallback::fall_back(shared, held, look, seed)).await,
        Some(verdict) => conclude(shared, held, look, verdict, seed),
        None if shared.stop.is_cancelled() => Next::Release(Release::untouched(held.claim.key.clone())),
        None => Next::Drop,
    }
}

/// Probes and judges; `None` when the worker stops or the claim is lost before the probe.
pub(super) async fn look(shared: &Shared, held: &Held, look: &mut Look) -> Option<Verdict> {
    let waiting = shared.in_hand.wait();
    let _slot = slot(&shared.probe_slots, shared).await?;
    drop(waiting);
    if !held.is_live() {
        return None;
    }
    look.at = Instant::now();
    let sighting = probe(shared, held, look).await;
    Some(judge(&held.claim.snapshot_id, sighting))
}

/// What follows from a verdict that starts nothing.
pub(super) fn conclude(shared: &Shared, held: &Held, look: &Look, verdict: Verdict, seed: u64) -> Next {
    match verdict {
        Verdict::Acted { acted, warm_start } => {
            Next::Settle(look.settlement(held, Ending::Delivered { acted, warm_start }))
        }
        Verdict::Unknown(failure) => look_again(shared, held, look, &failure, seed),
        Verdict::Lost => Next::Release(Release::untouched(held.claim.key.clone())),
    }
}

/// One look at the platform.
pub(super) struct Look {
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

impl Look {
    /// What to record, given how it ended.
    pub(super) fn settlement(&self, held: &Held, ending: Ending) -> Settlement {
        // A loss is judged by the sighting that marked it: it may wait for its turn until long after the redrive,
        // and what is seen then does not make it any less of a loss.
        let judged_at = self.lost_at.unwrap_or_else(|| held.clock.at(self.at));
        Settlement {
            key: held.claim.key.clone(),
            ending,
            probes: self.probes,
            probe_ms: self.probe_ms,
            late: held.claim.is_late(judged_at),
            workload: None,
        }
    }
}

/// Waits for the moment to look; `false` when the worker stops first.
async fn due(shared: &Shared, held: &Held) -> bool {
    tokio::select! {
        biased;
        () = shared.stop.cancelled() => false,
        () = sleep_until(held.look_at) => true,
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

async fn probe(shared: &Shared, held: &Held, look: &mut Look) -> Result<LatestSnapshot, ProbeFailure> {
    look.probes += 1;
    let span = traces::probe();
    let asked = shared.served(held).probe.latest_snapshot(&held.claim.key.run_id);
    let sighting = asked.instrument(span.clone()).await;
    let took = look.at.elapsed();
    let lag = look.probe_ms.is_none().then(|| held.clock.at(look.at) - held.claim.look_at);
    look.probe_ms = u32::try_from(took.as_millis()).ok();
    look.failure = sighting.as_ref().err().cloned();
    shared.tally.count(&held.claim.pool, look.failure.as_ref());
    span.record("result", look.failure.as_ref().map_or("answered", ProbeFailure::kind));
    metrics::probed(&held.claim.pool, took, look.failure.as_ref(), lag);
    sighting
}

/// A failed probe starts nothing: look again while tries and time are left, then record the error.
fn look_again(shared: &Shared, held: &Held, look: &Look, failure: &ProbeFailure, seed: u64) -> Next {
    let failures = held.claim.probe_failures + 1;
    let mut wait = shared.config.probe_backoff().delay(failures, seed);
    if let ProbeFailure::RateLimited { reset_after: Some(reset_after) } = failure {
        wait = wait.max(*reset_after);
    }
    let again_at = held.clock.now() + wait;
    // A loss that is held through a brown-out is not given up for the probes that made the brown-out.
    let tries_left = held.claim.lost_at.is_some() || failures < shared.config.probe_attempts;
    if tries_left && held.claim.may_look_again_at(again_at) {
        return Next::Release(Release {
            look_again_in: Some(wait),
            probes: look.probes,
            failures: 1,
            error: Some(failure.to_string()),
            ..Release::untouched(held.claim.key.clone())
        });
    }
    Next::Settle(look.settlement(held, Ending::ProbeError { error: failure.to_string() }))
}

/// Too long overdue to act on: whatever was dispatched then is history.
fn expired(held: &Held, look: &Look) -> Settlement {
    let error = "expired".to_owned();
    let ending = match held.claim.lost_at {
        None => Ending::ProbeError { error },
        Some(_) => Ending::Fallback { result: FallbackResult::Failed, error: Some(error) },
    };
    look.settlement(held, ending)
}

/// A sighting older than this starts nothing (design §3, create).
pub(super) const SIGHTING_AGE_MAX: Duration = Duration::from_secs(2);
/// One older than this is made anew before a create is counted, so that the count still finds it young enough.
pub(super) const SIGHTING_FRESH: Duration = Duration::from_secs(1);

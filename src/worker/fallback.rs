//! The fallback: cold-starts a run that nothing acted on, once per dispatch.
//!
//! ```text
//! Lost ─ mark (durable) ─ permit (durable) ─ prepare ─ probe again if it took long ─ count (durable) ─ create ─ settle
//!            │                 │                │                                                       │
//!            │                 │                └ failed ─────── back off, probe again ──────── failed ─┘
//!            │                 └ held, shadow: no create, also at the count; no room: given back with its permit
//!            └ from here on the outcome is fallback
//! ```
//!
//! Every step is fenced, and the count asks once more whether the pool holds its losses. Before the
//! request the observation must be under 2 s old and the lease alive; otherwise the claim is given
//! back and the next probe starts from the beginning.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::Instant;
use tracing::Instrument;

use super::Shared;
use super::in_flight::InFlight;
use super::permits;
use super::probe::{self, Next, OBSERVATION_FRESH, Probing, slot};
use super::repeat::repeat;
use crate::config::worker::{CREATE_ATTEMPTS_LATE, WorkerConfig};
use crate::domain::dispatch::ColdStartRequest;
use crate::domain::outcome::{Ending, FallbackResult, Settlement};
use crate::domain::status::HoldReason;
use crate::domain::verdict::{OBSERVATION_AGE_MAX, Verdict};
use crate::store::fall_back::{Count, Fenced, Permit, StoredMessage};
use crate::store::lease::Release;
use crate::telemetry::{metrics, traces};
use crate::workload::{CreateError, CreateRequest, Created, next_name};

/// A loss without a place waits one more pause between two probes for each of these seconds, up to a bound.
const NO_PLACE_GROWS_SECONDS: f64 = 10.0;
const NO_PLACE_PAUSES_MAX: f64 = 4.0;

/// Acts on a loss that `probing` has just seen.
pub(super) async fn fall_back(
    shared: &Shared,
    in_flight: &InFlight,
    probing: &mut Probing,
    seed: u64,
) -> Next {
    match repeat(in_flight, seed, || shared.store.mark_lost(&in_flight.claim.key, probing.probes)).await {
        Some(Fenced::Ours(lost_at)) => (probing.probes, probing.lost_at) = (0, Some(lost_at)),
        Some(Fenced::Stale) | None => return Next::Drop,
    }
    let made = in_flight.claim.create_count;
    if made > 0 && !may_create_again(shared, in_flight, made, Duration::ZERO) {
        let error = "no create was confirmed and no attempt is left".to_owned();
        return failed(in_flight, probing, Some(error));
    }
    if shared.stop.is_cancelled() {
        return Next::Release(Release::untouched(in_flight.claim.key.clone()));
    }
    match repeat(in_flight, seed, || permits::ask(shared, in_flight.claim.key.clone())).await {
        Some(Fenced::Ours(Permit::Granted)) => create(shared, in_flight, probing, seed).await,
        Some(Fenced::Ours(Permit::Suppressed)) => suppressed(in_flight, probing),
        Some(Fenced::Ours(Permit::Deferred { reason })) => deferred(in_flight, reason),
        Some(Fenced::Stale) | None => Next::Drop,
    }
}

async fn create(shared: &Shared, in_flight: &InFlight, probing: &mut Probing, seed: u64) -> Next {
    let key = &in_flight.claim.key;
    let untouched = || Next::Release(Release::untouched(key.clone()));
    let stored = match repeat(in_flight, seed, || shared.store.message(key)).await {
        Some(Fenced::Ours(stored)) => stored,
        Some(Fenced::Stale) | None => return Next::Drop,
    };
    let mut asked = match request(in_flight, stored) {
        Ok(asked) => asked,
        Err(error) => return failed(in_flight, probing, Some(error)),
    };
    let Ok(_place) = in_flight.limits.fallback_places.try_acquire() else {
        return no_place(shared, in_flight, probing);
    };
    let workload = &shared.served(in_flight).workload;
    // Prepare before taking a slot, so that a slow pull does not block other cold starts.
    if let Err(error) = workload.prepare(&asked).await {
        return unprepared(shared, in_flight, probing, seed, error);
    }
    let Ok(_queued) = in_flight.limits.fallback_queue.try_acquire() else {
        return no_place(shared, in_flight, probing);
    };
    let Some(_slot) = slot(&in_flight.limits.fallbacks, shared).await else { return untouched() };
    // Waiting for a slot and an image may have taken long, and the run may have moved meanwhile.
    if probing.at.elapsed() > OBSERVATION_FRESH {
        match probe::probe_and_judge(shared, in_flight, probing, seed).await {
            Some(Verdict::Lost) => {}
            Some(moved) => return probe::conclude(shared, in_flight, probing, moved, seed).await,
            None => return untouched(),
        }
    }
    if shared.stop.is_cancelled() || !in_flight.is_live() {
        return untouched();
    }
    // Not repeated. After a lost reply the count has spent an attempt; an uncounted request would be worse.
    let count = match shared.store.count_create(key, &asked.name, shared.config.hold_retry).await {
        Ok(Fenced::Ours(Count::Counted(count))) => count,
        Ok(Fenced::Ours(Count::Suppressed { earlier: 0 })) => return suppressed(in_flight, probing),
        Ok(Fenced::Ours(Count::Suppressed { .. })) => {
            let error = "the pool is in shadow mode, and no earlier create was confirmed".to_owned();
            return failed(in_flight, probing, Some(error));
        }
        Ok(Fenced::Ours(Count::Deferred { reason })) => return deferred(in_flight, reason),
        Ok(Fenced::Stale) => return Next::Drop,
        Err(error) => {
            tracing::warn!(%error, run.id = %key.run_id, "no create is requested");
            return untouched();
        }
    };
    if !in_flight.is_live() || probing.at.elapsed() > OBSERVATION_AGE_MAX {
        return untouched();
    }
    asked.pod_scheduled_at_ms = in_flight.clock.now().timestamp_millis();
    let retry = Retry { count, base_name: asked.request.workload_name(), seed };
    let (asked_at, span) = (Instant::now(), traces::create(&asked.name));
    asked.traceparent = traces::traceparent(&span).or(asked.traceparent);
    let answer = workload.create(asked).instrument(span.clone()).await;
    span.record("result", reported(&answer));
    metrics::create_requested(&in_flight.claim.pool, asked_at.elapsed(), reported(&answer));
    match answer {
        Ok(Created::Created { workload }) => confirmed(in_flight, probing, FallbackResult::Created, workload),
        Ok(Created::Existed { workload }) => confirmed(in_flight, probing, FallbackResult::Existed, workload),
        Err(error) => retry.after(shared, in_flight, probing, error),
    }
}

/// The pool is in shadow mode: the loss is recorded, and nothing is created.
fn suppressed(in_flight: &InFlight, probing: &Probing) -> Next {
    let ending = Ending::Fallback { result: FallbackResult::Suppressed, error: None };
    Next::Settle(probing.settlement(in_flight, ending))
}

/// The database has given the row back, to be probed again.
fn deferred(in_flight: &InFlight, reason: HoldReason) -> Next {
    metrics::held(&in_flight.claim.pool, reason);
    let reason = reason.as_str();
    tracing::info!(run.id = %in_flight.claim.key.run_id, reason, "a loss is held and probed again");
    Next::Drop
}

/// Gives the claim back when no cold start can begin soon. Others are in flight up to the limit and may take
/// minutes; waiting here would use up the worker's claims and stop all probes, while another worker may have room.
/// The permit stays, and a worker with room probes again.
fn no_place(shared: &Shared, in_flight: &InFlight, probing: &Probing) -> Next {
    metrics::held(&in_flight.claim.pool, HoldReason::NoPlace);
    let waits = probing.lost_at.map_or(TimeDelta::zero(), |lost_at| in_flight.clock.now() - lost_at);
    let pauses = (1.0 + waits.as_seconds_f64().max(0.0) / NO_PLACE_GROWS_SECONDS).min(NO_PLACE_PAUSES_MAX);
    Next::Release(Release {
        // Later than a usual probe, the later the longer it waits, and at random: every waiting loss probes again
        // meanwhile, beside the first probes of others.
        probe_again_in: Some(shared.config.hold_retry.mul_f64(rand::random_range(2.0..=5.0) * pauses)),
        probes: probing.probes,
        hold_reason: Some(HoldReason::NoPlace),
        ..Release::untouched(in_flight.claim.key.clone())
    })
}

/// The answer in a word.
const fn reported(answer: &Result<Created, CreateError>) -> &'static str {
    match answer {
        Ok(Created::Created { .. }) => "created",
        Ok(Created::Existed { .. }) => "existed",
        Err(CreateError::Permanent { .. }) => "permanent",
        Err(CreateError::Transient { .. }) => "transient",
        Err(CreateError::Uncertain { .. }) => "uncertain",
    }
}

/// What to ask the backend for; an error if the stored message cannot be used.
fn request(in_flight: &InFlight, stored: StoredMessage) -> Result<CreateRequest, String> {
    let request = ColdStartRequest::parse(&stored.message)
        .map_err(|error| format!("the stored message cannot be used: {error}"))?;
    Ok(CreateRequest {
        name: in_flight.claim.workload.clone().unwrap_or_else(|| request.workload_name()),
        verification_id: Some(in_flight.claim.key.id),
        traceparent: request.traceparent(),
        request,
        message: stored.message,
        timings: stored.timings,
        pod_scheduled_at_ms: in_flight.clock.now().timestamp_millis(),
        request_id: None,
    })
}

/// The backend could not prepare: it requested no create, and after a number of tries it never will.
fn unprepared(
    shared: &Shared,
    in_flight: &InFlight,
    probing: &Probing,
    seed: u64,
    error: CreateError,
) -> Next {
    let failures = in_flight.claim.prepare_failures + 1;
    let reason = match error {
        CreateError::Permanent { reason } => return failed(in_flight, probing, Some(reason)),
        CreateError::Transient { reason, .. } | CreateError::Uncertain { reason } => reason,
    };
    let wait = shared.config.create_backoff().delay(failures, seed);
    if !may_create_again(shared, in_flight, failures, wait) {
        return failed(in_flight, probing, Some(reason));
    }
    tracing::warn!(run.id = %in_flight.claim.key.run_id, failures, reason, "a create could not be prepared");
    Next::Release(Release {
        probe_again_in: Some(wait),
        probes: probing.probes,
        error: Some(reason),
        prepare_failures: 1,
        ..Release::untouched(in_flight.claim.key.clone())
    })
}

/// Removes what requests under this claim's name left behind without starting it, when the run ends
/// without a workload of ours.
pub(super) async fn discard_leftovers(shared: &Shared, in_flight: &InFlight, settlement: &Settlement) {
    let made = matches!(
        settlement.ending,
        Ending::Fallback { result: FallbackResult::Created | FallbackResult::Existed, .. }
    );
    let Some(name) =
        in_flight.claim.workload.as_deref().filter(|_| in_flight.claim.create_count > 0 && !made)
    else {
        return;
    };
    if let Err(error) = shared.served(in_flight).workload.discard(name, &in_flight.claim.snapshot_id).await {
        tracing::warn!(%error, run.id = %in_flight.claim.key.run_id, workload = name, "a leftover may stay behind");
    }
}

fn confirmed(in_flight: &InFlight, probing: &Probing, result: FallbackResult, workload: String) -> Next {
    let mut settlement = probing.settlement(in_flight, Ending::Fallback { result, error: None });
    settlement.workload = Some(workload);
    Next::Settle(settlement)
}

fn failed(in_flight: &InFlight, probing: &Probing, error: Option<String>) -> Next {
    Next::Settle(probing.settlement(in_flight, Ending::Fallback { result: FallbackResult::Failed, error }))
}

/// Whether one more request may follow in `wait`: while the redrive is not near, within the operator's bound. Where
/// the redrive should have come and has not, the run still waits for a start, so a few may follow all the same.
fn may_create_again(shared: &Shared, in_flight: &InFlight, made: u32, wait: Duration) -> bool {
    let again_at = in_flight.clock.now() + wait;
    WorkerConfig::is_left(shared.config.create_attempts, made)
        && (in_flight.claim.may_probe_again_at(again_at) || made < CREATE_ATTEMPTS_LATE)
}

/// What is known when a create has failed.
struct Retry {
    count: u32,
    base_name: String,
    seed: u64,
}

impl Retry {
    /// Durable: the claim is given back, and the next claim probes before it creates.
    fn after(&self, shared: &Shared, in_flight: &InFlight, probing: &Probing, error: CreateError) -> Next {
        let wait = shared.config.create_backoff().delay(self.count, self.seed);
        let (reason, workload) = match error {
            CreateError::Permanent { reason } => return failed(in_flight, probing, Some(reason)),
            CreateError::Transient { reason, .. }
                if !may_create_again(shared, in_flight, self.count, wait) =>
            {
                return failed(in_flight, probing, Some(reason));
            }
            // The name may be registered without a workload, so the next request takes another name.
            CreateError::Transient { reason, name_may_be_taken: true } => {
                (reason, Some(next_name(&self.base_name, self.count + 1)))
            }
            // No answer came: the same name protects against a second workload.
            CreateError::Transient { reason, name_may_be_taken: false }
            | CreateError::Uncertain { reason } => (reason, None),
        };
        tracing::warn!(run.id = %in_flight.claim.key.run_id, attempt = self.count, reason, "a create failed");
        Next::Release(Release {
            probe_again_in: Some(wait),
            probes: probing.probes,
            error: Some(reason),
            workload,
            ..Release::untouched(in_flight.claim.key.clone())
        })
    }
}

//! The fallback: a run that nothing acted on is cold-started, once per dispatch.
//!
//! ```text
//! Lost ─ mark (durable) ─ permit (durable) ─ count (durable) ─ create ─ settle
//!            │                 │                                  │
//!            │                 └ held, shadow: no create          └ failed: back off, probe again
//!            └ from here on the outcome is fallback
//! ```
//!
//! Every step is fenced. Before the request the sighting must be under 2 s old and the
//! lease alive; otherwise the claim is given back and the next look starts afresh.

use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::in_hand::Held;
use super::verify::{Look, Next, SIGHTING_AGE_MAX, slot};
use crate::domain::backoff::Backoff;
use crate::domain::dispatch::ColdStartRequest;
use crate::domain::outcome::{Ending, FallbackResult};
use crate::store::StoreError;
use crate::store::lease::Release;
use crate::store::loss::{Fenced, Permit};
use crate::workload::{CreateError, CreateRequest, Created, next_name};

/// How fast a fenced step is repeated after a lost reply, while the lease lasts.
const REPEAT: Backoff = Backoff { base: Duration::from_millis(50), max: Duration::from_secs(1) };

/// Acts on a loss that `look` has just seen.
pub(super) async fn fall_back(shared: &Shared, held: &Held, look: &mut Look, seed: u64) -> Next {
    match repeat(held, seed, || shared.store.mark_lost(&held.claim.key, look.probes)).await {
        Some(Fenced::Held(_)) => look.probes = 0,
        Some(Fenced::Stale) | None => return Next::Drop,
    }
    if held.claim.create_count >= shared.config.create_attempts {
        let error = "no create was confirmed and no attempt is left".to_owned();
        return failed(held, look, Some(error));
    }
    if shared.stop.is_cancelled() {
        return Next::Release(Release::untouched(held.claim.key.clone()));
    }
    // Told now, so that a brown-out this worker sees holds its own next loss already.
    shared.tally.tell(&shared.store).await;
    match repeat(held, seed, || shared.store.permit_create(&held.claim.key, shared.config.hold_retry)).await {
        Some(Fenced::Held(Permit::Granted)) => create(shared, held, look, seed).await,
        Some(Fenced::Held(Permit::Suppressed)) => Next::Settle(
            look.settlement(held, Ending::Fallback { result: FallbackResult::Suppressed, error: None }),
        ),
        Some(Fenced::Held(Permit::Held { reason })) => {
            tracing::info!(run.id = %held.claim.key.run_id, reason, "a loss is held and looked at again");
            Next::Drop
        }
        Some(Fenced::Stale) | None => Next::Drop,
    }
}

async fn create(shared: &Shared, held: &Held, look: &Look, seed: u64) -> Next {
    let key = &held.claim.key;
    let stored = match repeat(held, seed, || shared.store.message(key)).await {
        Some(Fenced::Held(stored)) => stored,
        Some(Fenced::Stale) | None => return Next::Drop,
    };
    let request = match ColdStartRequest::parse(&stored.message) {
        Ok(request) => request,
        Err(error) => return failed(held, look, Some(format!("the stored message cannot be used: {error}"))),
    };
    let base_name = request.workload_name();
    let name = held.claim.workload.clone().unwrap_or_else(|| base_name.clone());

    let Some(_slot) = slot(&shared.fallback_slots, shared).await else {
        return Next::Release(Release::untouched(key.clone()));
    };
    if look.at.elapsed() > SIGHTING_AGE_MAX || shared.stop.is_cancelled() {
        return Next::Release(Release::untouched(key.clone()));
    }
    // Not repeated: a count whose reply was lost spends an attempt, a request never counted would be worse.
    let count = match shared.store.count_create(key, &name).await {
        Ok(Fenced::Held(count)) => count,
        Ok(Fenced::Stale) => return Next::Drop,
        Err(error) => {
            tracing::warn!(%error, run.id = %key.run_id, "no create is requested");
            return Next::Release(Release::untouched(key.clone()));
        }
    };
    if !held.is_live() || look.at.elapsed() > SIGHTING_AGE_MAX {
        return Next::Release(Release::untouched(key.clone()));
    }
    let asked = CreateRequest {
        name,
        verification_id: Some(key.id),
        traceparent: request.traceparent(),
        request,
        message: stored.message,
        timings: stored.timings,
        pod_scheduled_at_ms: held.clock.now().timestamp_millis(),
        request_id: None,
    };
    let retry = Retry { count, base_name, seed };
    match shared.workload.create(asked).await {
        Ok(Created::Created { workload }) => confirmed(held, look, FallbackResult::Created, workload),
        Ok(Created::Existed { workload }) => confirmed(held, look, FallbackResult::Existed, workload),
        Err(error) => retry.after(shared, held, look, error),
    }
}

fn confirmed(held: &Held, look: &Look, result: FallbackResult, workload: String) -> Next {
    let mut settlement = look.settlement(held, Ending::Fallback { result, error: None });
    settlement.workload = Some(workload);
    Next::Settle(settlement)
}

fn failed(held: &Held, look: &Look, error: Option<String>) -> Next {
    Next::Settle(look.settlement(held, Ending::Fallback { result: FallbackResult::Failed, error }))
}

/// What is known when a create has failed.
struct Retry {
    count: u32,
    base_name: String,
    seed: u64,
}

impl Retry {
    /// Durable: the claim is given back, and whoever looks next probes before it creates.
    fn after(&self, shared: &Shared, held: &Held, look: &Look, error: CreateError) -> Next {
        let (reason, workload) = match error {
            CreateError::Permanent { reason } => return failed(held, look, Some(reason)),
            CreateError::Transient { reason, .. } if self.count >= shared.config.create_attempts => {
                return failed(held, look, Some(reason));
            }
            // The name may be left registered without a workload behind it, so the next request takes another.
            CreateError::Transient { reason, name_may_be_taken: true } => {
                (reason, Some(next_name(&self.base_name, self.count + 1)))
            }
            // Nothing was answered: the same name protects against a second workload.
            CreateError::Transient { reason, name_may_be_taken: false }
            | CreateError::Uncertain { reason } => (reason, None),
        };
        tracing::warn!(run.id = %held.claim.key.run_id, attempt = self.count, reason, "a create failed");
        Next::Release(Release {
            key: held.claim.key.clone(),
            look_again_in: Some(shared.config.create_backoff().delay(self.count, self.seed)),
            probes: 0,
            failures: 0,
            error: Some(reason),
            workload,
        })
    }
}

/// Repeats a fenced step whose reply was lost, while the lease lasts; `None` when it is over or the step
/// is refused for good. The claim is then left to its lease, and to somebody else.
async fn repeat<T, F>(held: &Held, seed: u64, mut step: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut failures = 0;
    while held.is_live() {
        match step().await {
            Ok(answer) => return Some(answer),
            Err(error) if !error.is_passing() => {
                tracing::error!(%error, run.id = %held.claim.key.run_id, "a fenced step was refused");
                return None;
            }
            Err(error) => {
                failures += 1;
                let wait = REPEAT.delay(failures, seed);
                tracing::warn!(%error, run.id = %held.claim.key.run_id, "a fenced step is repeated");
                tokio::time::sleep_until(Instant::now() + wait).await;
            }
        }
    }
    None
}

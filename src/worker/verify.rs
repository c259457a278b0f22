//! One verification's life in one function: wait, probe, judge, fall back, settle.

use std::sync::Arc;

use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

use super::in_flight::InFlight;
use super::observe::observe;
use super::probe::{Next, Probing, conclude, probe_and_judge};
use super::{Shared, fallback, settle};
use crate::domain::outcome::{Ending, FallbackResult, Settlement};
use crate::domain::verdict::Verdict;
use crate::store::lease::Release;
use crate::telemetry::traces;

/// Verifies one claim to its end and passes the result on.
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
        settle::finish(&shared, in_flight, probing, next).await;
    };
    // At the end of the grace period this is dropped where it is, and its claim is given back.
    let _ = shared.halt.run_until_cancelled(life.instrument(span)).await;
}

async fn verify(shared: &Shared, in_flight: &InFlight, probing: &mut Probing, seed: u64) -> Next {
    if !due(shared, in_flight).await {
        return Next::Release(Release::untouched(in_flight.claim.key.clone()));
    }
    if in_flight.clock.now() > in_flight.claim.due_at + shared.config.expire_after {
        return Next::Settle(expired(in_flight, probing));
    }
    match probe_and_judge(shared, in_flight, probing, seed).await {
        Some(verdict) if in_flight.claim.only_observes(in_flight.clock.at(probing.at)) => {
            Box::pin(observe(shared, in_flight, &verdict, seed)).await
        }
        // Boxed, as is everything that few claims need: thousands wait for their probe at a time.
        Some(Verdict::Lost) => Box::pin(fallback::fall_back(shared, in_flight, probing, seed)).await,
        Some(verdict) => conclude(shared, in_flight, probing, verdict, seed).await,
        None if shared.stop.is_cancelled() => Next::Release(Release::untouched(in_flight.claim.key.clone())),
        None => Next::Drop,
    }
}

/// Waits for the moment to probe; `false` when the worker stops first, or is sick by then.
async fn due(shared: &Shared, in_flight: &InFlight) -> bool {
    tokio::select! {
        biased;
        () = shared.stop.cancelled() => false,
        // Asked only now: thousands of claims wait here, each for less than a second.
        () = sleep_until(in_flight.probe_at) => in_flight.is_trial || !in_flight.limits.sickness.is_sick(),
    }
}

/// Too long overdue to act on: the dispatch is too old.
fn expired(in_flight: &InFlight, probing: &Probing) -> Settlement {
    let error = "expired".to_owned();
    let ending = match in_flight.claim.lost_at {
        None => Ending::ProbeError { error },
        Some(_) => Ending::Fallback { result: FallbackResult::Failed, error: Some(error) },
    };
    probing.settlement(in_flight, ending)
}

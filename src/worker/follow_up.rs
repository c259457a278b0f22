//! The follow-up: a while after a created fallback, did its run start?
//!
//! It changes nothing. An operator learns of fallbacks that did not help.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::in_flight::DbClock;
use super::probe::slot;
use crate::domain::claim::late_after;
use crate::domain::verdict::{Acted, Dispatched, Verdict, judge};
use crate::store::follow_up::{FollowUp, FollowUpResult};
use crate::telemetry::metrics;

/// How often due follow-ups are asked for, and how many are taken at most.
const ROUND: Duration = Duration::from_secs(5);
const TAKE_MAX: u32 = 50;
/// Probes that may fail before the result is recorded as unknown.
const PROBES_MAX: u32 = 3;

/// Probes until the worker stops. Another worker repeats a probe that is dropped then.
pub(super) async fn keep(shared: Arc<Shared>) {
    let pools = shared.pool_names();
    let probes = TaskTracker::new();
    loop {
        let pause = ROUND.mul_f64(rand::random_range(0.9..=1.0));
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        match shared.store.take_follow_ups(&pools, TAKE_MAX).await {
            Ok(taken) => {
                let arrived = Instant::now();
                for one in taken {
                    probes.spawn(probe_and_judge(Arc::clone(&shared), one, arrived));
                }
            }
            Err(error) => tracing::warn!(%error, "could not take follow-ups"),
        }
    }
}

async fn probe_and_judge(shared: Arc<Shared>, taken: FollowUp, arrived: Instant) {
    let (Some(served), Some(limits)) = (shared.pools.get(&taken.pool), shared.limits.get(&taken.pool)) else {
        return;
    };
    let Some(slot) = slot(&limits.follow_ups, &shared).await else { return };
    let probed_at = DbClock::new(taken.taken_at, arrived).now();
    let asked = Instant::now();
    let observation = served.probe.latest_snapshot(&taken.run_id).await;
    drop(slot);
    metrics::probed(&taken.pool, asked.elapsed(), observation.as_ref().err(), None);
    shared.tally.count(&taken.pool, observation.as_ref().err());
    let late = probed_at > taken.dequeued_at + late_after(served.redrive);
    // The message is gone with its row, and with it the attempt.
    let dispatched = Dispatched { snapshot_id: &taken.snapshot_id, attempt_number: None, is_late: late };
    let (result, error) = match judge(dispatched, observation) {
        Verdict::Lost | Verdict::Acted { acted: Acted::Requeued, .. } => (FollowUpResult::NotStarted, None),
        Verdict::Acted { acted: Acted::Started | Acted::Finished | Acted::Cancelled, .. } => {
            (FollowUpResult::Confirmed, None)
        }
        Verdict::Acted { acted: Acted::Unknown, .. } => (FollowUpResult::Unknown, None),
        // Taken again once its time is over.
        Verdict::Unknown(_) if taken.probe_count < PROBES_MAX => return,
        Verdict::Unknown(failure) => (FollowUpResult::Unknown, Some(failure.to_string())),
    };
    if result != FollowUpResult::Confirmed {
        tracing::warn!(run.id = %taken.run_id, result = result.as_str(), "a fallback did not visibly help");
    }
    let recorded = shared.store.record_follow_up(taken.verification_id, result, late, error.as_deref()).await;
    metrics::follow_up(&taken.pool, result.as_str());
    // A worker that stops leaves its follow-ups to others, and needs no warning for that.
    if let Err(error) = recorded
        && !shared.stop.is_cancelled()
    {
        tracing::warn!(%error, run.id = %taken.run_id, "could not record a follow-up; another worker probes again");
    }
}

//! The follow-up: a while after a created fallback, did its run start?
//!
//! It changes nothing. An operator learns of fallbacks that did not help.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::db_clock::DbClock;
use super::limits::Limits;
use super::probe::slot;
use crate::domain::claim::late_after;
use crate::domain::ids::PoolName;
use crate::domain::verdict::{Acted, Dispatched, Verdict, judge};
use crate::store::StoreError;
use crate::store::follow_up::{FollowUp, FollowUpResult};
use crate::telemetry::metrics;

/// How often due follow-ups are asked for, and how soon again while more are due than could be taken.
const ROUND: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(200);
/// How many a worker takes, for each that it may probe at a time: even if none is answered within the longest timeout
/// that may be set, all are probed while they are its own. The rest is left to other workers.
const TAKEN_FOR_A_SLOT: usize = 2;
/// How many that are late are dropped in a round.
const DROP_MAX: u32 = 1000;
/// Probes that may fail before the result is recorded as unknown.
const PROBES_MAX: u32 = 3;

/// Probes until the worker stops. Another worker repeats a probe that is dropped then.
pub(super) async fn keep(shared: Arc<Shared>) {
    let room = |(pool, limits): (&PoolName, &Arc<Limits>)| {
        let room = limits.follow_ups.available_permits() * TAKEN_FOR_A_SLOT;
        (pool.clone(), Arc::new(Semaphore::new(room)))
    };
    let rooms: BTreeMap<PoolName, Arc<Semaphore>> = shared.limits.iter().map(room).collect();
    let pools = shared.pool_names();
    let probes = TaskTracker::new();
    let mut wait = ROUND;
    let mut dropped_at: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(wait.mul_f64(rand::random_range(0.9..=1.0))) => {}
        }
        if dropped_at.is_none_or(|at| at.elapsed() >= ROUND) {
            dropped_at = Some(Instant::now());
            drop_late(&shared, &pools).await;
        }
        wait = match take(&shared, &rooms, &probes).await {
            Ok(true) => AGAIN,
            Ok(false) => ROUND,
            Err(error) => {
                tracing::warn!(%error, "could not take follow-ups");
                ROUND
            }
        };
    }
}

/// Takes as many as there is room for, and answers whether more may be due.
async fn take(
    shared: &Arc<Shared>,
    rooms: &BTreeMap<PoolName, Arc<Semaphore>>,
    probes: &TaskTracker,
) -> Result<bool, StoreError> {
    let wanted: Vec<(PoolName, u32)> = rooms
        .iter()
        .filter_map(|(pool, room)| Some((pool.clone(), u32::try_from(room.available_permits()).ok()?)))
        .collect();
    let mut left: BTreeMap<PoolName, u32> = wanted.iter().cloned().collect();
    let taken = shared.store.take_follow_ups(&wanted).await?;
    let arrived = Instant::now();
    for one in taken {
        if let Some(left) = left.get_mut(&one.pool) {
            *left = left.saturating_sub(1);
        }
        let room = rooms.get(&one.pool).and_then(|room| Arc::clone(room).try_acquire_owned().ok());
        let shared = Arc::clone(shared);
        probes.spawn(async move {
            let _room = room;
            probe_and_judge(shared, one, arrived).await;
        });
    }
    Ok(left.values().any(|left| *left == 0))
}

/// What it shows says nothing of the fallback any more, and first probes are more urgent.
async fn drop_late(shared: &Shared, pools: &[PoolName]) {
    match shared.store.drop_late_follow_ups(pools, DROP_MAX).await {
        Ok(dropped) => dropped.iter().for_each(|pool| {
            metrics::follow_up(pool, FollowUpResult::Unknown.as_str());
        }),
        Err(error) => tracing::warn!(%error, "could not drop late follow-ups"),
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
    match recorded {
        Ok(true) => metrics::follow_up(&taken.pool, result.as_str()),
        // Another worker was quicker.
        Ok(false) => {}
        // A worker that stops leaves its follow-ups to others, and needs no warning for that.
        Err(_) if shared.stop.is_cancelled() => {}
        Err(error) => {
            tracing::warn!(%error, run.id = %taken.run_id, "could not record a follow-up; another worker probes again");
        }
    }
}

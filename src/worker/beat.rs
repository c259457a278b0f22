//! Beat: reports to the database that this worker runs, what it serves and what prevents that.
//!
//! It checks backends regularly, so that a backend that is down shows before a loss needs it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::domain::ids::PoolName;
use crate::store::fleet::{Beat, WorkerPool};
use crate::telemetry::lines;

/// How often a worker gives a sign of life.
const BEAT_EVERY: Duration = Duration::from_secs(5);
/// How often backends are checked, and how long one check may take.
const CHECK_EVERY: Duration = Duration::from_secs(30);
const CHECK_MAX: Duration = Duration::from_secs(4);

/// Beats until `done`, then signs off.
pub(super) async fn keep(shared: Arc<Shared>, done: CancellationToken) {
    let mut rounds = interval(BEAT_EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut served: Vec<WorkerPool> = Vec::new();
    let mut check_at = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = done.cancelled() => break,
            _ = rounds.tick() => {}
        }
        if Instant::now() >= check_at {
            served = check(&shared, &served).await;
            shared.health.checked(&served);
            check_at = Instant::now() + CHECK_EVERY;
        }
        lines::report_dropped();
        let pools: Vec<WorkerPool> = served.iter().map(|served| or_sick(&shared, served)).collect();
        let beat = Beat { worker: &shared.config.name, in_flight: shared.in_flight.len(), pools: &pools };
        if let Err(error) = shared.store.beat(&beat).await {
            tracing::warn!(%error, "could not give a sign of life");
        }
    }
    if let Err(error) = shared.store.sign_off(&shared.config.name).await {
        tracing::debug!(%error, "could not sign off");
    }
}

/// A worker that cannot probe a pool has a worse problem than its backend.
fn or_sick(shared: &Shared, served: &WorkerPool) -> WorkerPool {
    let problem = shared.limits[&served.pool].sickness.problem().or_else(|| served.problem.clone());
    WorkerPool { problem, ..served.clone() }
}

/// Checks every backend, all at once, and logs what has changed since.
async fn check(shared: &Arc<Shared>, before: &[WorkerPool]) -> Vec<WorkerPool> {
    let before: BTreeMap<&PoolName, Option<&str>> =
        before.iter().map(|served| (&served.pool, served.problem.as_deref())).collect();
    let checks = shared.pools.iter().map(|(pool, served)| async move {
        let problem = match timeout(CHECK_MAX, served.workload.check()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_elapsed) => {
                Some(format!("the backend did not answer a check within {} s", CHECK_MAX.as_secs()))
            }
        };
        WorkerPool { pool: pool.clone(), backend: served.workload.backend(), problem }
    });
    let checked = futures_util::future::join_all(checks).await;
    for now in &checked {
        let earlier = before.get(&now.pool).copied().flatten();
        match (&now.problem, earlier) {
            (Some(problem), earlier) if earlier != Some(problem.as_str()) => {
                tracing::warn!(pool = %now.pool, backend = now.backend, problem, "a backend cannot be used");
            }
            (None, Some(_)) => {
                tracing::info!(pool = %now.pool, backend = now.backend, "a backend works again");
            }
            (Some(_) | None, _) => {}
        }
    }
    checked
}

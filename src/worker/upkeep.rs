//! Upkeep of the backends: removes leftovers. [`crate::store::upkeep`] keeps the tables up.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Shared;

/// How often a worker removes leftovers.
const ROUND: Duration = Duration::from_mins(1);
/// How long a backend may take to remove workloads that were never started.
const REAP_MAX: Duration = Duration::from_secs(20);

/// Runs a round at once and then every minute, until the worker stops.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = rounds.tick() => {}
            () = shared.stop.cancelled() => return,
        }
        reap(&shared).await;
    }
}

/// Every worker removes its own: only this worker may be able to reach some leftovers.
async fn reap(shared: &Shared) {
    for (pool, served) in &shared.pools {
        match timeout(REAP_MAX, served.workload.reap()).await {
            Ok(Ok(0)) => {}
            Ok(Ok(reaped)) => {
                tracing::warn!(%pool, reaped, "workloads that were made and never started are removed");
            }
            Ok(Err(error)) => tracing::warn!(%pool, %error, "leftovers of the backend may stay behind"),
            Err(_elapsed) => tracing::warn!(%pool, "the backend does not answer about leftovers"),
        }
    }
}

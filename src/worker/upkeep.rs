//! Upkeep of the backends: what was left behind there is removed. The tables are kept up by [`crate::store::upkeep`].

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Shared;

/// How often a worker does it.
const ROUND: Duration = Duration::from_mins(1);
/// How long a backend may take to remove what was never started.
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

/// Every worker for itself: what was left behind may be where only this one reaches.
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

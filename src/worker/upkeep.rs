//! Upkeep: partitions ahead of time, old ones dropped, counts folded, by whichever worker comes first.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::Shared;
use crate::store::upkeep::UpkeepTerms;

/// How often a worker offers to do it.
const ROUND: Duration = Duration::from_mins(1);
/// Daily partitions kept ready. Two weeks of them outlast any outage of all workers that goes unnoticed.
const DAYS_AHEAD: u32 = 14;

/// Runs a round at once and then every minute, until the worker stops.
pub(super) async fn keep(shared: Arc<Shared>) {
    let terms = UpkeepTerms { days_ahead: DAYS_AHEAD, retention_days: shared.config.retention_days };
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = rounds.tick() => {}
            () = shared.stop.cancelled() => return,
        }
        match shared.store.upkeep(terms).await {
            Ok(Some(done)) => tracing::debug!(?done, "tables kept up"),
            Ok(None) => tracing::debug!("another worker keeps the tables up"),
            Err(error) => tracing::warn!(%error, "could not keep the tables up"),
        }
    }
}

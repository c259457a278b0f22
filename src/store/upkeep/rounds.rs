//! Rounds: upkeep at once and then every minute, in every process that runs for long.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::UpkeepTerms;
use crate::store::Store;
use crate::telemetry::metrics;

/// How often a process tries to run a round.
const ROUND: Duration = Duration::from_mins(1);
/// Daily partitions kept ready. Two weeks of them last longer than any outage that goes unnoticed.
const DAYS_AHEAD: u32 = 14;

/// Keeps the tables up until `stop`. Drops outcomes only where the number of days to keep them is set.
pub async fn keep(store: Store, retention_days: Option<u32>, stop: CancellationToken) {
    let terms = UpkeepTerms { days_ahead: DAYS_AHEAD, retention_days };
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = rounds.tick() => {}
        }
        let done = store.upkeep(terms).await;
        for (part, error) in &done.failed {
            metrics::upkeep_failed(part.as_str());
            tracing::warn!(part = part.as_str(), %error, "could not keep the tables up");
        }
        tracing::debug!(?done, "tables kept up");
    }
}

//! Renew: keeps the leases of claims in flight, in one statement a round.

use std::sync::Arc;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Shared;

/// Renews until `done`. The task of a lost claim notices at its next step.
pub(super) async fn keep(shared: Arc<Shared>, done: CancellationToken) {
    let lease = shared.config.lease;
    // Four rounds a lease: a round that fails leaves two more before the lease is over.
    let mut rounds = interval(lease / 4);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = rounds.tick() => {}
            () = done.cancelled() => return,
        }
        let ending = shared.in_flight.ending_within(lease * 2 / 3);
        if ending.is_empty() {
            continue;
        }
        let asked = Instant::now();
        match shared.store.renew(&ending, lease).await {
            Ok(answer) => {
                let lost = ending.len() - answer.renewed.len() - answer.busy.len();
                if lost > 0 {
                    tracing::debug!(lost, "claims ended or were taken over");
                }
                shared.in_flight.renewed(&ending, &answer, asked, lease);
            }
            Err(error) => tracing::warn!(%error, in_flight = ending.len(), "could not renew leases"),
        }
    }
}

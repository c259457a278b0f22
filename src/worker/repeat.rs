//! Repeats a fenced step while the claim's lease lasts.

use std::borrow::Borrow;
use std::time::Duration;

use tokio::time::Instant;

use super::in_flight::InFlight;
use crate::domain::backoff::Backoff;
use crate::store::StoreError;

/// How soon a fenced step is repeated after a lost reply, while the lease lasts.
const REPEAT: Backoff = Backoff { base: Duration::from_millis(50), max: Duration::from_secs(1) };

/// Repeats a fenced step whose reply was lost, while the lease lasts. `None`: the lease is over or the
/// step was refused for good. The claim is then left to its lease, and to another worker.
pub(super) async fn repeat<T, E, F>(in_flight: &InFlight, seed: u64, mut step: impl FnMut() -> F) -> Option<T>
where
    E: Borrow<StoreError>,
    F: Future<Output = Result<T, E>>,
{
    let mut failures = 0;
    while in_flight.is_live() {
        match step().await {
            Ok(answer) => return Some(answer),
            Err(error) if !error.borrow().is_passing() => {
                let error = error.borrow();
                tracing::error!(%error, run.id = %in_flight.claim.key.run_id, "a fenced step was refused");
                return None;
            }
            Err(error) => {
                let error = error.borrow();
                failures += 1;
                let wait = REPEAT.delay(failures, seed);
                // Our own renewal locks the row for a moment, four times a lease.
                if error.is_lock_timeout() {
                    tracing::debug!(%error, run.id = %in_flight.claim.key.run_id, "a fenced step waits for its row");
                } else {
                    tracing::warn!(%error, run.id = %in_flight.claim.key.run_id, "a fenced step is repeated");
                }
                tokio::time::sleep_until(Instant::now() + wait).await;
            }
        }
    }
    None
}

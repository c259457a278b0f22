//! Release: gives a claim back, as durably as a settle records one.
//!
//! What a release carries decides what comes next: a name that must not be used again, failures that end a
//! verification, an error. While the database is away the claim stays in flight, and its fence keeps the row ours
//! until another worker claims it.

use std::time::Duration;

use rand::Rng;

use super::Shared;
use super::in_flight::InFlight;
use crate::domain::backoff::Backoff;
use crate::store::lease::Release;

/// How long to wait before asking a failing database again.
const DATABASE_BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(2) };
/// How long to wait while another transaction holds the row.
const HELD_UP_PAUSE: Duration = Duration::from_millis(250);

/// Gives one claim back, however long the database takes to come back.
pub(super) async fn release(shared: &Shared, in_flight: InFlight, release: Release) {
    let mut failures = 0;
    loop {
        let wait = match shared.store.release(std::slice::from_ref(&release)).await {
            Ok(_stale_or_ours) => break,
            Err(error) if error.is_lock_timeout() => HELD_UP_PAUSE,
            Err(error) if error.is_passing() => {
                shared.health.failed(&error);
                failures += 1;
                let wait = DATABASE_BACKOFF.delay(failures, rand::rng().random());
                let retry_in_ms = wait.as_millis();
                tracing::warn!(%error, retry_in_ms, run.id = %release.key.run_id, "could not release, backing off");
                wait
            }
            Err(error) => {
                tracing::error!(%error, run.id = %release.key.run_id, "a release was refused; the claim is left to its lease");
                break;
            }
        };
        tokio::time::sleep(wait).await;
    }
    drop(in_flight);
}

//! Waiting for what grows, however slowly: how fast is the machine's affair.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::support::wait::PATIENCE;

/// How often is measured.
const TICK: Duration = Duration::from_millis(50);

/// Looks until as much is there as was asked for, for as long as it grows: how fast is the machine's affair.
pub async fn until_it_grows_to(what: &str, wanted: i64, mut measure: impl AsyncFnMut() -> i64) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut most, mut grown_at) = (i64::MIN, Instant::now());
    loop {
        ticks.tick().await;
        let now = measure().await;
        if now >= wanted {
            return;
        }
        if now > most {
            (most, grown_at) = (now, Instant::now());
        }
        assert!(grown_at.elapsed() < PATIENCE, "{what}: {most} of {wanted}, and no more for {PATIENCE:?}");
    }
}

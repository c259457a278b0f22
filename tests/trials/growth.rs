//! Waits for a growing number, on fast and on slow machines.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use warmproof_testkit::wait::PATIENCE;

/// How often the value is measured.
const TICK: Duration = Duration::from_millis(50);

/// Measures until the value is `wanted`. Fails only if the value stops growing, because slow machines take longer.
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

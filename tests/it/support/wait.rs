//! Waiting for what should happen, with a deadline and a name for what did not.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// How often a condition is looked at.
const TICK: Duration = Duration::from_millis(15);
/// Far above anything that works, so that only what never happens fails.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Looks until there is something to see.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let seen = async {
        loop {
            ticks.tick().await;
            if let Some(seen) = look().await {
                return seen;
            }
        }
    };
    within(what, seen).await
}

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

/// Awaits a future that must end.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain until {what}"))
}

//! Waiting for what should happen, with a deadline and a name for what did not.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often a condition is checked.
const TICK: Duration = Duration::from_millis(15);
/// Far above anything that works, so that only what never happens fails.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until `see` returns something.
pub async fn until<T>(what: &str, mut see: impl AsyncFnMut() -> Option<T>) -> T {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let seen = async {
        loop {
            ticks.tick().await;
            if let Some(seen) = see().await {
                return seen;
            }
        }
    };
    within(what, seen).await
}

/// Awaits a future that must end.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain until {what}"))
}

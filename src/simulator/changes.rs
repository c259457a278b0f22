//! One bell for everything a test may wait for.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::Notify;

/// Rings whenever something observable changed; whoever waits looks again.
#[derive(Debug, Default)]
pub(super) struct Changes(Notify);

impl Changes {
    pub(super) fn ring(&self) {
        self.0.notify_waiters();
    }

    /// Looks until there is an answer. Registered before each look, so no change is missed.
    pub(super) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        loop {
            let mut bell = pin!(self.0.notified());
            bell.as_mut().enable();
            if let Some(found) = look() {
                return found;
            }
            bell.await;
        }
    }

    /// The same for a while; `None` when it never came true.
    pub(super) async fn within<T>(&self, wait: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        if let Some(found) = look() {
            return Some(found);
        }
        tokio::time::timeout(wait, self.until(look)).await.ok()
    }
}

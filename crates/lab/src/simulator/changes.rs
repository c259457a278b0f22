//! One notification for all changes that a test may wait for.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::Notify;

/// Notifies all waiting callers after each observable change; they then check their condition again.
#[derive(Debug, Default)]
pub(super) struct Changes(Notify);

impl Changes {
    pub(super) fn ring(&self) {
        self.0.notify_waiters();
    }

    /// Waits until `check` returns an answer. It registers before each check, so it misses no change.
    pub(super) async fn until<T>(&self, mut check: impl FnMut() -> Option<T>) -> T {
        loop {
            let mut bell = pin!(self.0.notified());
            bell.as_mut().enable();
            if let Some(found) = check() {
                return found;
            }
            bell.await;
        }
    }

    /// The same for a limited time; `None` when the time is over.
    pub(super) async fn within<T>(&self, wait: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
        if let Some(found) = check() {
            return Some(found);
        }
        tokio::time::timeout(wait, self.until(check)).await.ok()
    }
}

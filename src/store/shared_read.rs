//! A reading that many requests need at once.
//!
//! It is made once, in a task of its own: a request that gives up does not take away what the others wait for, and the
//! next one finds the answer.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{SharedError, StoreError};

type Answer<T> = Result<Arc<T>, SharedError>;

/// The latest answer, and the reading that is under way. Cheap to clone.
#[derive(Debug)]
pub struct SharedRead<T> {
    state: Arc<Mutex<State<T>>>,
}

#[derive(Debug)]
struct State<T> {
    latest: Option<(Instant, Arc<T>)>,
    under_way: Option<watch::Receiver<Option<Answer<T>>>>,
    /// How often the latest answer was forgotten: a reading that began before does not bring it back.
    forgotten: u64,
}

impl<T> Default for SharedRead<T> {
    fn default() -> Self {
        Self { state: Arc::new(Mutex::new(State { latest: None, under_way: None, forgotten: 0 })) }
    }
}

fn lock<T>(state: &Mutex<State<T>>) -> MutexGuard<'_, State<T>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Send + Sync + 'static> SharedRead<T> {
    /// The latest answer, if it is younger than `trusted_for`.
    pub fn latest(&self, trusted_for: Duration) -> Option<Arc<T>> {
        let state = lock(&self.state);
        let (read_at, latest) = state.latest.as_ref()?;
        (read_at.elapsed() < trusted_for).then(|| Arc::clone(latest))
    }

    /// A new answer: of the reading that is under way, or of `read`.
    ///
    /// # Errors
    /// The reading failed; the next call begins another one.
    pub async fn read<F>(&self, read: impl FnOnce() -> F) -> Answer<T>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let mut answer = {
            let mut state = lock(&self.state);
            // One whose task is gone without an answer is begun again.
            match &state.under_way {
                Some(under_way) if under_way.has_changed().is_ok() => under_way.clone(),
                Some(_) | None => {
                    let begun = self.begin(state.forgotten, read());
                    state.under_way.insert(begun).clone()
                }
            }
        };
        let answered = answer.wait_for(Option::is_some).await;
        // The task is gone only when the process stops.
        let answered = answered.ok().and_then(|answer| answer.clone());
        answered.unwrap_or_else(|| Err(Arc::new(StoreError::Stopping)))
    }

    fn begin(
        &self,
        forgotten: u64,
        reading: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> watch::Receiver<Option<Answer<T>>> {
        let (sender, receiver) = watch::channel(None);
        let state = Arc::clone(&self.state);
        tokio::spawn(async move {
            let answer = reading.await.map(Arc::new).map_err(Arc::new);
            let mut state = lock(&state);
            if let Ok(latest) = &answer
                && state.forgotten == forgotten
            {
                state.latest = Some((Instant::now(), Arc::clone(latest)));
            }
            state.under_way = None;
            drop(state);
            sender.send_replace(Some(answer));
        });
        receiver
    }

    /// Makes the next request read again.
    pub fn forget(&self) {
        let mut state = lock(&self.state);
        state.latest = None;
        state.forgotten += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reading_outlives_the_request_that_began_it_and_serves_all() {
        let shared = SharedRead::<usize>::default();
        let begun = Arc::new(AtomicUsize::new(0));
        let slow = || {
            let begun = Arc::clone(&begun);
            async move {
                let nth = begun.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(300)).await;
                Ok(nth)
            }
        };
        for _ in 0..3 {
            assert!(timeout(Duration::from_millis(90), shared.read(slow)).await.is_err(), "it gives up");
        }
        let (one, other) = tokio::join!(shared.read(slow), shared.read(slow));
        assert_eq!((*one.unwrap(), *other.unwrap()), (0, 0), "of the first reading");
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        let trusted_for = Duration::from_secs(5);
        assert_eq!(shared.latest(trusted_for).as_deref(), Some(&0));
        tokio::time::advance(trusted_for).await;
        assert_eq!(shared.latest(trusted_for), None);
        assert_eq!(*shared.read(slow).await.unwrap(), 1);
        shared.forget();
        assert_eq!(shared.latest(trusted_for), None);
    }

    #[tokio::test]
    async fn a_reading_that_failed_is_made_again() {
        let shared = SharedRead::<usize>::default();
        assert!(shared.read(async || Err(StoreError::Stopping)).await.is_err());
        assert_eq!(*shared.read(async || Ok(7)).await.unwrap(), 7);
    }
}

//! Lane health: whether a lane of coalesced calls does its work, judged only by its results.
//!
//! A separate ping could succeed on a working connection while the lane hangs.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::SharedError;

/// A statement of a lane that is under way this long hangs, or the database is far too slow for callers.
const STUCK: Duration = Duration::from_secs(2);
/// A lane that achieved something this recently needs no other proof.
const FRESH: Duration = Duration::from_secs(2);
/// How long a proof may take, including the wait for the statement before it.
const PROOF_MAX: Duration = Duration::from_secs(2);

/// What one lane is doing and did last.
#[derive(Debug, Default)]
pub(super) struct LaneHealth(Mutex<Achieved>);

#[derive(Debug, Default)]
struct Achieved {
    /// When the statement that is under way began.
    began_at: Option<Instant>,
    /// When the last one ended well.
    well_at: Option<Instant>,
}

impl LaneHealth {
    /// A statement begins.
    pub(super) fn begin(&self) {
        self.lock().began_at = Some(Instant::now());
    }

    /// It has ended.
    pub(super) fn end(&self, done: &Result<(), SharedError>) {
        let mut achieved = self.lock();
        achieved.began_at = None;
        achieved.well_at = done.is_ok().then(Instant::now);
    }

    /// A statement has ended that proves nothing unless it failed.
    pub(super) fn end_of_another(&self, done: &Result<(), SharedError>) {
        let mut achieved = self.lock();
        achieved.began_at = None;
        if done.is_err() {
            achieved.well_at = None;
        }
    }

    /// What prevents the lane from working. A lane without a recent result has to prove that it works.
    pub(super) async fn problem<F>(&self, prove: impl FnOnce() -> F) -> Option<String>
    where
        F: Future<Output = Result<(), SharedError>>,
    {
        let (running, idle) = {
            let achieved = self.lock();
            (achieved.began_at.map(|at| at.elapsed()), achieved.well_at.map(|at| at.elapsed()))
        };
        if let Some(running) = running.filter(|running| *running >= STUCK) {
            return Some(format!("a statement of schedules has been under way for {} s", running.as_secs()));
        }
        if idle.is_some_and(|idle| idle < FRESH) {
            return None;
        }
        match timeout(PROOF_MAX, prove()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => {
                tracing::warn!(%error, "not ready");
                Some(error.in_public())
            }
            Err(_elapsed) => Some(format!("the database did not answer within {} s", PROOF_MAX.as_secs())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Achieved> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

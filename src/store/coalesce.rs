//! Coalesce: single schedule and cancel calls that meet become one statement.
//!
//! Each run belongs to one lane, so a cancel stays behind its schedule. A lane takes what
//! queued up while its last statement was in flight, without lingering: alone a call is as
//! fast as a plain one, and at high load thousands share a commit. Queues are bounded, so
//! callers feel a slow database instead of memory filling up.
//!
//! One bad row never fails its neighbours: a batch that is refused is repeated call by call.
//! A row that somebody's open transaction holds never blocks a lane: after a short wait the
//! batch is repeated call by call beside the lane, each waiting for itself.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::schedule::ScheduleAnswer;
use super::{LockWait, Store, StoreError};
use crate::domain::ids::RunId;
use crate::domain::verification::{Cancellation, Cancelled, NewVerification};

/// Most calls in one statement; beyond it only latency grows (measured).
const BATCH_MAX: usize = 256;
/// Calls that wait for a lane before callers wait themselves.
const QUEUE_MAX: usize = 1024;
/// How long a lane waits for a row that somebody else holds.
const LANE_LOCK_WAIT: LockWait = LockWait::AtMost(Duration::from_millis(20));

/// An error that all calls of a batch share.
pub type SharedError = Arc<StoreError>;

/// Lanes over one store. Cheap to clone; the lanes end with the last clone.
#[derive(Debug, Clone)]
pub struct Coalescer {
    lanes: Vec<mpsc::Sender<Call>>,
}

#[derive(Debug)]
enum Call {
    Schedule { new: Box<NewVerification>, answer: oneshot::Sender<Result<ScheduleAnswer, SharedError>> },
    Cancel { cancellation: Cancellation, answer: oneshot::Sender<Result<Cancelled, SharedError>> },
}

impl Call {
    fn run_id(&self) -> &RunId {
        match self {
            Self::Schedule { new, .. } => &new.dispatch.run_id,
            Self::Cancel { cancellation, .. } => &cancellation.run_id,
        }
    }
}

impl Coalescer {
    /// Starts the store's lanes on the current runtime; each uses one connection while it works.
    #[must_use]
    pub fn start(store: &Store, default_delay: Duration) -> Self {
        let lane = |_| {
            let (sender, calls) = mpsc::channel(QUEUE_MAX);
            tokio::spawn(Lane { store: store.clone(), default_delay }.run(calls));
            sender
        };
        Self { lanes: (0..store.lanes.max(1)).map(lane).collect() }
    }

    /// Schedules one, together with whoever calls at the same time.
    ///
    /// # Errors
    /// The database could not be reached or failed; the call may be repeated as it is.
    pub async fn schedule(&self, new: NewVerification) -> Result<ScheduleAnswer, SharedError> {
        let (answer, answered) = oneshot::channel();
        self.call(Call::Schedule { new: Box::new(new), answer }).await;
        answered.await.unwrap_or_else(|_| Err(Arc::new(StoreError::Stopping)))
    }

    /// Cancels one, together with whoever calls at the same time.
    ///
    /// # Errors
    /// The database could not be reached or failed; the call may be repeated as it is.
    pub async fn cancel(&self, cancellation: Cancellation) -> Result<Cancelled, SharedError> {
        let (answer, answered) = oneshot::channel();
        self.call(Call::Cancel { cancellation, answer }).await;
        answered.await.unwrap_or_else(|_| Err(Arc::new(StoreError::Stopping)))
    }

    async fn call(&self, call: Call) {
        let mut hasher = DefaultHasher::new();
        call.run_id().hash(&mut hasher);
        let lanes = self.lanes.len() as u64;
        let lane = usize::try_from(hasher.finish() % lanes).unwrap_or(0);
        // A lane that is gone drops the call, and its caller is told.
        let _ = self.lanes[lane].send(call).await;
    }
}

struct Lane {
    store: Store,
    default_delay: Duration,
}

impl Lane {
    async fn run(self, mut calls: mpsc::Receiver<Call>) {
        let mut gathered = Vec::with_capacity(BATCH_MAX);
        while calls.recv_many(&mut gathered, BATCH_MAX).await > 0 {
            for batch in batches(gathered.drain(..)) {
                match batch {
                    Batch::Schedule(calls) => self.schedule(calls).await,
                    Batch::Cancel(calls) => self.cancel(calls).await,
                }
            }
        }
    }

    async fn schedule(&self, calls: Vec<ScheduleCall>) {
        let (news, answers): (Vec<_>, Vec<_>) = calls.into_iter().unzip();
        match self.store.schedule_waiting(&news, self.default_delay, LANE_LOCK_WAIT).await {
            Ok(all) => answers.into_iter().zip(all).for_each(|(to, answer)| tell(to, Ok(answer))),
            Err(error) if (news.len() > 1 && error.is_data_error()) || error.is_lock_timeout() => {
                for (new, to) in news.into_iter().zip(answers) {
                    let (store, default_delay) = (self.store.clone(), self.default_delay);
                    beside(error.is_lock_timeout(), async move {
                        let answer = store.schedule(std::slice::from_ref(&new), default_delay).await;
                        tell(to, one(answer));
                    })
                    .await;
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for to in answers {
                    tell(to, Err(Arc::clone(&error)));
                }
            }
        }
    }

    async fn cancel(&self, calls: Vec<CancelCall>) {
        let (cancellations, answers): (Vec<_>, Vec<_>) = calls.into_iter().unzip();
        match self.store.cancel_waiting(&cancellations, LANE_LOCK_WAIT).await {
            Ok(all) => answers.into_iter().zip(all).for_each(|(to, answer)| tell(to, Ok(answer))),
            Err(error) if (cancellations.len() > 1 && error.is_data_error()) || error.is_lock_timeout() => {
                for (cancellation, to) in cancellations.into_iter().zip(answers) {
                    let store = self.store.clone();
                    beside(error.is_lock_timeout(), async move {
                        tell(to, one(store.cancel(std::slice::from_ref(&cancellation)).await));
                    })
                    .await;
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for to in answers {
                    tell(to, Err(Arc::clone(&error)));
                }
            }
        }
    }
}

type ScheduleCall = (NewVerification, oneshot::Sender<Result<ScheduleAnswer, SharedError>>);
type CancelCall = (Cancellation, oneshot::Sender<Result<Cancelled, SharedError>>);

/// Calls of one kind that go into one statement.
enum Batch {
    Schedule(Vec<ScheduleCall>),
    Cancel(Vec<CancelCall>),
}

/// Parts the calls into at most one batch of schedules and one of cancels after it, and starts
/// over where that would put a schedule before a cancel of its run that came first.
fn batches(calls: impl Iterator<Item = Call>) -> Vec<Batch> {
    let mut batches = Vec::new();
    let (mut schedules, mut cancels, mut cancelled) = (Vec::new(), Vec::new(), HashSet::new());
    let flush = |schedules: &mut Vec<_>, cancels: &mut Vec<_>, batches: &mut Vec<Batch>| {
        if !schedules.is_empty() {
            batches.push(Batch::Schedule(std::mem::take(schedules)));
        }
        if !cancels.is_empty() {
            batches.push(Batch::Cancel(std::mem::take(cancels)));
        }
    };
    for call in calls {
        match call {
            Call::Schedule { new, answer } => {
                if cancelled.contains(&new.dispatch.run_id) {
                    flush(&mut schedules, &mut cancels, &mut batches);
                    cancelled.clear();
                }
                schedules.push((*new, answer));
            }
            Call::Cancel { cancellation, answer } => {
                cancelled.insert(cancellation.run_id.clone());
                cancels.push((cancellation, answer));
            }
        }
    }
    flush(&mut schedules, &mut cancels, &mut batches);
    batches
}

/// Runs a call beside the lane when it would wait for a lock, else within it.
async fn beside(spawned: bool, call: impl Future<Output = ()> + Send + 'static) {
    if spawned {
        tokio::spawn(call);
    } else {
        call.await;
    }
}

/// The one answer to a batch of one.
fn one<T>(answers: Result<Vec<T>, StoreError>) -> Result<T, SharedError> {
    let mut answers = answers.map_err(Arc::new)?;
    answers.pop().ok_or_else(|| Arc::new(StoreError::Stopping))
}

/// A caller that has gone away needs no answer.
fn tell<T>(to: oneshot::Sender<T>, answer: T) {
    let _ = to.send(answer);
}

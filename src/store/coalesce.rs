//! Coalesce: single schedule and cancel calls that meet become one statement.
//!
//! Each run belongs to one lane, so a cancel stays behind its schedule. A lane takes what
//! queued up while its last statement was in flight, without waiting for more. So a single call
//! is as fast as a plain one, and at high load thousands share a commit. Queues are bounded: a
//! slow database makes callers wait instead of filling the memory.
//!
//! One bad row never fails the other calls: a batch that is refused is repeated call by call.
//! A row that another open transaction holds never blocks a lane. After a short wait the batch
//! is repeated call by call, and a call that still has to wait does so beside the lane, for two seconds and while its
//! caller is there; then it is answered as busy.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::connect::LockWait;
use super::held::HELD_MAX;
use super::lane_health::LaneHealth;
use super::schedule::{Prepared, ScheduleAnswer};
use super::{SharedError, Store, StoreError};
use crate::domain::ids::RunId;
use crate::domain::verification::{Cancellation, Cancelled, NewVerification, ScheduleRefusal};

/// Most calls in one statement; a larger batch only adds latency (measured).
const BATCH_MAX: usize = 256;
/// How many times a lane yields to other tasks before a statement, while that brings it calls; no sleep.
const YIELDS_MAX: usize = 16;
/// Calls that a lane's queue holds before callers have to wait.
const QUEUE_MAX: usize = 1024;

/// Calls that wait beside the lanes at a time, each with a connection; fewer where lanes would get none.
const BESIDE_MAX: usize = 2;

/// Lanes over one store. Cheap to clone; the lanes end with the last clone.
#[derive(Debug, Clone)]
pub struct Coalescer {
    store: Store,
    lanes: Vec<(mpsc::Sender<Call>, Arc<LaneHealth>)>,
}

#[derive(Debug)]
enum Call {
    Schedule {
        prepared: Box<Prepared<'static>>,
        answer: oneshot::Sender<Result<ScheduleAnswer, SharedError>>,
    },
    Cancel {
        cancellation: Cancellation,
        answer: oneshot::Sender<Result<Cancelled, SharedError>>,
    },
    /// Tests that the database can take a schedule, and writes nothing.
    Proof {
        answer: oneshot::Sender<Result<(), SharedError>>,
    },
}

impl Coalescer {
    /// Starts the store's lanes on the current runtime; each uses one connection while it works.
    #[must_use]
    pub fn start(store: &Store, default_delay: Duration) -> Self {
        let spare = store.db().durable_max().saturating_sub(store.lanes);
        let beside = Arc::new(Semaphore::new(spare.clamp(1, BESIDE_MAX)));
        let lane = |_| {
            let (sender, calls) = mpsc::channel(QUEUE_MAX);
            let (beside, health) = (Arc::clone(&beside), Arc::<LaneHealth>::default());
            let lane = Lane { store: store.clone(), default_delay, beside, health: Arc::clone(&health) };
            tokio::spawn(lane.run(calls));
            (sender, health)
        };
        Self { store: store.clone(), lanes: (0..store.lanes.max(1)).map(lane).collect() }
    }

    /// Schedules one, together with other calls of the same moment.
    ///
    /// # Errors
    /// The database could not be reached or failed; the call may be repeated as it is.
    pub async fn schedule(&self, new: NewVerification) -> Result<ScheduleAnswer, SharedError> {
        let (answer, answered) = oneshot::channel();
        // Here and not in the lane, where it would make all other calls wait.
        let prepared = Box::new(self.store.prepared_owned(new));
        let lane = self.lane_of(&prepared.new.dispatch.run_id);
        // A lane that is gone drops the call, and its caller gets an error.
        let _ = lane.send(Call::Schedule { prepared, answer }).await;
        answered.await.unwrap_or_else(|_| Err(Arc::new(StoreError::Stopping)))
    }

    /// Cancels one, together with other calls of the same moment.
    ///
    /// # Errors
    /// The database could not be reached or failed; the call may be repeated as it is.
    pub async fn cancel(&self, cancellation: Cancellation) -> Result<Cancelled, SharedError> {
        let (answer, answered) = oneshot::channel();
        let lane = self.lane_of(&cancellation.run_id);
        let _ = lane.send(Call::Cancel { cancellation, answer }).await;
        answered.await.unwrap_or_else(|_| Err(Arc::new(StoreError::Stopping)))
    }

    /// What prevents the lanes from working, judged by their latest results; an idle lane has to prove that
    /// it can work. `None`: nothing.
    pub async fn problem(&self) -> Option<String> {
        let lanes = self.lanes.iter().map(|(lane, health)| health.problem(|| prove(lane)));
        futures_util::future::join_all(lanes).await.into_iter().flatten().next()
    }

    fn lane_of(&self, run_id: &RunId) -> &mpsc::Sender<Call> {
        let mut hasher = DefaultHasher::new();
        run_id.hash(&mut hasher);
        let lanes = self.lanes.len() as u64;
        let lane = usize::try_from(hasher.finish() % lanes).unwrap_or(0);
        &self.lanes[lane].0
    }
}

async fn prove(lane: &mpsc::Sender<Call>) -> Result<(), SharedError> {
    let (answer, answered) = oneshot::channel();
    let _ = lane.send(Call::Proof { answer }).await;
    answered.await.unwrap_or_else(|_| Err(Arc::new(StoreError::Stopping)))
}

struct Lane {
    store: Store,
    default_delay: Duration,
    /// Places for calls that wait beside their lane: fewer than connections, so that lanes always get one.
    beside: Arc<Semaphore>,
    health: Arc<LaneHealth>,
}

impl Lane {
    async fn run(self, mut calls: mpsc::Receiver<Call>) {
        let lane = Arc::new(self);
        let mut gathered = Vec::with_capacity(BATCH_MAX);
        let mut crowd = 0;
        while calls.recv_many(&mut gathered, BATCH_MAX).await > 0 {
            if crowd > 1 {
                gather(&mut calls, &mut gathered).await;
            }
            crowd = gathered.len();
            for batch in batches(gathered.drain(..)) {
                lane.health.begin();
                let done = match batch {
                    Batch::Schedule(calls) => lane.schedule(calls).await,
                    Batch::Cancel(calls) => {
                        // Most of these do not wait for the disk, so they prove nothing about a schedule.
                        let done = lane.cancel(calls).await;
                        lane.health.end_of_another(&done);
                        continue;
                    }
                    Batch::Proof(answers) => lane.prove(answers).await,
                };
                lane.health.end(&done);
            }
        }
    }

    async fn prove(&self, answers: Vec<Answer<()>>) -> Result<(), SharedError> {
        let proven = self.store.prove_schedule().await.map_err(Arc::new);
        for to in answers {
            tell(to, proven.clone());
        }
        proven
    }

    /// Fails where the whole statement did. A call that waits for one row is no failure of the lane.
    async fn schedule(self: &Arc<Self>, calls: Vec<ScheduleCall>) -> Result<(), SharedError> {
        let (batch, answers): (Vec<_>, Vec<_>) = calls.into_iter().unzip();
        let refs: Vec<&Prepared<'_>> = batch.iter().map(AsRef::as_ref).collect();
        let fresh = self.store.schedule_fresh(&refs, self.default_delay, LockWait::Short).await;
        let Some((batch, answers)) = tell_some(batch, answers, fresh)? else { return Ok(()) };
        let refs: Vec<&Prepared<'_>> = batch.iter().map(AsRef::as_ref).collect();
        match self.store.schedule_rest(&refs, self.default_delay, LockWait::Short).await {
            Ok(all) => answers.into_iter().zip(all).for_each(|(to, answer)| tell(to, Ok(answer))),
            Err(error) if error.is_of_one_row() => {
                for (prepared, to) in batch.into_iter().zip(answers) {
                    self.schedule_one(prepared, to).await;
                }
            }
            Err(error) => return Err(tell_all(answers, error)),
        }
        Ok(())
    }

    async fn schedule_one(self: &Arc<Self>, prepared: Box<Prepared<'static>>, to: Answer<ScheduleAnswer>) {
        self.health.begin();
        match self.store.schedule_waiting(&[&*prepared], self.default_delay, LockWait::Short).await {
            Err(error) if error.is_lock_timeout() => {
                let lane = Arc::clone(self);
                tokio::spawn(async move {
                    let busy = Err(ScheduleRefusal::Busy(prepared.new.dispatch.run_id.clone()));
                    let (store, delay) = (lane.store.clone(), lane.default_delay);
                    let call = async |wait| store.schedule_waiting(&[&*prepared], delay, wait).await;
                    lane.wait_beside(to, busy, call).await;
                });
            }
            answer => tell(to, one(answer)),
        }
    }

    async fn cancel(self: &Arc<Self>, calls: Vec<CancelCall>) -> Result<(), SharedError> {
        let (cancellations, answers): (Vec<_>, Vec<_>) = calls.into_iter().unzip();
        let pending = self.store.cancel_pending(&cancellations, LockWait::Short).await;
        let Some((cancellations, answers)) = tell_some(cancellations, answers, pending)? else {
            return Ok(());
        };
        match self.store.cancel_rest(&cancellations, LockWait::Short).await {
            Ok(all) => answers.into_iter().zip(all).for_each(|(to, answer)| tell(to, Ok(answer))),
            Err(error) if error.is_of_one_row() => {
                for (cancellation, to) in cancellations.into_iter().zip(answers) {
                    self.cancel_one(cancellation, to).await;
                }
            }
            Err(error) => return Err(tell_all(answers, error)),
        }
        Ok(())
    }

    async fn cancel_one(self: &Arc<Self>, cancellation: Cancellation, to: Answer<Cancelled>) {
        let alone = std::slice::from_ref(&cancellation);
        self.health.begin();
        match self.store.cancel_waiting(alone, LockWait::Short).await {
            Err(error) if error.is_lock_timeout() => {
                let lane = Arc::clone(self);
                tokio::spawn(async move {
                    let (store, alone) = (lane.store.clone(), std::slice::from_ref(&cancellation));
                    let call = async |wait| store.cancel_waiting(alone, wait).await;
                    lane.wait_beside(to, Cancelled::Busy, call).await;
                });
            }
            answer => tell(to, one(answer)),
        }
    }

    /// Waits beside the lane for a row that another transaction holds, for a bounded time and for a caller that is
    /// still there.
    async fn wait_beside<T>(
        &self,
        mut to: Answer<T>,
        busy: T,
        call: impl AsyncFnOnce(LockWait) -> Result<Vec<T>, StoreError>,
    ) {
        let deadline = Instant::now() + HELD_MAX;
        let place = tokio::select! {
            biased;
            () = to.closed() => return,
            place = timeout_at(deadline, self.beside.acquire()) => place,
        };
        let Ok(_place) = place else { return tell(to, Ok(busy)) };
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let answer = match call(LockWait::AtMost(left)).await {
            Err(error) if error.is_lock_timeout() => Ok(busy),
            answer => one(answer),
        };
        tell(to, answer);
    }
}

/// Takes along calls that are about to arrive: the callers of the last batch got their answers a moment ago
/// and often call again at once. Without this a lane would serve its callers in two halves for ever.
async fn gather(calls: &mut mpsc::Receiver<Call>, gathered: &mut Vec<Call>) {
    for _ in 0..YIELDS_MAX {
        let before = gathered.len();
        tokio::task::yield_now().await;
        while gathered.len() < BATCH_MAX
            && let Ok(call) = calls.try_recv()
        {
            gathered.push(call);
        }
        if gathered.len() == before {
            return;
        }
    }
}

type Answer<T> = oneshot::Sender<Result<T, SharedError>>;
type ScheduleCall = (Box<Prepared<'static>>, Answer<ScheduleAnswer>);
type CancelCall = (Cancellation, Answer<Cancelled>);

/// Calls of one kind that go into one statement.
enum Batch {
    Schedule(Vec<ScheduleCall>),
    Cancel(Vec<CancelCall>),
    Proof(Vec<Answer<()>>),
}

/// Splits the calls into at most one batch of schedules and one of cancels after it. It starts a new
/// pair where a schedule would otherwise come before an earlier cancel of its run.
fn batches(calls: impl Iterator<Item = Call>) -> Vec<Batch> {
    let mut batches = Vec::new();
    let (mut schedules, mut cancels, mut cancelled) = (Vec::new(), Vec::new(), HashSet::new());
    let mut proofs = Vec::new();
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
            Call::Schedule { prepared, answer } => {
                if cancelled.contains(&prepared.new.dispatch.run_id) {
                    flush(&mut schedules, &mut cancels, &mut batches);
                    cancelled.clear();
                }
                schedules.push((prepared, answer));
            }
            Call::Cancel { cancellation, answer } => {
                cancelled.insert(cancellation.run_id.clone());
                cancels.push((cancellation, answer));
            }
            Call::Proof { answer } => proofs.push(answer),
        }
    }
    flush(&mut schedules, &mut cancels, &mut batches);
    if !proofs.is_empty() {
        batches.push(Batch::Proof(proofs));
    }
    batches
}

/// What a statement leaves over: what was asked, and where to send the answer.
type Left<T, A> = (Vec<T>, Vec<Answer<A>>);

/// Answers the calls that the plain statement has judged; the others go through the database function. When
/// one row made the statement fail, it has written nothing, so all calls are left over.
fn tell_some<T, A>(
    asked: Vec<T>,
    answers: Vec<Answer<A>>,
    some: Result<Vec<Option<A>>, StoreError>,
) -> Result<Option<Left<T, A>>, SharedError> {
    let some = match some {
        Ok(some) => some,
        Err(error) if error.is_of_one_row() => return Ok(Some((asked, answers))),
        Err(error) => return Err(tell_all(answers, error)),
    };
    let mut left = (Vec::new(), Vec::new());
    for ((one, to), answer) in asked.into_iter().zip(answers).zip(some) {
        if let Some(answer) = answer {
            tell(to, Ok(answer));
        } else {
            left.0.push(one);
            left.1.push(to);
        }
    }
    Ok((!left.0.is_empty()).then_some(left))
}

/// The whole statement failed, and with it every call in it.
fn tell_all<T>(answers: Vec<Answer<T>>, error: StoreError) -> SharedError {
    let error = Arc::new(error);
    for to in answers {
        tell(to, Err(Arc::clone(&error)));
    }
    error
}

/// The one answer to a batch of one.
fn one<T>(answers: Result<Vec<T>, StoreError>) -> Result<T, SharedError> {
    let mut answers = answers.map_err(Arc::new)?;
    answers.pop().ok_or_else(|| Arc::new(StoreError::Stopping))
}

/// A caller that has gone away needs no answer.
fn tell<T>(to: Answer<T>, answer: Result<T, SharedError>) {
    let _ = to.send(answer);
}

//! The broker's long polls, open and waiting, and the messages given to them.
//!
//! The poller that has waited longest gets the message. The real broker also matches
//! deployment and machine, by rules that are not public; here each runner matches.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::changes::Changes;
use super::ledger::Ledger;
use super::options::RunnerKind;
use warmproof::domain::dispatch::Dispatch;

/// In this header a simulated runner tells the broker its kind, and so what happens to its message.
pub(super) const KIND_HEADER: &str = "x-simulator-runner-kind";
/// In this header it identifies the poll.
pub(super) const POLL_HEADER: &str = "x-simulator-poll";

struct Poller {
    id: u64,
    key: Option<u64>,
    kind: Option<RunnerKind>,
    give: oneshot::Sender<Arc<Dispatch>>,
}

#[derive(Default)]
struct Polls {
    next_id: u64,
    waiting: VecDeque<Poller>,
    /// Second copies for the next pollers.
    spare: VecDeque<Arc<Dispatch>>,
    /// The open polls of simulated runners, each with the message given to it.
    open: HashMap<u64, Option<Arc<Dispatch>>>,
}

/// One copy of a dispatch that was written to a poller.
struct Given {
    kind: Option<RunnerKind>,
    /// False if it is already certain that no runner will act on it.
    arrives: bool,
}

impl Polls {
    /// Gives the message to the poller that has waited longest and is still connected.
    fn give(&mut self, dispatch: &Arc<Dispatch>) -> Option<Given> {
        loop {
            let poller = self.waiting.pop_front()?;
            if poller.give.send(Arc::clone(dispatch)).is_ok() {
                return Some(self.given(poller.key, poller.kind, dispatch));
            }
        }
    }

    fn given(&mut self, key: Option<u64>, kind: Option<RunnerKind>, dispatch: &Arc<Dispatch>) -> Given {
        let open = match key.map(|key| self.open.get_mut(&key)) {
            Some(Some(given)) => given.replace(Arc::clone(dispatch)).is_none(),
            // Its runner has left, and its connection has not ended yet.
            Some(None) => false,
            // Not a simulated runner: only its connection shows whether it is still there.
            None => true,
        };
        Given { kind, arrives: open && !kind.is_some_and(RunnerKind::loses) }
    }
}

pub(super) struct Broker {
    polls: Mutex<Polls>,
    changes: Arc<Changes>,
    ledger: Arc<Ledger>,
}

impl Broker {
    pub(super) fn new(changes: Arc<Changes>, ledger: Arc<Ledger>) -> Self {
        Self { polls: Mutex::default(), changes, ledger }
    }

    pub(super) fn waiting(&self) -> usize {
        self.polls().waiting.len()
    }

    /// A simulated runner calls this before each poll.
    pub(super) fn open(&self) -> OpenPoll<'_> {
        let mut polls = self.polls();
        polls.next_id += 1;
        let key = polls.next_id;
        polls.open.insert(key, None);
        OpenPoll { broker: self, key }
    }

    pub(super) async fn poll(&self, key: Option<u64>, kind: Option<RunnerKind>) -> Option<Arc<Dispatch>> {
        let (give, take) = oneshot::channel();
        let id = {
            let mut polls = self.polls();
            if let Some(dispatch) = polls.spare.pop_front() {
                if !polls.given(key, kind, &dispatch).arrives {
                    self.ledger.copy_lost(&dispatch);
                }
                return Some(dispatch);
            }
            polls.next_id += 1;
            let id = polls.next_id;
            polls.waiting.push_back(Poller { id, key, kind, give });
            id
        };
        self.changes.ring();
        let mut waits = Waits { broker: self, id, key, take };
        (&mut waits.take).await.ok()
    }

    /// Whether a poller got the message.
    pub(super) fn dispatch(&self, dispatch: Dispatch) -> bool {
        let dispatch = Arc::new(dispatch);
        let mut polls = self.polls();
        let Some(first) = polls.give(&dispatch) else {
            drop(polls);
            self.ledger.count(|counters| counters.misses += 1);
            return false;
        };
        let twice = first.kind == Some(RunnerKind::Duplicating);
        // Recorded before the lock is released, and so before a poller can act on it.
        self.ledger.hit(&dispatch, first.kind, if twice { 2 } else { 1 });
        let second = if twice { polls.give(&dispatch) } else { None };
        if twice && second.is_none() {
            polls.spare.push_back(Arc::clone(&dispatch));
        }
        for _ in [Some(first), second].into_iter().flatten().filter(|given| !given.arrives) {
            self.ledger.copy_lost(&dispatch);
        }
        true
    }

    fn polls(&self) -> MutexGuard<'_, Polls> {
        self.polls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A simulated runner's side of one poll.
///
/// When a poll times out or its runner leaves, the broker's answer may be in flight at
/// the same moment. That message is lost, and the broker alone cannot detect it
/// (platform.md §4.2, loss windows).
pub(super) struct OpenPoll<'a> {
    broker: &'a Broker,
    pub(super) key: u64,
}

impl OpenPoll<'_> {
    /// The runner has read the whole message.
    pub(super) fn received(self) {
        self.broker.polls().open.remove(&self.key);
    }
}

impl Drop for OpenPoll<'_> {
    fn drop(&mut self) {
        let given = self.broker.polls().open.remove(&self.key).flatten();
        if let Some(dispatch) = given {
            self.broker.ledger.copy_lost(&dispatch);
        }
    }
}

/// Takes a poller off the list when its request ends, for any reason.
struct Waits<'a> {
    broker: &'a Broker,
    id: u64,
    key: Option<u64>,
    take: oneshot::Receiver<Arc<Dispatch>>,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.broker.polls().waiting.retain(|poller| poller.id != self.id);
        // The caller left just when it got the message. A simulated runner reports this loss itself.
        if let (None, Ok(dispatch)) = (self.key, self.take.try_recv()) {
            self.broker.ledger.copy_lost(&dispatch);
        }
        self.broker.changes.ring();
    }
}

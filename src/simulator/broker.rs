//! The warm-start broker: holds long polls and writes messages to them (contract §4).
//!
//! The longest waiting poller gets the message. The real broker also matches
//! deployment and machine, by rules that are not public; here every runner fits.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::oneshot;

use super::changes::Changes;
use super::core::Core;
use super::ledger::Ledger;
use super::options::RunnerKind;
use crate::domain::dispatch::Dispatch;
use crate::platform::wire::{BrokerConnectAnswer, WarmStartAnswer, WarmStartRequest};

/// By this header a simulated runner tells the broker what becomes of a message given to it.
pub(super) const KIND_HEADER: &str = "x-simulator-runner-kind";
/// By this one it tells which of its polls this is.
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
    /// Second copies for whoever polls next.
    spare: VecDeque<Arc<Dispatch>>,
    /// The polls that simulated runners have open, each with what was given to it.
    open: HashMap<u64, Option<Arc<Dispatch>>>,
}

/// One copy of a dispatch that was written to a poller.
struct Given {
    kind: Option<RunnerKind>,
    /// False if it is known already that nobody will act on it.
    arrives: bool,
}

impl Polls {
    /// Gives to the longest waiting poller that is still there.
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
            // Its runner has gone, and its connection has not told yet.
            Some(None) => false,
            // Not one of ours: only its connection will tell.
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

    /// To be called by a simulated runner before each poll.
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

    /// Whether somebody got the message.
    pub(super) fn dispatch(&self, dispatch: Dispatch) -> bool {
        let dispatch = Arc::new(dispatch);
        let mut polls = self.polls();
        let Some(first) = polls.give(&dispatch) else {
            drop(polls);
            self.ledger.count(|counters| counters.misses += 1);
            return false;
        };
        let twice = first.kind == Some(RunnerKind::Duplicating);
        // Written down before the lock is given back, so before a poller can act on it.
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
/// A poll that ends for its runner without the message, by its timeout or with its
/// runner, may have crossed the broker's answer: what was given to it is lost, and the
/// broker alone cannot know (contract §4.2, loss windows).
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

/// Takes a poller off the list when its request ends, however it ends.
struct Waits<'a> {
    broker: &'a Broker,
    id: u64,
    key: Option<u64>,
    take: oneshot::Receiver<Arc<Dispatch>>,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.broker.polls().waiting.retain(|poller| poller.id != self.id);
        // A caller that left just when it was given to; one of ours is told of by its runner.
        if let (None, Ok(dispatch)) = (self.key, self.take.try_recv()) {
            self.broker.ledger.copy_lost(&dispatch);
        }
        self.broker.changes.ring();
    }
}

pub(super) fn routes() -> axum::Router<Arc<Core>> {
    axum::Router::new().route("/connect", get(connect)).route("/warm-start", get(poll).post(dispatch))
}

async fn connect(State(core): State<Arc<Core>>) -> Json<BrokerConnectAnswer> {
    let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).ok();
    Json(BrokerConnectAnswer {
        connection_timeout_ms: ms(core.options.connection_timeout),
        keepalive_ms: ms(core.options.keepalive),
    })
}

async fn poll(State(core): State<Arc<Core>>, headers: HeaderMap) -> Response {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let kind = text(KIND_HEADER).and_then(RunnerKind::parse);
    let key = text(POLL_HEADER).and_then(|key| key.parse().ok());
    match core.broker.poll(key, kind).await {
        // The message itself, not wrapped.
        Some(dispatch) => {
            let json = [(header::CONTENT_TYPE, "application/json")];
            (json, dispatch.message.get().to_owned()).into_response()
        }
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn dispatch(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    let request = serde_json::from_slice::<WarmStartRequest>(&body).map_err(|error| error.to_string());
    let dispatch = request.and_then(|request| {
        Dispatch::parse(request.dequeued_message, None).map_err(|error| error.to_string())
    });
    match dispatch {
        Ok(dispatch) => {
            Json(WarmStartAnswer { did_warm_start: core.broker.dispatch(dispatch) }).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, Json(serde_json::json!({ "error": error }))).into_response(),
    }
}

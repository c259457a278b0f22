//! The warm-start broker: holds long polls and writes messages to them (contract §4).
//!
//! The longest waiting poller gets the message. The real broker also matches
//! deployment and machine, by rules that are not public; here every runner fits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::changes::Changes;
use super::core::Core;
use super::ledger::Ledger;
use super::options::RunnerKind;
use crate::domain::dispatch::Dispatch;
use crate::platform::wire::{BrokerConnectAnswer, WarmStartAnswer, WarmStartRequest};

/// By this header a simulated runner tells the broker what becomes of a message given to it.
pub(super) const KIND_HEADER: &str = "x-simulator-runner-kind";

struct Poller {
    id: u64,
    kind: Option<RunnerKind>,
    give: oneshot::Sender<Box<RawValue>>,
}

#[derive(Default)]
struct Polls {
    next_id: u64,
    waiting: VecDeque<Poller>,
    /// Second copies for whoever polls next.
    spare: VecDeque<Box<RawValue>>,
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

    async fn poll(&self, kind: Option<RunnerKind>) -> Option<Box<RawValue>> {
        let (give, take) = oneshot::channel();
        let id = {
            let mut polls = self.polls();
            if let Some(message) = polls.spare.pop_front() {
                return Some(message);
            }
            polls.next_id += 1;
            let id = polls.next_id;
            polls.waiting.push_back(Poller { id, kind, give });
            id
        };
        self.changes.ring();
        let _leaves = Leaves { broker: self, id };
        take.await.ok()
    }

    /// Whether somebody got the message.
    fn dispatch(&self, dispatch: &Dispatch) -> bool {
        let mut polls = self.polls();
        let Some(kind) = give(&mut polls, &dispatch.message) else {
            drop(polls);
            self.ledger.count(|counters| counters.misses += 1);
            return false;
        };
        let twice = kind == Some(RunnerKind::Duplicating);
        if twice && give(&mut polls, &dispatch.message).is_none() {
            polls.spare.push_back(dispatch.message.clone());
        }
        // Written down before the lock is given back, so before a poller can act on it.
        self.ledger.hit(&dispatch.run_id, &dispatch.snapshot_id, kind);
        if twice {
            self.ledger.count(|counters| counters.duplicate_deliveries += 1);
        }
        true
    }

    fn polls(&self) -> MutexGuard<'_, Polls> {
        self.polls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives to the longest waiting poller that is still there; tells its kind.
fn give(polls: &mut Polls, message: &RawValue) -> Option<Option<RunnerKind>> {
    let mut message = message.to_owned();
    loop {
        let poller = polls.waiting.pop_front()?;
        match poller.give.send(message) {
            Ok(()) => return Some(poller.kind),
            Err(back) => message = back,
        }
    }
}

/// Takes a poller off the list when its request ends, however it ends.
struct Leaves<'a> {
    broker: &'a Broker,
    id: u64,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.broker.polls().waiting.retain(|poller| poller.id != self.id);
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
    let kind = headers.get(KIND_HEADER).and_then(|kind| kind.to_str().ok()).and_then(RunnerKind::parse);
    match core.broker.poll(kind).await {
        // The message itself, not wrapped.
        Some(message) => {
            let json = [(header::CONTENT_TYPE, "application/json")];
            (json, Box::<str>::from(message).into_string()).into_response()
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
            Json(WarmStartAnswer { did_warm_start: core.broker.dispatch(&dispatch) }).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, Json(serde_json::json!({ "error": error }))).into_response(),
    }
}

//! Records every probe and every create, including those that hang now.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::HeaderMap;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::changes::Changes;
use super::clock::Clock;
use warmproof::platform::wire;

/// Headers whose values are never recorded.
const SECRET_HEADERS: [&str; 2] = ["authorization", wire::MANAGED_SECRET_HEADER];

/// The state of a visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VisitState {
    /// The simulator is answering it.
    Open,
    /// A fault keeps it waiting.
    Hanging,
    /// Answered with this status. The simulator does not know whether the answer arrived.
    Answered(u16),
    /// The caller left, or a fault cut the connection.
    Abandoned,
}

/// One recorded request: a probe or a create.
#[derive(Debug, Clone, Serialize)]
pub struct Visit {
    /// The run's friendly id as received; empty if a create named none.
    pub run: String,
    /// The instance's name, for creates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it arrived, in milliseconds since the simulation began.
    pub arrived_at_ms: u64,
    /// The same by the wall clock.
    pub arrived_at: DateTime<Utc>,
    /// `x-trigger-request-idempotency-key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// All headers; a secret's value is hidden.
    pub headers: BTreeMap<String, String>,
    /// The fault that applied to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<serde_json::Value>,
    /// Its state.
    pub state: VisitState,
}

/// The visits of one kind, in the order they arrived.
#[derive(Debug)]
pub(super) struct Visits {
    clock: Clock,
    book: Mutex<Book>,
    changes: Arc<Changes>,
}

#[derive(Debug, Default)]
struct Book {
    visits: Vec<Visit>,
    of_run: HashMap<String, Vec<usize>>,
}

impl Visits {
    pub(super) fn new(clock: Clock, changes: Arc<Changes>) -> Arc<Self> {
        Arc::new(Self { clock, book: Mutex::default(), changes })
    }

    /// Records a visit. Dropping the guard before it got an answer means that the caller left.
    pub(super) fn arrive(
        self: &Arc<Self>,
        run: &str,
        name: Option<String>,
        headers: &HeaderMap,
        fault: Option<&impl Serialize>,
        hanging: bool,
    ) -> Arrived {
        let key = headers.get(wire::IDEMPOTENCY_KEY_HEADER).and_then(|value| value.to_str().ok());
        let visit = Visit {
            run: run.to_owned(),
            name,
            arrived_at_ms: self.clock.now_ms(),
            arrived_at: self.clock.now(),
            idempotency_key: key.map(str::to_owned),
            headers: without_secrets(headers),
            fault: fault.and_then(|fault| serde_json::to_value(fault).ok()),
            state: if hanging { VisitState::Hanging } else { VisitState::Open },
        };
        let index = {
            let mut book = self.book();
            let index = book.visits.len();
            book.of_run.entry(visit.run.clone()).or_default().push(index);
            book.visits.push(visit);
            index
        };
        self.changes.ring();
        Arrived { visits: Arc::clone(self), index, ended: false }
    }

    /// The visits about one run, or all of them.
    pub(super) fn of(&self, run: Option<&str>) -> Vec<Visit> {
        let book = self.book();
        let Some(run) = run else { return book.visits.clone() };
        let indexes = book.of_run.get(run).map(Vec::as_slice).unwrap_or_default();
        indexes.iter().map(|index| book.visits[*index].clone()).collect()
    }

    /// The n-th visit about a run, counted from 0.
    pub(super) fn nth(&self, run: &str, n: usize) -> Option<Visit> {
        let book = self.book();
        let index = *book.of_run.get(run)?.get(n)?;
        Some(book.visits[index].clone())
    }

    fn set(&self, index: usize, state: VisitState) {
        if let Some(visit) = self.book().visits.get_mut(index) {
            visit.state = state;
        }
        self.changes.ring();
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A visit on its way to an answer.
pub(super) struct Arrived {
    visits: Arc<Visits>,
    index: usize,
    ended: bool,
}

impl Arrived {
    pub(super) fn go_on(&self) {
        self.visits.set(self.index, VisitState::Open);
    }

    pub(super) fn answered(mut self, status: u16) {
        self.ended = true;
        self.visits.set(self.index, VisitState::Answered(status));
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        if !self.ended {
            self.visits.set(self.index, VisitState::Abandoned);
        }
    }
}

fn without_secrets(headers: &HeaderMap) -> BTreeMap<String, String> {
    let text = |name: &str, value: &[u8]| {
        if SECRET_HEADERS.contains(&name) {
            "(present)".to_owned()
        } else {
            String::from_utf8_lossy(value).into_owned()
        }
    };
    headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), text(name.as_str(), value.as_bytes())))
        .collect()
}

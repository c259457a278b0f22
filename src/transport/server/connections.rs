//! The open connections of a listener: which is idle, and for how long.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Bounds, HEAD_MAX};

/// How long a new connection may send nothing.
const SILENT_MAX: Duration = Duration::from_secs(10);
/// How often the log says the same.
const LOG_EVERY: Duration = Duration::from_mins(1);

/// Why a connection was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    /// It never sent a byte.
    Silent,
    /// Nothing moved for longer than an answer may take: its client reads or writes no more.
    Stuck,
    /// Too many were open, and it had been idle longest, or all others were at work.
    TooMany,
    /// The process had no descriptor for it.
    NotAccepted,
}

impl Dropped {
    /// The word in logs and metrics.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Stuck => "stuck",
            Self::TooMany => "too_many",
            Self::NotAccepted => "not_accepted",
        }
    }
}

/// One open connection.
#[derive(Debug)]
pub(super) struct Connection {
    id: u64,
    began: Instant,
    /// When a byte last moved, in milliseconds since it began.
    moved_ms: AtomicU64,
    has_sent: AtomicBool,
    /// Requests without an answer yet.
    requests: AtomicUsize,
    drop: CancellationToken,
}

impl Connection {
    /// A byte was received, or sent.
    pub(super) fn moved(&self, is_received: bool) {
        if is_received {
            self.has_sent.store(true, Ordering::Relaxed);
        }
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(ms, Ordering::Relaxed);
    }

    fn moved_at(&self) -> Instant {
        self.began + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed))
    }

    /// Counts a request that is worked on, until the answer is dropped.
    pub(super) fn at_work(self: &Arc<Self>) -> AtWork {
        self.requests.fetch_add(1, Ordering::Relaxed);
        AtWork(Arc::clone(self))
    }

    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    /// Waits until the connection is to be dropped, and answers why.
    pub(super) async fn is_to_be_dropped(&self, bounds: Bounds) -> Dropped {
        loop {
            let (end, why) = if self.has_sent.load(Ordering::Relaxed) {
                (self.moved_at() + HEAD_MAX.max(bounds.answer_max), Dropped::Stuck)
            } else {
                (self.began + SILENT_MAX, Dropped::Silent)
            };
            if end <= Instant::now() {
                return why;
            }
            tokio::select! {
                () = self.drop.cancelled() => return Dropped::TooMany,
                () = sleep_until(end) => {}
            }
        }
    }
}

/// One request without an answer yet.
#[derive(Debug)]
pub(super) struct AtWork(Arc<Connection>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The open connections of one listener.
#[derive(Debug)]
pub(super) struct Connections {
    bounds: Bounds,
    open: Mutex<Open>,
    /// When the log last said that connections were dropped, and how many have been since.
    logged: Mutex<Option<(Instant, u64)>>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: BTreeMap<u64, Arc<Connection>>,
}

impl Connections {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, open: Mutex::default(), logged: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more connection. Where there is none, the one that has been idle longest is dropped; `None` if
    /// all are at work.
    pub(super) fn admit(&self) -> Option<Arc<Connection>> {
        let mut open = self.lock();
        if open.connections.len() >= self.bounds.connections_max {
            let idle = open.connections.values().filter(|one| one.is_idle());
            let longest = idle.min_by_key(|one| one.moved_at()).map(|one| one.id);
            let Some(longest) = longest.and_then(|id| open.connections.remove(&id)) else {
                drop(open);
                self.dropped(Dropped::TooMany, None);
                return None;
            };
            longest.drop.cancel();
        }
        let connection = Arc::new(Connection {
            id: open.next,
            began: Instant::now(),
            moved_ms: AtomicU64::new(0),
            has_sent: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            drop: CancellationToken::new(),
        });
        open.next += 1;
        open.connections.insert(connection.id, Arc::clone(&connection));
        Some(connection)
    }

    pub(super) fn ended(&self, connection: &Connection) {
        self.lock().connections.remove(&connection.id);
    }

    /// Counts a dropped connection; the log says so once a minute.
    pub(super) fn dropped(&self, why: Dropped, error: Option<&io::Error>) {
        (self.bounds.count_dropped)(why.as_str());
        let Some(unlogged) = self.may_log() else { return };
        let (why, most) = (why.as_str(), self.bounds.connections_max);
        if let Some(error) = error {
            let advice = "could not accept a connection: raise the limit of open files (nofile)";
            tracing::error!(%error, why, unlogged, "{advice}");
        } else {
            tracing::warn!(why, unlogged, most, "a connection was dropped");
        }
    }

    /// How many were not logged since the last line, if it is time for another one.
    fn may_log(&self) -> Option<u64> {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        match logged.as_mut() {
            Some((at, unlogged)) if at.elapsed() < LOG_EVERY => {
                *unlogged += 1;
                None
            }
            _ => logged.replace((Instant::now(), 0)).map_or(Some(0), |(_, unlogged)| Some(unlogged)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(connections_max: usize) -> Bounds {
        Bounds { connections_max, answer_max: Duration::from_secs(30), count_dropped: |_| {} }
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_has_been_idle_longest_makes_room_and_none_at_work_does() {
        let connections = Connections::new(bounds(2));
        let admitted = || connections.admit().expect("a place");
        let (one, two) = (admitted(), admitted());
        tokio::time::advance(Duration::from_secs(1)).await;
        one.moved(true);
        let three = admitted();
        assert!(two.drop.is_cancelled() && !one.drop.is_cancelled());
        connections.ended(&two);
        let working = one.at_work();
        let four = admitted();
        assert!(three.drop.is_cancelled() && !one.drop.is_cancelled());
        let _working_too = four.at_work();
        assert!(connections.admit().is_none(), "all are at work");
        drop(working);
        let _ = admitted();
        assert!(one.drop.is_cancelled() && !four.drop.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_dropped_when_it_is_silent_or_nothing_moves() {
        let connections = Connections::new(bounds(9));
        let silent = connections.admit().expect("a place");
        let began = Instant::now();
        assert_eq!(silent.is_to_be_dropped(bounds(9)).await, Dropped::Silent);
        assert_eq!(began.elapsed().as_secs(), 10);
        let stuck = connections.admit().expect("a place");
        stuck.moved(true);
        let began = Instant::now();
        assert_eq!(stuck.is_to_be_dropped(bounds(9)).await, Dropped::Stuck);
        assert_eq!(began.elapsed().as_secs(), 75);
    }
}

//! The open connections of a listener: which is idle, and for how long.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Bounds, HEAD_MAX};

/// How long a new connection may send nothing.
const SILENT_MAX: Duration = Duration::from_secs(10);
/// How much later than the limits of a head and of an answer a connection is dropped, so that these come first.
const SLACK: Duration = Duration::from_secs(5);
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
    /// When a request last began or was answered, in milliseconds since it began. Bytes alone are no use of it: a
    /// stranger may send some now and then.
    used_ms: AtomicU64,
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
        self.moved_ms.store(self.age_ms(), Ordering::Relaxed);
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn used_at(&self) -> Instant {
        self.began + Duration::from_millis(self.used_ms.load(Ordering::Relaxed))
    }

    fn moved_at(&self) -> Instant {
        self.began + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed))
    }

    /// Counts a request that is worked on, until the answer is dropped.
    pub(super) fn at_work(self: &Arc<Self>) -> AtWork {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.used_ms.store(self.age_ms(), Ordering::Relaxed);
        AtWork(Arc::clone(self))
    }

    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    /// Waits until the connection is to be dropped, and answers why.
    pub(super) async fn is_to_be_dropped(&self, bounds: Bounds) -> Dropped {
        loop {
            let (end, why) = if self.has_sent.load(Ordering::Relaxed) {
                (self.moved_at() + HEAD_MAX.max(bounds.answer_max) + SLACK, Dropped::Stuck)
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
        self.0.used_ms.store(self.0.age_ms(), Ordering::Relaxed);
    }
}

/// The open connections of one listener.
#[derive(Debug)]
pub(super) struct Connections {
    bounds: Bounds,
    open: Mutex<Open>,
    /// A connection has ended.
    ended: Notify,
    /// When the log last said that connections were dropped, and how many have been since.
    logged: Mutex<Option<(Instant, u64)>>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: BTreeMap<u64, Arc<Connection>>,
}

impl Open {
    fn admit(&mut self) -> Arc<Connection> {
        let connection = Arc::new(Connection {
            id: self.next,
            began: Instant::now(),
            moved_ms: AtomicU64::new(0),
            has_sent: AtomicBool::new(false),
            used_ms: AtomicU64::new(0),
            requests: AtomicUsize::new(0),
            drop: CancellationToken::new(),
        });
        self.next += 1;
        self.connections.insert(connection.id, Arc::clone(&connection));
        connection
    }
}

impl Connections {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, open: Mutex::default(), ended: Notify::new(), logged: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more connection. Where there is none, the one that has been idle longest is dropped, and its end
    /// is waited for: until then it has its descriptor. `None` if all are at work.
    pub(super) async fn admit(&self) -> Option<Arc<Connection>> {
        loop {
            {
                let mut open = self.lock();
                if open.connections.len() < self.bounds.connections_max {
                    return Some(open.admit());
                }
                let idle = open.connections.values().filter(|one| one.is_idle());
                let Some(longest) = idle.min_by_key(|one| (!one.drop.is_cancelled(), one.used_at())) else {
                    drop(open);
                    self.dropped(Dropped::TooMany, None);
                    return None;
                };
                longest.drop.cancel();
            }
            self.ended.notified().await;
        }
    }

    pub(super) fn ended(&self, connection: &Connection) {
        self.lock().connections.remove(&connection.id);
        self.ended.notify_one();
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
        let connections = Arc::new(Connections::new(bounds(2)));
        // As the listener does, for connections that end as soon as they are dropped.
        let admitted = async || {
            let connection = connections.admit().await.expect("a place");
            let (ending, all) = (Arc::clone(&connection), Arc::clone(&connections));
            tokio::spawn(async move {
                ending.drop.cancelled().await;
                all.ended(&ending);
            });
            connection
        };
        let (one, two) = (admitted().await, admitted().await);
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(one.at_work());
        // Bytes without a request do not count.
        two.moved(true);
        let three = admitted().await;
        assert!(two.drop.is_cancelled() && !one.drop.is_cancelled());
        let working = one.at_work();
        let four = admitted().await;
        assert!(three.drop.is_cancelled() && !one.drop.is_cancelled());
        let _working_too = four.at_work();
        assert!(connections.admit().await.is_none(), "all are at work");
        drop(working);
        let _ = admitted().await;
        assert!(one.drop.is_cancelled() && !four.drop.is_cancelled());
        assert_eq!(connections.lock().connections.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_dropped_when_it_is_silent_or_nothing_moves() {
        let connections = Connections::new(bounds(9));
        let silent = connections.admit().await.expect("a place");
        let began = Instant::now();
        assert_eq!(silent.is_to_be_dropped(bounds(9)).await, Dropped::Silent);
        assert_eq!(began.elapsed().as_secs(), 10);
        let stuck = connections.admit().await.expect("a place");
        stuck.moved(true);
        let began = Instant::now();
        assert_eq!(stuck.is_to_be_dropped(bounds(9)).await, Dropped::Stuck);
        assert_eq!(began.elapsed().as_secs(), 80);
    }
}

//! Db: runs units of work on sessions, and completes each even when its caller leaves.
//!
//! A unit is one statement or one transaction. Its caller waits for a session, and may leave; once the unit
//! has one it runs in a task of its own, under a deadline. So a request that is dropped, a timeout or a
//! shutdown never leaves a session inside a transaction, and a session that did not end well is closed.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadpool::managed::{Pool, PoolError};
use sqlx::SqlStr;
use sqlx::postgres::PgArguments;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::session::{Session, Sessions};
use super::tx::{Done, Tx};
use super::{Commit, Connector, Fault, Terms};
use crate::store::StoreError;

/// A statement slower than this is named in the log.
const SLOW: Duration = Duration::from_secs(1);
/// How much of a slow statement's text names it.
const NAME_CHARS_MAX: usize = 60;
/// How long a closing database waits for units that have begun.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// The share of a process's connections whose commits are relaxed: claims and renewals of a worker, and the
/// connect-cancels of the lanes.
const RELAXED_SHARE: u32 = 3;

/// What a transaction does; it must own everything that it needs.
pub type Work<'t, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 't>>;

/// One database, reached through pools of sessions. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    inner: Arc<Inner>,
}

struct Inner {
    connector: Connector,
    durable: Pool<Sessions>,
    relaxed: Pool<Sessions>,
    /// One relaxed session for renewals, in a worker.
    leases: Option<Pool<Sessions>>,
    acquire_timeout: Duration,
    units: TaskTracker,
    in_use: AtomicU64,
}

/// Connections of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// Open.
    pub open: usize,
    /// Open and without work.
    pub idle: usize,
    /// As many as there may be.
    pub max: usize,
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db").field("connections", &self.connections()).finish_non_exhaustive()
    }
}

impl Db {
    /// A database with at most this many connections, none of them open yet; one of them for leases alone, if
    /// `has_leases`.
    #[must_use]
    pub fn open(
        connector: Connector,
        connections_max: u32,
        acquire_timeout: Duration,
        has_leases: bool,
    ) -> Self {
        let relaxed = (connections_max / RELAXED_SHARE).max(1);
        let durable = connections_max.saturating_sub(relaxed).max(1);
        // Of the relaxed ones if there are two, so that a durable statement waits for no other.
        let (durable, relaxed) = match (has_leases, relaxed) {
            (false, _) => (durable, relaxed),
            (true, 1) => (durable.saturating_sub(1).max(1), relaxed),
            (true, _) => (durable, relaxed - 1),
        };
        let pool = |commit, size: u32| {
            let sessions = Sessions { connector: connector.clone(), commit };
            // The builder complains only about timeouts, and sets none: `session` has one over everything.
            Pool::builder(sessions)
                .max_size(size as usize)
                .build()
                .unwrap_or_else(|error| unreachable!("a pool without timeouts needs no runtime: {error}"))
        };
        let inner = Inner {
            durable: pool(Commit::Durable, durable),
            relaxed: pool(Commit::Relaxed, relaxed),
            leases: has_leases.then(|| pool(Commit::Relaxed, 1)),
            connector,
            acquire_timeout,
            units: TaskTracker::new(),
            in_use: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Opens a first session, and fails at once with the reason if it cannot.
    ///
    /// # Errors
    /// The driver's error, with a [`Fault`] inside.
    pub async fn prove(&self) -> sqlx::Result<()> {
        let proven = self.inner.connector.connect_once(Some(Commit::Durable)).await;
        proven.map(drop).map_err(Fault::into_sqlx)
    }

    /// Runs a transaction to its end: it commits when the work ends well, and is rolled back otherwise.
    ///
    /// # Errors
    /// Those of the work, and those of the connection, reported as `doing`.
    pub async fn transaction<T, W>(&self, doing: &'static str, terms: Terms, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: for<'t> FnOnce(&'t mut Tx) -> Work<'t, T> + Send + 'static,
    {
        let failed = StoreError::doing(doing);
        let begin = self.inner.connector.settings().of_unit(terms, true);
        let session = self.session(terms).await.map_err(&failed)?;
        let named = !self.inner.connector.settings().pooler();
        let limit = self.inner.connector.settings().deadline(terms);
        let unit = move |session: Session| async move {
            let failed = StoreError::doing(doing);
            let mut tx = Tx::new(session, named, limit);
            tx.simple(begin.unwrap_or_else(|| "begin".to_owned())).await.map_err(&failed)?;
            let done = work(&mut tx).await;
            let end = if done.is_ok() { "commit" } else { "rollback" };
            let ended = tx.simple(end.to_owned()).await.map_err(&failed);
            // Of two errors the first explains more; the second shows whether the session still works.
            let well = ended.is_ok() && !done.as_ref().err().is_some_and(StoreError::ends_session);
            if well {
                tx.give_back();
            }
            done.and_then(|done| ended.map(|()| done))
        };
        self.run(session, || doing.to_owned(), unit)
            .await
            .unwrap_or_else(|fault| Err(failed(fault.into_sqlx())))
    }

    /// How many sessions there may be whose commits wait for the disk.
    #[must_use]
    pub fn durable_max(&self) -> usize {
        self.inner.durable.status().max_size
    }

    /// The schema that all statements mean.
    #[must_use]
    pub fn schema(&self) -> &str {
        self.inner.connector.settings().schema()
    }

    /// Whether a transaction pooler is in between.
    #[must_use]
    pub fn is_behind_a_pooler(&self) -> bool {
        self.inner.connector.settings().pooler()
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> Connections {
        let pools = self.pools().map(Pool::status);
        let (open, max) = pools.fold((0, 0), |(open, max), pool| (open + pool.size, max + pool.max_size));
        let in_use = usize::try_from(self.inner.in_use.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        Connections { open, idle: open.saturating_sub(in_use), max }
    }

    /// Starts no new unit and waits a moment for those under way; then it cuts their connections.
    pub async fn close(&self) {
        self.pools().for_each(Pool::close);
        self.inner.units.close();
        if timeout(CLOSE_MAX, self.inner.units.wait()).await.is_err() {
            tracing::warn!("the database has not answered everything; its connections are cut");
        }
    }

    fn pools(&self) -> impl Iterator<Item = &Pool<Sessions>> {
        [&self.inner.durable, &self.inner.relaxed].into_iter().chain(&self.inner.leases)
    }

    /// A session for these terms; the caller waits for it.
    async fn session(&self, terms: Terms) -> sqlx::Result<Session> {
        let pool = match (terms.commit, &self.inner.leases) {
            (_, Some(leases)) if terms.for_leases => leases,
            (Commit::Durable, _) => &self.inner.durable,
            (Commit::Relaxed, _) => &self.inner.relaxed,
        };
        let (waited, began) = (self.inner.acquire_timeout, Instant::now());
        let fault = match timeout(waited, pool.get()).await {
            Ok(Ok(loan)) => return Ok(Session::new(loan)),
            Ok(Err(PoolError::Backend(fault))) => fault,
            Ok(Err(PoolError::Closed)) => Fault::Stopping,
            Ok(Err(PoolError::Timeout(_) | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_))) => {
                Fault::NoneFree { waited }
            }
            // Either no server accepts a login, or other units keep all sessions busy.
            Err(_elapsed) => self.inner.connector.fault_since(began).unwrap_or(Fault::NoneFree { waited }),
        };
        Err(fault.into_sqlx())
    }

    /// Runs a unit on its session in a task of its own, and waits for it. The unit has deadlines of its own.
    async fn run<T, E, W, F>(
        &self,
        session: Session,
        name: impl FnOnce() -> String,
        unit: W,
    ) -> Result<Result<T, E>, Fault>
    where
        T: Send + 'static,
        E: Failure + Send + 'static,
        W: FnOnce(Session) -> F + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let (in_use, generation, began) = (InUse::of(self), session.generation(), Instant::now());
        let task = self.inner.units.spawn(async move {
            let done = unit(session).await;
            if done.as_ref().err().is_some_and(Failure::is_of_connection) {
                in_use.0.inner.connector.distrust(generation);
            }
            done
        });
        let done = task.await.map_err(|_panicked| Fault::Broken);
        if began.elapsed() > SLOW {
            tracing::warn!(statement = name(), duration_ms = began.elapsed().as_millis(), "a slow statement");
        }
        done
    }

    pub(super) async fn statement(
        &self,
        terms: Terms,
        sql: SqlStr,
        arguments: Option<PgArguments>,
        persistent: bool,
    ) -> Done {
        let settings = self.inner.connector.settings();
        let begin = settings.of_unit(terms, false);
        // A named statement outlives its transaction, but behind a pooler the server session does not.
        let persistent = persistent && !settings.pooler();
        let session = self.session(terms).await?;
        let text = sql.clone();
        let limit = settings.deadline(terms);
        let unit = move |session: Session| async move {
            let mut tx = Tx::new(session, true, limit);
            let Some(begin) = begin else {
                let done = tx.query(sql, arguments, persistent).await;
                if !done.as_ref().err().is_some_and(ends_session) {
                    tx.give_back();
                }
                return done;
            };
            tx.simple(begin).await?;
            let done = tx.query(sql, arguments, persistent).await;
            let end = if done.is_ok() { "commit" } else { "rollback" };
            let ended = tx.simple(end.to_owned()).await;
            if ended.is_ok() && !done.as_ref().err().is_some_and(ends_session) {
                tx.give_back();
            }
            done.and_then(|done| ended.map(|()| done))
        };
        self.run(session, || name_of(text.as_str()), unit)
            .await
            .unwrap_or_else(|fault| Err(fault.into_sqlx()))
    }
}

/// Counts a unit that is under way.
struct InUse(Db);

impl InUse {
    fn of(db: &Db) -> Self {
        db.inner.in_use.fetch_add(1, Ordering::Relaxed);
        Self(db.clone())
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.inner.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An error of a unit, as far as it concerns the connection.
trait Failure {
    /// Whether the connection or the server is at fault, and not only what was asked.
    fn is_of_connection(&self) -> bool;
}

impl Failure for sqlx::Error {
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others are about what was asked or answered")]
    fn is_of_connection(&self) -> bool {
        match self {
            // A deadline that passed is one of these, too.
            Self::Io(_) | Self::Protocol(_) | Self::Tls(_) => true,
            Self::Database(error) => {
                let state = error.code().unwrap_or_default();
                // Broken off, shut down or starting, read-only as after a failover; or the schema has changed
                // under statements that every session has prepared.
                state.starts_with("08") || state.starts_with("57P") || ["25006", "0A000"].contains(&&*state)
            }
            _ => false,
        }
    }
}

impl Failure for StoreError {
    fn is_of_connection(&self) -> bool {
        match self {
            Self::Database { source, .. } => source.is_of_connection(),
            Self::Connection { .. } => true,
            Self::Held { .. } | Self::Stopping | Self::Corrupt { .. } => false,
        }
    }
}

/// Whether the session that got this error must be closed: its network, server or transaction failed.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the driver's errors are many; none but the server's is harmless"
)]
pub(in crate::store) fn ends_session(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let state = error.code().unwrap_or_default();
            // Broken off; read-only, as after a failover; a transaction that was left open or has failed; no such
            // prepared statement; a statement prepared before the schema changed; shut down or starting.
            state.starts_with("08")
                || state.starts_with("57P")
                || ["25006", "25P01", "25P02", "25P03", "26000", "0A000", "XX000"].contains(&&*state)
        }
        // The driver may have stopped reading in the middle of an answer.
        _ => true,
    }
}

/// The start of a statement, on one line.
fn name_of(sql: &str) -> String {
    let words =
        sql.lines().map(|line| line.split("--").next().unwrap_or_default()).flat_map(str::split_whitespace);
    let text = words.take(12).collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(NAME_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

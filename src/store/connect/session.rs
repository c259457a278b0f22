//! Session: one connection on loan, which goes back to its pool only when it is known to work.

use std::time::Duration;

use deadpool::managed::{Manager, Metrics, Object, RecycleError, RecycleResult};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::time::timeout;

use super::{Commit, Connector, Fault};

/// After this long without work a session is asked whether it still lives.
const RESTED: Duration = Duration::from_secs(1);
/// How long it may take to answer. A healthy network answers within milliseconds.
const PING_MAX: Duration = Duration::from_secs(1);
/// After this long a session is replaced: a server process only grows, and a balancer may want to move us.
const AGE_MAX: Duration = Duration::from_mins(30);

/// Makes the sessions of one kind.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) connector: Connector,
    pub(super) commit: Commit,
}

/// A connection that was set up, and when.
#[derive(Debug)]
pub(super) struct Open {
    connection: PgConnection,
    generation: u64,
}

impl Manager for Sessions {
    type Type = Open;
    type Error = Fault;

    async fn create(&self) -> Result<Open, Fault> {
        let generation = self.connector.generation();
        Ok(Open { connection: self.connector.connect(self.commit).await?, generation })
    }

    async fn recycle(&self, open: &mut Open, metrics: &Metrics) -> RecycleResult<Fault> {
        let gone = |why| Err(RecycleError::message(why));
        if open.generation != self.connector.generation() {
            return gone("the network or the server failed since");
        }
        if metrics.age() > AGE_MAX {
            return gone("old enough");
        }
        if metrics.last_used() <= RESTED {
            return Ok(());
        }
        // A slow session proves nothing about the others: the server may only be busy.
        match timeout(PING_MAX, open.connection.ping()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => gone("the connection broke"),
            Err(_elapsed) => gone("the connection does not answer"),
        }
    }
}

/// A session on loan. Dropped before [`Session::give_back`] it is closed, and its open transaction ends.
pub(super) struct Session {
    loan: Option<Object<Sessions>>,
}

impl Session {
    pub(super) fn new(loan: Object<Sessions>) -> Self {
        Self { loan: Some(loan) }
    }

    /// The connection; always there until it was given back.
    pub(super) fn connection(&mut self) -> Option<&mut PgConnection> {
        self.loan.as_mut().map(|open| &mut open.connection)
    }

    /// The generation it was made in.
    pub(super) fn generation(&self) -> u64 {
        self.loan.as_ref().map_or(0, |open| open.generation)
    }

    /// Back into the pool: no transaction is open in it, and no answer is outstanding.
    pub(super) fn give_back(mut self) {
        self.loan = None;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(loan) = self.loan.take() {
            drop(Object::take(loan));
        }
    }
}

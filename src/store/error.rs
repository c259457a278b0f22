//! What can go wrong between us and the database, by what a caller does about it.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;

use sqlx::error::DatabaseError;

use super::connect::{Fault, LockWait, ends_session};

/// A statement that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused, broke off or could not be reached.
    #[error("could not {doing}: {source}")]
    Database {
        /// The verb and its object, such as `claim verifications`.
        doing: &'static str,
        /// The error of sqlx.
        source: sqlx::Error,
    },
    /// There is no connection, or it did not answer.
    #[error("could not {doing}: {fault}")]
    Connection {
        /// The verb and its object.
        doing: &'static str,
        /// Which server, and why.
        fault: Fault,
    },
    /// Another transaction holds the row; nothing was written.
    #[error("could not {doing}: another transaction holds the row")]
    Held {
        /// The verb and its object.
        doing: &'static str,
    },
    /// The process is stopping and takes no more calls.
    #[error("the process is stopping: repeat the call elsewhere")]
    Stopping,
    /// A row holds what this version cannot read.
    #[error("could not {doing}: the stored `{column}` is not readable: {problem}")]
    Corrupt {
        /// The verb and its object.
        doing: &'static str,
        /// The column.
        column: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// An error that all calls of a batch share.
pub type SharedError = Arc<StoreError>;

impl StoreError {
    /// Wraps an error of sqlx with what was tried.
    pub(crate) fn doing(doing: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |source| match Fault::in_sqlx(&source) {
            Some(fault) => Self::Connection { doing, fault: fault.clone() },
            None => Self::Database { doing, source },
        }
    }

    /// The SQLSTATE, if the database itself refused.
    #[must_use]
    pub fn sqlstate(&self) -> Option<String> {
        match self {
            Self::Database { source, .. } => {
                source.as_database_error().and_then(DatabaseError::code).map(Cow::into_owned)
            }
            Self::Connection { .. } | Self::Held { .. } | Self::Stopping | Self::Corrupt { .. } => None,
        }
    }

    /// Whether the session that got this error must be closed.
    pub(super) fn ends_session(&self) -> bool {
        match self {
            Self::Database { source, .. } => ends_session(source),
            Self::Connection { .. } => true,
            Self::Held { .. } | Self::Stopping | Self::Corrupt { .. } => false,
        }
    }

    /// Whether the data of one row is at fault, so that a batch is worth splitting (classes 22 and 23).
    #[must_use]
    pub fn is_data_error(&self) -> bool {
        self.sqlstate().is_some_and(|state| state.starts_with("22") || state.starts_with("23"))
    }

    /// Whether a key that must be unique existed already.
    #[must_use]
    pub fn is_duplicate_key(&self) -> bool {
        self.sqlstate().is_some_and(|state| state == "23505")
    }

    /// Whether another open transaction held a row for longer than we wait.
    #[must_use]
    pub fn is_lock_timeout(&self) -> bool {
        matches!(self, Self::Held { .. }) || self.sqlstate().is_some_and(|state| state == "55P03")
    }

    /// Whether one row of a batch is at fault, by its data or because another transaction holds it.
    #[must_use]
    pub fn is_of_one_row(&self) -> bool {
        self.is_data_error() || self.is_lock_timeout()
    }

    /// Whether our tables are missing.
    #[must_use]
    pub fn is_schema_missing(&self) -> bool {
        // No such table, no such function.
        self.sqlstate().is_some_and(|state| state == "42P01" || state == "42883")
    }

    /// Whether the same statement may succeed later: no answer came, or the database was busy, out of a
    /// resource, going down, or read-only after a failover (classes 08, 40, 53, 55, 57 and what [`Remedy`]
    /// names).
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connection { fault, .. } => fault.is_passing(),
            Self::Held { .. } => true,
            Self::Database { .. } => match self.sqlstate() {
                Some(state) => {
                    ["08", "40", "53", "55", "57"].iter().any(|class| state.starts_with(class))
                        // Read-only; a transaction that broke off; a statement or a plan that is gone.
                        || ["25006", "25P03", "26000", "0A000"].contains(&state.as_str())
                }
                None => true,
            },
            Self::Stopping | Self::Corrupt { .. } => false,
        }
    }

    /// What a caller or an operator does about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        if self.is_schema_missing() {
            return Remedy::Migrate;
        }
        match self {
            Self::Connection { fault, .. } if !fault.is_passing() => Remedy::Configure,
            Self::Connection { .. } | Self::Held { .. } | Self::Stopping => Remedy::Repeat,
            Self::Corrupt { .. } => Remedy::Mend("a stored row cannot be read"),
            Self::Database { source, .. } => match self.sqlstate().as_deref() {
                Some("25006") => Remedy::Mend("the database is read-only"),
                Some("42501") if is_row_security(source) => {
                    Remedy::Mend("row-level security is enabled on a table of the schema")
                }
                Some("42501") => {
                    Remedy::Mend("the role lacks a right; `warmproof migrate --roles` grants them")
                }
                Some("23514") if is_missing_partition(source) => {
                    Remedy::Mend("`outcome` has no partition for today; a running worker or api makes it")
                }
                // The session's own objects are gone, or belong to another client.
                Some("26000" | "42P05") => Remedy::Mend(
                    "a pooler assigns connections per transaction: set WARMPROOF_DATABASE_POOLER=true",
                ),
                Some("55000") if is_missing_identity(source) => {
                    Remedy::Mend("a publication for all tables holds a table without replica identity")
                }
                _ => Remedy::Repeat,
            },
        }
    }

    /// What is wrong, without an address or any other detail that belongs only in the log.
    #[must_use]
    pub fn in_public(&self) -> String {
        match (self.remedy(), self) {
            (Remedy::Migrate, _) => "the schema is missing: run `warmproof migrate`".to_owned(),
            (Remedy::Configure, _) => {
                "the database does not let this process in: check WARMPROOF_DATABASE_URL; see the log"
                    .to_owned()
            }
            (Remedy::Mend(what), _) => what.to_owned(),
            (Remedy::Repeat, Self::Connection { fault: Fault::NoAnswer { .. }, .. }) => {
                "the database does not answer".to_owned()
            }
            (Remedy::Repeat, Self::Connection { fault: Fault::NoneFree { .. }, .. }) => {
                "all connections to the database are in use".to_owned()
            }
            (Remedy::Repeat, Self::Database { .. }) if self.sqlstate().is_some() => {
                "the database refused a query; see the log".to_owned()
            }
            (Remedy::Repeat, _) => "the database cannot be reached".to_owned(),
        }
    }

    fn is_deadlock(&self) -> bool {
        self.sqlstate().is_some_and(|state| state == "40P01")
    }
}

/// What helps against an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The same call again.
    Repeat,
    /// `warmproof migrate`.
    Migrate,
    /// Another configuration: the database is there, and refuses the login.
    Configure,
    /// An operator's action at the database; the text names what is wrong.
    Mend(&'static str),
}

/// A row policy and a missing right share one SQLSTATE (42501), and only this text distinguishes them.
fn is_row_security(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.message().contains("row-level security"))
}

/// A violated check has a constraint's name; a row without a partition has none.
fn is_missing_partition(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.constraint().is_none())
}

/// This one has no SQLSTATE of its own, either.
fn is_missing_identity(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.message().contains("replica identity"))
}

/// Runs a statement that writes nothing when its wait for a row fails. A patient one first tries with a short
/// wait: rows are hardly ever held, and the session's own settings cost no round trip.
pub(crate) async fn patiently<T, F>(
    lock_wait: LockWait,
    mut run: impl FnMut(LockWait) -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    if lock_wait != LockWait::Patient {
        return run(lock_wait).await;
    }
    match run(LockWait::Short).await {
        Err(error) if error.is_lock_timeout() => run(lock_wait).await,
        answer => answer,
    }
}

/// Runs a statement, and once more when the database chose it as a deadlock's victim.
///
/// Batches lock in the order of run ids, so two of ours never deadlock. A caller's own
/// transaction may still lock in another order.
pub(crate) async fn again_on_deadlock<T, F>(mut run: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    match run().await {
        Err(error) if error.is_deadlock() => run().await,
        answer => answer,
    }
}

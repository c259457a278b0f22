//! What can go wrong between us and the database, by what a caller does about it.

use std::borrow::Cow;
use std::future::Future;

use sqlx::error::DatabaseError;

/// A statement that did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused, broke off or could not be reached.
    #[error("could not {doing}: {source}")]
    Database {
        /// The verb and its object, such as `claim verifications`.
        doing: &'static str,
        /// What sqlx says.
        source: sqlx::Error,
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

impl StoreError {
    /// Wraps an error of sqlx with what was tried.
    pub(crate) fn doing(doing: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |source| Self::Database { doing, source }
    }

    /// The SQLSTATE, when the database itself refused.
    #[must_use]
    pub fn sqlstate(&self) -> Option<String> {
        match self {
            Self::Database { source, .. } => {
                source.as_database_error().and_then(DatabaseError::code).map(Cow::into_owned)
            }
            Self::Stopping | Self::Corrupt { .. } => None,
        }
    }

    /// Whether the data of one row is at fault, so that a batch is worth splitting (classes 22 and 23).
    #[must_use]
    pub fn is_data_error(&self) -> bool {
        self.sqlstate().is_some_and(|state| state.starts_with("22") || state.starts_with("23"))
    }

    /// Whether a key that must be unique stood there already.
    #[must_use]
    pub fn is_duplicate_key(&self) -> bool {
        self.sqlstate().is_some_and(|state| state == "23505")
    }

    /// Whether somebody else's open transaction held a row for longer than we wait.
    #[must_use]
    pub fn is_lock_timeout(&self) -> bool {
        self.sqlstate().is_some_and(|state| state == "55P03")
    }

    /// Whether one row of a batch is at fault, by its data or because somebody holds it.
    #[must_use]
    pub fn is_of_one_row(&self) -> bool {
        self.is_data_error() || self.is_lock_timeout()
    }

    /// Whether our tables are not there.
    #[must_use]
    pub fn is_schema_missing(&self) -> bool {
        // No such table, no such function.
        self.sqlstate().is_some_and(|state| state == "42P01" || state == "42883")
    }

    /// Whether the same statement may succeed later: no answer came, or the database was busy,
    /// short of something, or going down (classes 08, 40, 53, 55 and 57).
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self.sqlstate() {
            Some(state) => ["08", "40", "53", "55", "57"].iter().any(|class| state.starts_with(class)),
            None => matches!(self, Self::Database { .. }),
        }
    }

    fn is_deadlock(&self) -> bool {
        self.sqlstate().is_some_and(|state| state == "40P01")
    }
}

/// Runs a statement, and once more when it was chosen as a deadlock's victim.
///
/// Batches lock in the order of run ids, so two of ours never deadlock; a caller's own
/// transaction may still meet us in another order.
pub(crate) async fn again_on_deadlock<T, F>(mut run: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    match run().await {
        Err(error) if error.is_deadlock() => run().await,
        answer => answer,
    }
}

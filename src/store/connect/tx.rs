//! Tx: one session while a unit of work has it, and the statements that the unit sends.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _, TryFutureExt as _, TryStreamExt as _};
use sqlx::postgres::{PgArguments, PgConnection, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{AssertSqlSafe, Either, Execute, Executor, Postgres, SqlStr};
use tokio::time::timeout;

use super::Fault;
use super::session::Session;

/// Everything that a statement answered.
pub(super) type Done = sqlx::Result<Vec<Either<PgQueryResult, PgRow>>>;

/// A transaction that is under way, for the statements of its work.
pub struct Tx {
    session: Session,
    /// Whether statements may be prepared by name, which outlives the transaction.
    named: bool,
    /// How long each of them may take, by our own clock.
    limit: Duration,
}

impl std::fmt::Debug for Tx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx").field("named", &self.named).finish_non_exhaustive()
    }
}

impl Tx {
    pub(super) fn new(session: Session, named: bool, limit: Duration) -> Self {
        Self { session, named, limit }
    }

    /// Sends a text without parameters, such as `commit`.
    pub(super) async fn simple(&mut self, text: String) -> sqlx::Result<()> {
        let (connection, limit) = self.connection()?;
        within(limit, sqlx::raw_sql(AssertSqlSafe(text)).execute(connection)).await.map(drop)
    }

    /// Executes one statement, to the end of what it answers.
    pub(super) async fn query(
        &mut self,
        sql: SqlStr,
        arguments: Option<PgArguments>,
        persistent: bool,
    ) -> Done {
        let (connection, limit) = self.connection()?;
        let done = async {
            match arguments {
                Some(arguments) => {
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "a checked query, taken apart to outlive its caller"
                    )]
                    let query = sqlx::query_with(sql, arguments).persistent(persistent);
                    connection.fetch_many(query).try_collect().await
                }
                None => connection.fetch_many(sqlx::raw_sql(sql)).try_collect().await,
            }
        };
        within(limit, done).await
    }

    fn connection(&mut self) -> sqlx::Result<(&mut PgConnection, Duration)> {
        let limit = self.limit;
        let connection = self.session.connection().ok_or_else(|| Fault::Broken.into_sqlx())?;
        Ok((connection, limit))
    }

    pub(super) fn give_back(self) {
        self.session.give_back();
    }
}

impl<'c> Executor<'c> for &'c mut Tx {
    type Database = Postgres;

    fn fetch_many<'e, 'q, E>(self, mut query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        'q: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let (arguments, persistent) = (query.take_arguments(), query.persistent() && self.named);
        let sql = query.sql();
        let rows = async move {
            let arguments = arguments.map_err(sqlx::Error::Encode)?;
            let rows = self.query(sql, arguments, persistent).await?;
            Ok(stream::iter(rows.into_iter().map(Ok)))
        };
        rows.try_flatten_stream().boxed()
    }

    fn fetch_optional<'e, 'q, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        'q: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        first_row(self.fetch_many(query)).boxed()
    }

    fn prepare_with<'e>(
        self,
        _sql: SqlStr,
        _parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        async { Err(not_here()) }.boxed()
    }

    fn describe<'e>(self, _sql: SqlStr) -> BoxFuture<'e, sqlx::Result<sqlx::Describe<Postgres>>>
    where
        'c: 'e,
    {
        async { Err(not_here()) }.boxed()
    }
}

/// One round trip, or several, under one deadline.
async fn within<T>(limit: Duration, done: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    timeout(limit, done).await.unwrap_or_else(|_elapsed| Err(Fault::NoAnswer { after: limit }.into_sqlx()))
}

/// A prepared statement belongs to a session, and none outlives its unit here.
pub(super) fn not_here() -> sqlx::Error {
    sqlx::Error::InvalidArgument("statements are prepared where they are executed".to_owned())
}

/// The first row of an answer, once all of it is there.
pub(super) async fn first_row(
    mut rows: BoxStream<'_, sqlx::Result<Either<PgQueryResult, PgRow>>>,
) -> sqlx::Result<Option<PgRow>> {
    let mut first = None;
    // To the end: an error may follow the first row.
    while let Some(row) = rows.try_next().await? {
        if let Either::Right(row) = row {
            first.get_or_insert(row);
        }
    }
    Ok(first)
}

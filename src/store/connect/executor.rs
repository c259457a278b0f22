//! Executor: runs a checked query as a unit of its own, as if on a pool of the driver's.
//!
//! A query borrows from its caller, but what it sends does not. So the executor takes it apart into text and
//! arguments, which the unit's task owns.

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _, TryFutureExt as _};
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Either, Execute, Executor, Postgres, SqlStr};

use super::Terms;
use super::db::Db;
use super::tx::{first_row, not_here};

/// Executes one statement as a unit of its own.
#[derive(Debug, Clone, Copy)]
pub struct On<'c> {
    db: &'c Db,
    terms: Terms,
}

impl Db {
    /// An executor for one statement on these terms.
    #[must_use]
    pub fn on(&self, terms: Terms) -> On<'_> {
        On { db: self, terms }
    }
}

impl<'c> Executor<'c> for On<'c> {
    type Database = Postgres;

    fn fetch_many<'e, 'q, E>(self, mut query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        'q: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let (arguments, persistent) = (query.take_arguments(), query.persistent());
        let sql = query.sql();
        let rows = async move {
            let arguments = arguments.map_err(sqlx::Error::Encode)?;
            let rows = self.db.statement(self.terms, sql, arguments, persistent).await?;
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
        async { Err(sqlx::Error::InvalidArgument("statements are described by their own test".to_owned())) }
            .boxed()
    }
}

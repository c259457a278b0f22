//! Executor: lets a checked query run as a unit of its own, as if on a pool of the driver's.
//!
//! A query borrows from its caller; what it sends does not. So it is taken apart into text and arguments, which
//! the unit's task owns.

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _, TryFutureExt as _, TryStreamExt as _};
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Either, Execute, Executor, Postgres, SqlStr};

use super::{Db, Terms};

/// Executes one statement as a unit of its own.
#[derive(Debug, Clone, Copy)]
pub struct On<'c> {
    db: &'c Db,
    terms: Terms,
}

impl<'c> On<'c> {
    pub(super) fn new(db: &'c Db, terms: Terms) -> Self {
        Self { db, terms }
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
        let mut rows = self.fetch_many(query);
        async move {
            while let Some(row) = rows.try_next().await? {
                if let Either::Right(row) = row {
                    return Ok(Some(row));
                }
            }
            Ok(None)
        }
        .boxed()
    }

    fn prepare_with<'e>(
        self,
        _sql: SqlStr,
        _parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        // A prepared statement belongs to a session, and none outlives its unit here.
        async {
            Err(sqlx::Error::InvalidArgument("statements are prepared where they are executed".to_owned()))
        }
        .boxed()
    }

    fn describe<'e>(self, _sql: SqlStr) -> BoxFuture<'e, sqlx::Result<sqlx::Describe<Postgres>>>
    where
        'c: 'e,
    {
        async { Err(sqlx::Error::InvalidArgument("statements are described by their own test".to_owned())) }
            .boxed()
    }
}

impl<'c> Executor<'c> for &'c Db {
    type Database = Postgres;

    fn fetch_many<'e, 'q, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        'q: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.on(Terms::DURABLE).fetch_many(query)
    }

    fn fetch_optional<'e, 'q, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        'q: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.on(Terms::DURABLE).fetch_optional(query)
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        self.on(Terms::DURABLE).prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<sqlx::Describe<Postgres>>>
    where
        'c: 'e,
    {
        self.on(Terms::DURABLE).describe(sql)
    }
}

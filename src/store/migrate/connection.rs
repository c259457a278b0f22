//! Lets refinery work on a connection of sqlx.

use refinery_core::Migration;
use refinery_core::traits::r#async::{AsyncMigrate, AsyncQuery, AsyncTransaction};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The first line of a migration that cannot run in a transaction, such as `create index concurrently`.
/// Such a file holds one statement that can be repeated; see `migrations/README.md`.
const NO_TRANSACTION: &str = "-- refinery:no-transaction";

/// How long a migration may wait for a table that others use. While it waits, every later statement on that
/// table waits behind it; giving up and running again costs less than an outage.
const LOCK_TIMEOUT: &str = "set local lock_timeout to '5s'";

/// A connection that refinery can migrate.
pub(super) struct MigrationConnection<'c>(pub(super) &'c mut PgConnection);

/// What can go wrong on it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("the entry of version {version} has `{value}` as its {column}")]
    Entry { version: i64, column: &'static str, value: String },
}

impl AsyncTransaction for MigrationConnection<'_> {
    type Error = ConnectionError;

    /// Runs the statements of one migration and its history entry, all or nothing where that is possible.
    async fn execute<'a, T: Iterator<Item = &'a str> + Send + 'a>(
        &'a mut self,
        statements: T,
    ) -> Result<usize, ConnectionError> {
        let statements: Vec<String> = statements.map(ToOwned::to_owned).collect();
        let count = statements.len();
        if statements.first().is_some_and(|first| first.starts_with(NO_TRANSACTION)) {
            for statement in statements {
                sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *self.0).await?;
            }
            return Ok(count);
        }
        let mut tx = self.0.begin().await?;
        sqlx::raw_sql(LOCK_TIMEOUT).execute(&mut *tx).await?;
        for statement in statements {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(count)
    }
}

impl AsyncQuery<Vec<Migration>> for MigrationConnection<'_> {
    #[expect(
        clippy::disallowed_methods,
        reason = "refinery writes this query, with the history's name in it"
    )]
    async fn query<'a>(&'a mut self, query: &'a str) -> Result<Vec<Migration>, ConnectionError> {
        let rows =
            sqlx::query(AssertSqlSafe(query.to_owned())).persistent(false).fetch_all(&mut *self.0).await?;
        rows.iter().map(parse_entry).collect()
    }
}

impl AsyncMigrate for MigrationConnection<'_> {}

/// The history keeps an instant and a number as text, and any client may have written it.
fn parse_entry(row: &sqlx::postgres::PgRow) -> Result<Migration, ConnectionError> {
    let version: i64 = row.try_get("version")?;
    let wrong = |column: &'static str, value: &str| ConnectionError::Entry {
        version,
        column,
        value: value.to_owned(),
    };
    let applied_on: String = row.try_get("applied_on")?;
    let checksum: String = row.try_get("checksum")?;
    Ok(Migration::applied(
        version,
        row.try_get("name")?,
        OffsetDateTime::parse(&applied_on, &Rfc3339).map_err(|_| wrong("applied_on", &applied_on))?,
        checksum.parse().map_err(|_| wrong("checksum", &checksum))?,
    ))
}

//! Brings a database's schema to what this program needs.
//!
//! The migrations are embedded; refinery orders and records them, on the same connection as everything
//! else. One process at a time migrates a schema, others wait for it. Everything, the history
//! included, is in one schema, so that several can share a database.
//!
//! A rolling upgrade runs old programs on a new schema. So a database that is *ahead* of the program is
//! accepted up to [`MIGRATIONS_AHEAD_MAX`] migrations, on the promise of `migrations/README.md`: a
//! change that old programs cannot live with comes at least one release after the one that made it
//! unneeded. Anything else that does not fit, such as an edited migration, is refused.

use std::time::{Duration, Instant};

use refinery::Runner;
use refinery_core::{AsyncMigrate as _, Migration};
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::time::timeout;

mod connection;
mod error;
mod fit;
mod roles;
mod schema_name;
#[cfg(test)]
mod tests;

pub use error::MigrateError;
pub use schema_name::{InvalidSchemaName, SchemaName};

use super::connect::{Connector, Fault};
use connection::MigrationConnection;
use error::chain;
use fit::Fit;

/// How many migrations a database may have that this program does not know.
///
/// No release brings more than this many, so the release before it still starts on its schema. When the
/// limit is too high, a long outdated program works on a schema it misunderstands; when it is too low, old
/// workers cannot restart during an upgrade.
pub const MIGRATIONS_AHEAD_MAX: usize = 10;

/// The table of applied migrations, in the schema itself.
const HISTORY: &str = "refinery_schema_history";

/// How long it may take to read what was applied, or to ask for the lock.
const PLAN_MAX: Duration = Duration::from_secs(15);
/// How often a waiting process tries to take the lock.
const TURN_POLL: Duration = Duration::from_millis(100);
/// How often a waiting process logs that it still waits.
const TURN_NOTICE: Duration = Duration::from_secs(10);

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// What a migration run did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct MigrationReport {
    /// The migrations this run applied, in order, such as `V1__initial`.
    pub applied: Vec<String>,
    /// The version of the schema now; 0 when there are no migrations at all.
    pub version: i64,
    /// How many migrations the schema has that this program does not know.
    pub ahead: usize,
}

/// What a migration run would do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct MigrationPlan {
    /// The migrations that are not applied, in order.
    pub pending: Vec<String>,
    /// The version of the schema now; 0 when nothing was applied yet.
    pub version: i64,
    /// How many migrations the schema has that this program does not know.
    pub ahead: usize,
}

/// Brings `schema` up to date, making it when it is missing. Waits while another process does the same.
///
/// Needs a session of its own: not through a pooler that assigns connections per transaction.
pub async fn migrate(connector: impl Into<Connector>, schema: &str) -> Result<MigrationReport, MigrateError> {
    migrate_with(connector, schema, embedded::migrations::runner().get_migrations()).await
}

/// Brings `schema` up to date like [`migrate`], makes missing roles, and grants each its minimum of rights.
///
/// Roles belong to the whole server. They cannot log in; the operator grants them to logins. Answers their
/// names. From then on every [`migrate`] works as the owner and keeps the grants up to date.
pub async fn migrate_with_roles(
    connector: impl Into<Connector>,
    schema: &str,
) -> Result<(MigrationReport, Vec<String>), MigrateError> {
    let schema = SchemaName::parse(schema)?;
    let migrations = embedded::migrations::runner();
    let failed = |source| MigrateError::Database { schema: schema.to_string(), source };
    let names = roles::names(&schema)?;
    let mut db = connect_alone(connector, &schema).await?;
    take_turn(&mut db, &schema).await.map_err(failed)?;
    let result = async {
        let report = migrate_locked(&mut db, &schema, migrations.get_migrations()).await?;
        roles::create(&mut db).await.map_err(|source| match source {
            source if is_refused(&source) => {
                MigrateError::RolesRefused { schema: schema.to_string(), source }
            }
            source => failed(source),
        })?;
        Ok((report, names.to_vec()))
    }
    .await;
    let _ = db.close().await;
    result
}

/// What [`migrate`] would do. Changes nothing, and waits for no other process.
pub async fn plan(connector: impl Into<Connector>, schema: &str) -> Result<MigrationPlan, MigrateError> {
    plan_with(connector, schema, embedded::migrations::runner().get_migrations()).await
}

/// Checks that this program can work on the schema as it is.
pub async fn check(connector: impl Into<Connector>, schema: &str) -> Result<MigrationPlan, MigrateError> {
    let plan = plan(connector, schema).await?;
    if plan.pending.is_empty() {
        return Ok(plan);
    }
    Err(MigrateError::Behind { schema: schema.to_owned(), pending: plan.pending })
}

/// What makes and grants the roles, with the schema first in the search path.
pub fn roles_sql() -> [&'static str; 2] {
    [roles::CREATE, roles::GRANT]
}

/// Every embedded migration, in order: its name and its text.
pub fn sql() -> Vec<(String, String)> {
    let runner = embedded::migrations::runner();
    let mut all: Vec<&Migration> = runner.get_migrations().iter().collect();
    all.sort();
    all.into_iter().map(|one| (one.to_string(), one.sql().unwrap_or_default().to_owned())).collect()
}

/// A session of our own: not one of a pooler, and not one that others share.
async fn connect(connector: impl Into<Connector>, schema: &SchemaName) -> Result<PgConnection, MigrateError> {
    let fault = |fault| MigrateError::Connection { schema: schema.to_string(), fault };
    connector.into().connect_bare().await.map_err(fault)
}

/// As [`connect`], for what changes the schema.
async fn connect_alone(
    connector: impl Into<Connector>,
    schema: &SchemaName,
) -> Result<PgConnection, MigrateError> {
    let connector = connector.into();
    let fault = |fault| MigrateError::Connection { schema: schema.to_string(), fault };
    let pooler = || MigrateError::Pooler { schema: schema.to_string() };
    if connector.settings().pooler() {
        return Err(pooler());
    }
    connector.own_session().await.map_err(fault)?.ok_or_else(pooler)
}

/// The login lacks a right.
fn is_refused(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "42501")
}

async fn migrate_with(
    connector: impl Into<Connector>,
    schema: &str,
    migrations: &[Migration],
) -> Result<MigrationReport, MigrateError> {
    let schema = SchemaName::parse(schema)?;
    let failed = |source| MigrateError::Database { schema: schema.to_string(), source };
    let mut db = connect_alone(connector, &schema).await?;
    take_turn(&mut db, &schema).await.map_err(failed)?;
    let result = migrate_locked(&mut db, &schema, migrations).await;
    // Ends the session and with it our lock. A failure to close it cleanly ends it as well.
    let _ = db.close().await;
    result
}

/// Waits until no other process migrates this schema. The lock ends with the session, even by SIGKILL.
///
/// Polls on purpose. A statement that waits holds a snapshot, and `create index concurrently` in the
/// process that has the lock would wait for that snapshot: a deadlock.
async fn take_turn(db: &mut PgConnection, schema: &SchemaName) -> Result<(), sqlx::Error> {
    let (key, began) = (turn_key(schema), Instant::now());
    let mut notice = TURN_NOTICE;
    loop {
        let asked = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "is_ours!""#, key);
        let is_ours: bool = timeout(PLAN_MAX, asked.fetch_one(&mut *db))
            .await
            .unwrap_or_else(|_elapsed| Err(Fault::NoAnswer { after: PLAN_MAX }.into_sqlx()))?;
        if is_ours {
            return Ok(());
        }
        if began.elapsed() >= notice {
            tracing::info!(schema = %schema, waited = ?began.elapsed(), "waiting for another process to migrate");
            notice += TURN_NOTICE;
        }
        tokio::time::sleep(TURN_POLL).await;
    }
}

/// Two schemas of one database migrate side by side; the same name in another database is another lock.
fn turn_key(schema: &SchemaName) -> i64 {
    let digest = Sha256::digest(format!("warmproof migrations of {schema}"));
    let (head, _) = digest.split_first_chunk::<8>().expect("a digest has 32 bytes");
    i64::from_be_bytes(*head)
}

async fn migrate_locked(
    db: &mut PgConnection,
    schema: &SchemaName,
    migrations: &[Migration],
) -> Result<MigrationReport, MigrateError> {
    let failed = |source| MigrateError::Database { schema: schema.to_string(), source };
    let quoted = schema.quoted();
    // Asked first, because `if not exists` needs the right to make schemas even where the schema exists.
    // Temporary tables come last in the path, which functions keep, so that no other session's table can
    // replace one of ours.
    let prepare = format!(
        "do $$ begin if to_regnamespace('{quoted}') is null then create schema {quoted}; end if; end $$; \
         set search_path to {quoted}, pg_temp; \
         set statement_timeout to 0; \
         set client_min_messages to warning"
    );
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut *db).await.map_err(failed)?;
    let owner = roles::owner_in_use(db, schema).await.map_err(failed)?;
    if let Some(owner) = &owner {
        roles::become_owner(db, owner).await.map_err(failed)?;
    }
    let report = apply(db, schema, migrations).await?;
    if owner.is_some() {
        roles::grant(db).await.map_err(failed)?;
    }
    Ok(report)
}

async fn apply(
    db: &mut PgConnection,
    schema: &SchemaName,
    migrations: &[Migration],
) -> Result<MigrationReport, MigrateError> {
    let before = fit(db, schema, migrations).await?;
    if before.pending.is_empty() {
        return Ok(MigrationReport { applied: Vec::new(), version: before.version, ahead: before.ahead });
    }
    // `Fit` judges missing ones: it knows that a newer program may have migrated this schema.
    let runner =
        Runner::new(migrations).set_grouped(false).set_abort_divergent(true).set_abort_missing(false);
    let report = runner.run_async(&mut MigrationConnection(db)).await;
    let report = report
        .map_err(|source| MigrateError::Failed { schema: schema.to_string(), source: source.into() })?;
    let applied = report.applied_migrations();
    Ok(MigrationReport {
        applied: applied.iter().map(ToString::to_string).collect(),
        version: applied.last().map_or(before.version, Migration::version),
        ahead: before.ahead,
    })
}

async fn plan_with(
    connector: impl Into<Connector>,
    schema: &str,
    migrations: &[Migration],
) -> Result<MigrationPlan, MigrateError> {
    let schema = SchemaName::parse(schema)?;
    timeout(PLAN_MAX, plan_of(connector, &schema, migrations)).await.unwrap_or_else(|_elapsed| {
        let fault = Fault::NoAnswer { after: PLAN_MAX };
        Err(MigrateError::Connection { schema: schema.to_string(), fault })
    })
}

async fn plan_of(
    connector: impl Into<Connector>,
    schema: &SchemaName,
    migrations: &[Migration],
) -> Result<MigrationPlan, MigrateError> {
    let mut db = connect(connector, schema).await?;
    // In one transaction, which even a pooler keeps in one session.
    let failed = |source| MigrateError::Database { schema: schema.to_string(), source };
    sqlx::raw_sql("begin").execute(&mut db).await.map_err(failed)?;
    let found = fit(&mut db, schema, migrations).await;
    let _ = sqlx::raw_sql("rollback").execute(&mut db).await;
    let _ = db.close().await;
    let found = found?;
    Ok(MigrationPlan { pending: found.pending, version: found.version, ahead: found.ahead })
}

/// Compares what was applied with what this program has.
async fn fit(
    db: &mut PgConnection,
    schema: &SchemaName,
    migrations: &[Migration],
) -> Result<Fit, MigrateError> {
    let failed = |source| MigrateError::Database { schema: schema.to_string(), source };
    let history = format!("{}.{HISTORY}", schema.quoted());
    let exists: bool = sqlx::query_scalar!(r#"select to_regclass($1) is not null as "exists!""#, history)
        .persistent(false)
        .fetch_one(&mut *db)
        .await
        .map_err(failed)?;
    let applied = if exists {
        let read = MigrationConnection(db).get_applied_migrations(&history).await;
        read.map_err(|error| history_error(schema, &error))?
    } else {
        Vec::new()
    };
    fit::judge(schema, &applied, migrations)
}

fn history_error(schema: &SchemaName, error: &refinery::Error) -> MigrateError {
    MigrateError::History { schema: schema.to_string(), problem: chain(error) }
}

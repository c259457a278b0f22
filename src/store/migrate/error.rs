//! Why a schema could not be brought to what this program needs, and what to do.

use super::{InvalidSchemaName, MIGRATIONS_AHEAD_MAX};
use crate::store::connect::Fault;

/// The schema could not be brought to, or is not at, what this program needs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// The name cannot be a schema's.
    #[error(transparent)]
    Name(#[from] InvalidSchemaName),
    /// The database could not be reached or did not answer as expected.
    #[error("could not migrate schema `{schema}`: {source}")]
    Database {
        /// The schema's name.
        schema: String,
        /// The error of the database.
        source: sqlx::Error,
    },
    /// No server accepted the login.
    #[error("could not reach schema `{schema}`: {fault}")]
    Connection {
        /// The schema's name.
        schema: String,
        /// Which server, and why.
        fault: Fault,
    },
    /// A session is not ours alone.
    #[error(
        "could not migrate schema `{schema}`: the address leads to a pooler that assigns connections per transaction, and a migration needs a session of its own\nhint: run this command with a WARMPROOF_DATABASE_URL that leads to the server itself, and without WARMPROOF_DATABASE_POOLER"
    )]
    Pooler {
        /// The schema's name.
        schema: String,
    },
    /// The server does not let us make roles.
    #[error(
        "could not make roles for schema `{schema}`: {source}\nhint: grant the login that migrates what it lacks: `alter role LOGIN createrole` (PostgreSQL 16 and newer; before, also `grant create on database DATABASE to LOGIN`), or have an administrator run what `warmproof migrate --sql --roles` prints"
    )]
    RolesRefused {
        /// The schema's name.
        schema: String,
        /// The error of the database.
        source: sqlx::Error,
    },
    /// One migration failed; it was rolled back whole, and earlier ones stay.
    #[error(
        "could not migrate schema `{schema}`: {}\nhint: nothing of that migration was kept unless it is a no-transaction one; fix the cause and run `warmproof migrate` again",
        chain(source)
    )]
    Failed {
        /// The schema's name.
        schema: String,
        /// Which migration, and the error of the database.
        source: Box<refinery::Error>,
    },
    /// The history holds an entry that cannot be read.
    #[error("could not read the migration history of schema `{schema}`: {problem}")]
    History {
        /// The schema's name.
        schema: String,
        /// Which entry, and what is wrong with it.
        problem: String,
    },
    /// An applied migration differs from the embedded one of its version.
    #[error(
        "could not migrate schema `{schema}`: migration `{applied}` was applied with another text or name than this program's `{embedded}`\nhint: an applied migration must never change; run the program that applied it, or undo the edit"
    )]
    Divergent {
        /// The schema's name.
        schema: String,
        /// What the history holds.
        applied: String,
        /// What this program has.
        embedded: String,
    },
    /// The schema lacks a migration below its version, or has one that this program never had.
    #[error(
        "could not migrate schema `{schema}`: migration `{migration}` is {problem}\nhint: the schema was migrated by a program of another line; compare with `warmproof migrate --plan`"
    )]
    OutOfLine {
        /// The schema's name.
        schema: String,
        /// Which migration.
        migration: String,
        /// What does not fit about it.
        problem: &'static str,
    },
    /// The names of roles, which begin with the schema's, would be cut off.
    #[error(
        "could not name roles for schema `{schema}`: `{role}` is longer than 63 bytes\nhint: choose a shorter name for the schema"
    )]
    RoleName {
        /// The schema's name.
        schema: String,
        /// The role's name.
        role: String,
    },
    /// The schema is too new for this program.
    #[error(
        "could not use schema `{schema}`: it is {ahead} migrations ahead of this program, at most {MIGRATIONS_AHEAD_MAX} are safe\nhint: upgrade this program"
    )]
    TooFarAhead {
        /// The schema's name.
        schema: String,
        /// By how many.
        ahead: usize,
    },
    /// The schema is too old for this program.
    #[error("could not use schema `{schema}`: {} migrations are missing, the first is `{}`\nhint: run `warmproof migrate`", pending.len(), pending.first().map_or("", String::as_str))]
    Behind {
        /// The schema's name.
        schema: String,
        /// What is missing.
        pending: Vec<String>,
    },
}

/// An error with its causes: refinery keeps the database's error one level down.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    let mut text = error.to_string();
    for cause in causes.map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

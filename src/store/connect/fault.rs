//! Fault: what is wrong with a connection, in words that a person can act on.
//!
//! The driver reports "error communicating with database"; this module names the server, the system's own
//! error and the remedy. No text holds a password or a parameter's value.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "errors of libraries, of which only some have words of their own here"
)]

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use crate::config::database::address::{Address, AddressError};

use super::tls;

/// Why there is no connection, or why it was given up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No server of the address accepted the login.
    #[error("{}{}", .problems.join("; "), in_brackets(.hint.as_deref()))]
    Connect {
        /// A sentence for each server that was tried.
        problems: Vec<String>,
        /// What to do, where that is known.
        hint: Option<String>,
        /// Whether trying later may help.
        passing: bool,
    },
    /// All connections were in use for too long.
    #[error(
        "no connection became free within {} ms: raise WARMPROOF_DATABASE_CONNECTIONS_MAX, or see what holds them",
        waited.as_millis()
    )]
    NoneFree {
        /// How long the caller waited.
        waited: Duration,
    },
    /// The server did not answer in time. What was asked may have been done.
    #[error("the database did not answer within {} ms; the connection was dropped", after.as_millis())]
    NoAnswer {
        /// How long the caller waited.
        after: Duration,
    },
    /// The process is stopping.
    #[error("the process is stopping: repeat the call elsewhere")]
    Stopping,
    /// A defect of ours ended the unit of work.
    #[error("the work on the database ended without an answer")]
    Broken,
}

fn in_brackets(text: Option<&str>) -> String {
    text.map(|text| format!(" ({text})")).unwrap_or_default()
}

impl Fault {
    /// Whether trying later may help.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connect { passing, .. } => *passing,
            Self::NoneFree { .. } | Self::NoAnswer { .. } | Self::Stopping | Self::Broken => true,
        }
    }

    /// Wraps it for callers that speak the driver's errors.
    pub(in crate::store) fn into_sqlx(self) -> sqlx::Error {
        sqlx::Error::Io(io::Error::other(self))
    }

    /// The fault inside an error of the driver, if it carries one.
    #[must_use]
    pub fn in_sqlx(error: &sqlx::Error) -> Option<&Self> {
        match error {
            sqlx::Error::Io(error) => error.get_ref()?.downcast_ref(),
            _ => None,
        }
    }

    /// The file that holds the address cannot be used.
    pub(super) fn of_address(error: &AddressError) -> Self {
        let problem = format!("WARMPROOF_DATABASE_URL {}", error.problem);
        Self::Connect { problems: vec![problem], hint: Some(error.remedy.clone()), passing: true }
    }
}

/// What one server did instead of accepting the login.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The driver's or the server's own error.
    Error(sqlx::Error),
    /// It did not accept the login within this time.
    Slow(Duration),
    /// It takes no writes, and the address asks for a server that does.
    ReadOnly,
    /// A file that the address names cannot be read.
    File {
        /// The parameter and its path.
        named: String,
        /// Why not.
        kind: io::ErrorKind,
    },
}

impl Refusal {
    /// Whether another try may end better.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Slow(_) | Self::ReadOnly => true,
            Self::Error(sqlx::Error::Database(error)) => {
                // Shutting down, starting up, too many connections, broken off; and a pooler's own refusals.
                let state = error.code().unwrap_or_default();
                ["57P", "53", "08006", "58"].iter().any(|class| state.starts_with(class))
                    || is_poolers_wait(error.message())
            }
            Self::File { .. } | Self::Error(sqlx::Error::Tls(_) | sqlx::Error::Configuration(_)) => false,
            Self::Error(error) => tls::refusal(error).is_none(),
        }
    }

    /// Whether the server knows the role, but refuses this password: a file may hold a newer one.
    pub(super) fn is_wrong_password(&self) -> bool {
        matches!(self, Self::Error(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code == "28P01"))
    }

    /// As a sentence about this server.
    pub(super) fn reported(&self, server: &str) -> String {
        format!("could not connect to {server}: {}", self.cause())
    }

    pub(super) fn cause(&self) -> String {
        match self {
            Self::File { named, kind } => format!("the file of `{named}` cannot be read: {kind}"),
            Self::Slow(after) => format!("no answer within {} ms", after.as_millis()),
            Self::ReadOnly => {
                "it takes no writes (a standby, or read-only), and `read-write` is asked for".to_owned()
            }
            Self::Error(sqlx::Error::Database(error)) => {
                let code = error.code().map(|code| format!(" ({code})")).unwrap_or_default();
                format!("{}{code}", error.message())
            }
            Self::Error(error) => match (tls::refusal(error), error) {
                (Some(text), _) => text,
                (None, sqlx::Error::Io(error)) => word_of(error),
                (None, error) => chain(error),
            },
        }
    }

    /// What to do about it, where that is known.
    pub(super) fn hint(&self, address: Option<&Address>) -> Option<String> {
        match self {
            Self::Error(sqlx::Error::Database(error)) => {
                let message = error.message();
                let text = match error.code().as_deref() {
                    Some("28P01") => {
                        "check the password in WARMPROOF_DATABASE_URL; with `file://<path>` it is read anew for each connection"
                    }
                    Some("28000") => "check user, host and encryption against the server's pg_hba.conf",
                    Some("3D000") => "check the database's name in WARMPROOF_DATABASE_URL",
                    Some("53300") => {
                        "raise the server's `max_connections`, or lower WARMPROOF_DATABASE_CONNECTIONS_MAX"
                    }
                    Some("08P01") if message.contains("startup parameter") => {
                        "add that parameter to `ignore_startup_parameters` of the pooler"
                    }
                    _ => return None,
                };
                Some(text.to_owned())
            }
            Self::Error(error) => tls::remedy(error, address),
            Self::File { .. } => {
                Some("check the path in WARMPROOF_DATABASE_URL and the file's permissions".to_owned())
            }
            Self::Slow(_) | Self::ReadOnly => None,
        }
    }
}

/// PgBouncer's temporary refusals; they share a SQLSTATE with the permanent ones.
fn is_poolers_wait(message: &str) -> bool {
    [
        "query_wait_timeout",
        "server login has been failing",
        "shutting down",
        "pgbouncer cannot connect",
        "no more connections",
    ]
    .iter()
    .any(|text| message.contains(text))
}

/// The system's own error text, without the number of the error.
fn word_of(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "no such socket (is the server running, and is this its directory?)".to_owned()
        }
        // The library has no name yet for some kinds, such as a host that no name server knows.
        kind if kind.to_string().contains("error") => chain(error),
        kind => kind.to_string(),
    }
}

/// An error with its causes on one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {inner_text}");
        }
        cause = inner.source();
    }
    text
}

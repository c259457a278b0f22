//! Why a private server did not start, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A private server could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// No usable programs were found.
    #[error(
        "could not find PostgreSQL {min} or newer: searched for `initdb` and `postgres` in {places}\n\
         hint: run `scripts/bootstrap`, or install it (`apt-get install --no-install-recommends postgresql`), \
         or set WARMPROOF_PG_BIN to the directory of the two programs"
    )]
    NoPrograms {
        /// The oldest major version that is usable.
        min: u32,
        /// The searched places, and what was wrong with the programs there.
        places: String,
    },
    /// `WARMPROOF_PG_BIN` is not a directory with PostgreSQL.
    #[error(
        "could not use WARMPROOF_PG_BIN `{}`: {problem}\n\
         hint: it must be the directory that holds `initdb` and `postgres`, such as /usr/lib/postgresql/15/bin", dir.display()
    )]
    BadPgBin {
        /// The variable's value.
        dir: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A major version that is not installed wrote the data.
    #[error(
        "could not open `{}`: its data belongs to PostgreSQL {wanted}, but here is only {found}\n\
         hint: install PostgreSQL {wanted}, or set WARMPROOF_PG_BIN to its programs, \
         or move the directory away to start empty", data.display()
    )]
    OtherMajor {
        /// The data directory.
        data: PathBuf,
        /// The major version of its data.
        wanted: String,
        /// The versions that were found.
        found: String,
    },
    /// Root must not run PostgreSQL, and there is no other account to run it.
    #[error(
        "could not start PostgreSQL as root: there is neither an account `postgres` nor `nobody`\n\
         hint: create one (`useradd --system postgres`), or run as a normal user"
    )]
    NoAccount,
    /// The unprivileged account cannot access a file.
    #[error(
        "could not run PostgreSQL as `{account}`: that account may not {need} `{}`\n\
         hint: use a place that every account can enter, such as /var/lib or /tmp, or run as a normal user", path.display()
    )]
    OutOfReach {
        /// The account that would run the server.
        account: String,
        /// The file or directory that is closed to it.
        path: PathBuf,
        /// The access that it needs.
        need: &'static str,
    },
    /// The path of a unix socket is too long: the limit is about a hundred bytes.
    #[error(
        "could not place a socket in `{}`: the path is longer than {max} bytes\n\
         hint: unset XDG_RUNTIME_DIR to use /tmp", dir.display()
    )]
    SocketPathTooLong {
        /// The socket's directory.
        dir: PathBuf,
        /// How long a socket's path may be.
        max: usize,
    },
    /// Another process uses the home and does not end.
    #[error(
        "could not open `{}`: process {pid} uses it and does not answer\n\
         hint: end that process (`kill -INT {pid}`), or use another directory", data.display()
    )]
    InUse {
        /// The data directory.
        data: PathBuf,
        /// The process that uses it.
        pid: i32,
    },
    /// A program of PostgreSQL failed.
    #[error("could not run `{program}`: {status}\n{output}\nhint: the lines above are its output")]
    Failed {
        /// Which program.
        program: String,
        /// How it ended.
        status: String,
        /// Its output.
        output: String,
    },
    /// The server ended before it was ready.
    #[error("could not start PostgreSQL: it ended with {status}\n{output}\nhint: the whole log is `{}`", log.display())]
    Died {
        /// How it ended.
        status: String,
        /// The end of its log.
        output: String,
        /// Where the rest of its log is.
        log: PathBuf,
    },
    /// The server did not become ready in time.
    #[error(
        "could not start PostgreSQL within {waited:?}\n{output}\n\
         hint: a recovery after a crash may take longer; allow more time, the log is `{}`", log.display()
    )]
    TooSlow {
        /// How long the start waited.
        waited: Duration,
        /// The end of its log.
        output: String,
        /// Where the rest of its log is.
        log: PathBuf,
    },
    /// An operation on a file or a process failed.
    #[error("could not {what}: {source}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// The system's error.
        source: io::Error,
    },
}

impl LaunchError {
    /// For `map_err`: adds what was tried to the system's error.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

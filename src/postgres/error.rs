//! Why a private server did not start, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A private server could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// No usable programs anywhere.
    #[error(
        "could not find PostgreSQL {min} or newer: looked for `initdb` and `postgres` in {places}\n\
         hint: run `scripts/bootstrap`, or install it (`apt-get install --no-install-recommends postgresql`), \
         or set WARMPROOF_PG_BIN to the directory of the two programs"
    )]
    NoPrograms {
        /// The oldest major version that will do.
        min: u32,
        /// Where we looked, and what was wrong with what was there.
        places: String,
    },
    /// `WARMPROOF_PG_BIN` does not lead to PostgreSQL.
    #[error(
        "could not use WARMPROOF_PG_BIN `{}`: {problem}\n\
         hint: it must be the directory that holds `initdb` and `postgres`, such as /usr/lib/postgresql/15/bin", dir.display()
    )]
    BadPgBin {
        /// What the variable said.
        dir: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The data was written by a major version that is not installed.
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
    /// Root must not run PostgreSQL, and there is nobody to run it for us.
    #[error(
        "could not start PostgreSQL as root: there is neither an account `postgres` nor `nobody`\n\
         hint: create one (`useradd --system postgres`), or run as a normal user"
    )]
    NoAccount,
    /// The unprivileged account cannot get at a file.
    #[error(
        "could not run PostgreSQL as `{account}`: that account may not {need} `{}`\n\
         hint: use a place that every account can enter, such as /var/lib or /tmp, or run as a normal user", path.display()
    )]
    OutOfReach {
        /// The account that is to run the server.
        account: String,
        /// The file or directory that is closed to it.
        path: PathBuf,
        /// What it would need to do with it.
        need: &'static str,
    },
    /// A unix socket's path has room for about a hundred bytes.
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
    /// Another process holds the home and does not come to an end.
    #[error(
        "could not open `{}`: process {pid} uses it and does not answer\n\
         hint: end that process (`kill -INT {pid}`), or use another directory", data.display()
    )]
    InUse {
        /// The data directory.
        data: PathBuf,
        /// Who uses it.
        pid: i32,
    },
    /// A program of PostgreSQL failed.
    #[error("could not run `{program}`: {status}\n{output}\nhint: the lines above are its own words")]
    Failed {
        /// Which program.
        program: String,
        /// How it ended.
        status: String,
        /// What it said.
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
        /// How long we waited.
        waited: Duration,
        /// The end of its log.
        output: String,
        /// Where the rest of its log is.
        log: PathBuf,
    },
    /// A file or a process could not be worked with.
    #[error("could not {what}: {source}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl LaunchError {
    /// For `map_err`: what was tried, next to what the system said.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

//! A private PostgreSQL server for the demo and the tests.
//!
//! Finds the programs of an installed PostgreSQL, keeps a data directory of its own and runs one
//! server on it that nobody else can reach: a unix socket in a directory only its account may enter.
//! The server is as durable as a real one (`fsync` stays on) and dies with the process that started
//! it, even when that process is killed. What runs in the database is no concern of this module.
//!
//! Everything here blocks the calling thread, for a second or so at most when things go well. From an
//! async task, call [`PrivatePostgres::start`] and [`PrivatePostgres::stop`] through
//! `tokio::task::spawn_blocking`; the server itself belongs to a thread of its own and survives it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::config::postgres::Discovery;

mod account;
mod cluster;
mod error;
mod home;
mod keeper;
mod launch;
mod pid_file;
mod programs;
mod temporary;
#[cfg(test)]
mod tests;

pub use error::LaunchError;

/// The oldest major version whose SQL this project uses.
pub const MAJOR_MIN: u32 = 15;

/// How long a start may take: a slow disk needs seconds for `initdb`, crash recovery some more.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// The superuser of every private server, and the database everybody connects to first.
const SUPERUSER: &str = "postgres";
const DATABASE: &str = "postgres";

/// How and where to start a private server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the data lives.
    pub home: Home,
    /// Who can reach the server.
    pub listen: Listen,
    /// Settings added to ours, as `("fsync", "off")`; the later one of a name wins.
    pub settings: Vec<(String, String)>,
    /// Where to look for programs.
    pub discovery: Discovery,
    /// How long to wait for the server to accept connections; 60 s by default.
    /// Too low and a recovery after a crash is cut off, too high and a hanging start goes unnoticed.
    pub start_timeout: Duration,
}

impl Options {
    /// Options with the defaults: socket only, our settings.
    pub fn new(home: Home, discovery: Discovery) -> Self {
        Self { home, listen: Listen::Socket, settings: Vec::new(), discovery, start_timeout: START_TIMEOUT }
    }
}

/// Where a private server keeps its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Home {
    /// In this directory, which is made when missing and stays; the next start finds the same data.
    Kept(PathBuf),
    /// In a new directory under `/tmp`, removed when the server stops; when this process is killed
    /// first, the next one that wants a temporary home removes it.
    Temporary,
}

/// Who can reach a private server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// Only those who may enter the socket's directory: the server's account and root.
    Socket,
    /// In addition every account of this machine, on a free port of `127.0.0.1` and without a password.
    /// For tests that put a faulty network in front of the server.
    SocketAndLoopback,
    /// The same on this port, for a server that is to be found again where it was.
    SocketAndPort(u16),
}

/// A running private server; dropping it stops the server.
#[derive(Debug)]
pub struct PrivatePostgres {
    /// `None` when the server was already running: then it is not ours to stop.
    keeper: Option<keeper::Keeper>,
    socket_dir: PathBuf,
    port: u16,
    listen: Listen,
    home: home::OpenHome,
    pid: i32,
    major: u32,
}

impl PrivatePostgres {
    /// Starts a server, or attaches to the one that already serves this home.
    ///
    /// An attached server is stopped by the process that started it, not by this value.
    pub fn start(options: &Options) -> Result<Self, LaunchError> {
        launch::launch(options)
    }

    /// How to connect as the superuser, through the socket.
    pub fn connect_options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.socket_dir)
            .host("localhost")
            .port(self.port)
            .username(SUPERUSER)
            .database(DATABASE)
            .ssl_mode(PgSslMode::Disable)
    }

    /// The same as a URL, for other programs and other processes of the same account.
    pub fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    /// The URL of another database of this server.
    pub fn url_of(&self, database: &str) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("host", &self.socket_dir.to_string_lossy()).append_pair("user", SUPERUSER);
        if self.port != launch::SOCKET_PORT {
            query.append_pair("port", &self.port.to_string());
        }
        format!("postgres:///{database}?{}", query.finish())
    }

    /// Where the server listens on TCP, if it was asked to.
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        match self.listen {
            Listen::Socket => None,
            Listen::SocketAndLoopback | Listen::SocketAndPort(_) => {
                Some(SocketAddr::from(([127, 0, 0, 1], self.port)))
            }
        }
    }

    /// The server's process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The server's major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// Whether somebody else had started the server, so that stopping it is theirs.
    pub fn is_attached(&self) -> bool {
        self.keeper.is_none()
    }

    /// Where the server writes its log.
    pub fn log(&self) -> PathBuf {
        self.home.log()
    }

    /// The directory that holds the data, the log and the settings of access.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Stops the server: connections are cut, a checkpoint is written, nothing is lost.
    pub fn stop(mut self) {
        self.halt();
    }

    fn halt(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            keeper.stop();
            home::remove_socket_dir(&self.socket_dir);
            self.home.close();
        }
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.halt();
    }
}

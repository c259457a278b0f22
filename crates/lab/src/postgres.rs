//! A private PostgreSQL server for the demo and the tests.
//!
//! Finds the programs of an installed PostgreSQL, keeps its own data directory and runs one server on
//! it. Other accounts cannot reach the server: its unix socket is in a directory that only its account
//! may enter. The server is as durable as a real one (`fsync` stays on) and ends with the process that
//! started it, even when that process is killed. This module does not know what runs in the database.
//!
//! All functions block the calling thread, normally for a second at most. From an async task, call
//! [`PrivatePostgres::start`] and [`PrivatePostgres::stop`] through `tokio::task::spawn_blocking`; the
//! server itself belongs to its own thread and outlives the blocking one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use discovery::Discovery;

mod account;
mod cluster;
pub mod discovery;
mod error;
mod home;
mod keeper;
mod launch;
mod pid_file;
mod programs;
mod socket_dir;
mod temporary;
#[cfg(test)]
mod tests;

pub use error::LaunchError;

/// The oldest major version whose SQL this project uses.
pub const MAJOR_MIN: u32 = 15;

/// How long a start may take: a slow disk needs seconds for `initdb`, crash recovery some more.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// The superuser of each private server, and the database that clients connect to first.
const SUPERUSER: &str = "postgres";
const DATABASE: &str = "postgres";

/// How and where to start a private server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the data is.
    pub home: Home,
    /// Which accounts can reach the server.
    pub listen: Listen,
    /// Settings in addition to ours, such as `("fsync", "off")`; the last setting of a name wins.
    pub settings: Vec<(String, String)>,
    /// Where to search for programs.
    pub discovery: Discovery,
    /// How long to wait for the server to accept connections; 60 s by default.
    /// If too low, a recovery after a crash is cut off; if too high, a hanging start is noticed late.
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
    /// In this directory, which is made if missing and kept; the next start finds the same data.
    Kept(PathBuf),
    /// In a new directory under `/tmp`, removed when the server stops. If this process is killed first,
    /// the next process that makes a temporary home removes it.
    Temporary,
}

/// Which accounts can reach a private server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// Only accounts that may enter the socket's directory: the server's account and root.
    Socket,
    /// Also all accounts of this machine, on a free port of `127.0.0.1` and without a password. For tests
    /// that put a faulty network in front of the server.
    SocketAndLoopback,
    /// The same on this port, for a server that must keep its address after a restart.
    SocketAndPort(u16),
}

/// A running private server; dropping it stops the server.
#[derive(Debug)]
pub struct PrivatePostgres {
    /// `None` when the server was already running: then this value must not stop it.
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
    /// The process that started an attached server stops it; this value does not.
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

    /// The same as a URL, for other processes of the same account.
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

    /// The server's TCP address, if it has one.
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

    /// Whether another process started the server, and so must stop it.
    pub fn is_attached(&self) -> bool {
        self.keeper.is_none()
    }

    /// The server's log file.
    pub fn log(&self) -> PathBuf {
        self.home.log()
    }

    /// The directory that holds the data, the log and the access rules.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Stops the server: it cuts connections and writes a checkpoint, so no data is lost.
    pub fn stop(mut self) {
        self.halt();
    }

    fn halt(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            keeper.stop();
            socket_dir::remove_socket_dir(&self.socket_dir);
            self.home.close();
        }
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.halt();
    }
}

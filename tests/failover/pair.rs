//! Two servers on loopback: one that takes writes, and one that follows it.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor};
use tempfile::TempDir;
use warmproof::config::DatabaseSettings;
use warmproof::config::database::DatabaseConfig;
use warmproof::config::environment::Environment;
use warmproof::store::connect::Role;
use warmproof::store::{Store, migrate};
use warmproof_lab::postgres::discovery::Discovery;
use warmproof_lab::postgres::{Home, Listen, Options, PrivatePostgres};

use warmproof_testkit::wait::until;

pub const SCHEMA: &str = "warmproof";

/// The name under which a server follows the other.
const FOLLOWER: &str = "follower";

/// One of the two.
pub struct Server {
    home: PathBuf,
    running: Option<PrivatePostgres>,
    port: u16,
}

/// Both, in a directory of their own.
pub struct Pair {
    pub one: Server,
    pub other: Server,
    _place: TempDir,
}

impl Server {
    fn start(home: PathBuf, listen: Listen) -> Self {
        let mut options = Options::new(Home::Kept(home.clone()), Discovery::from_environment());
        options.listen = listen;
        options.settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let running = PrivatePostgres::start(&options).expect("a server");
        let port = running.tcp_addr().expect("it listens on loopback").port();
        Self { home, port, running: Some(running) }
    }

    fn running(&self) -> &PrivatePostgres {
        self.running.as_ref().expect("it runs")
    }

    /// `host:port`, for an address with several hosts.
    pub fn place(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username("postgres")
            .database("postgres")
            .ssl_mode(PgSslMode::Disable)
    }

    pub async fn connect(&self) -> PgConnection {
        self.options().connect().await.expect("a connection")
    }

    pub async fn run(&self, sql: &str) {
        self.connect()
            .await
            .execute(AssertSqlSafe(sql.to_owned()))
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    pub async fn value<T>(&self, sql: &str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        let mut connection = self.connect().await;
        let asked = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()));
        asked.fetch_one(&mut connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Kills the server and every process of it, as a power cut does.
    pub async fn kill(&mut self) {
        let sql = "select array_agg(pid) from pg_stat_activity where pid is not null";
        let backends: Vec<i32> = self.value(sql).await;
        let running = self.running.take().expect("it runs");
        for pid in std::iter::once(running.pid()).chain(backends) {
            // Some have ended with the first already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        drop(running);
    }

    /// Takes writes from now on.
    pub async fn promote(&self) {
        self.run("select pg_promote(true, 60)").await;
        assert!(!self.value::<bool>("select pg_is_in_recovery()").await);
    }

    /// Makes this data a standby that follows another server, and starts it. What it wrote past the other is
    /// rewound, as failover managers do.
    pub fn follow(&mut self, leader: &Server) {
        let data = self.home.join("data");
        let source = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", leader.port);
        // A server that was killed recovers first; the rewind does that by itself.
        run_as_server("pg_rewind", &["-D", &path(&data), "--source-server", &source]);
        write_following(&data, leader);
        *self = Self::start(self.home.clone(), Listen::SocketAndPort(self.port));
    }
}

/// Fast, and able to be rewound.
const SETTINGS: [(&str, &str); 3] =
    [("wal_log_hints", "on"), ("max_connections", "200"), ("hot_standby", "on")];

impl Pair {
    /// A migrated primary whose commits wait for the standby that follows it.
    pub async fn start() -> Self {
        let place =
            tempfile::Builder::new().prefix("warmproof-pair-").tempdir_in("/tmp").expect("a directory");
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).expect("others may pass");
        let one = Server::start(place.path().join("one"), Listen::SocketAndLoopback);
        let _ = migrate::migrate(&one.options(), SCHEMA).await.expect("the migrations");

        let home = place.path().join("other");
        std::fs::create_dir(&home).expect("a directory");
        give_to_server(&home);
        let socket = one.running().connect_options().get_socket().expect("a socket").clone();
        let data = path(&home.join("data"));
        let arguments = [
            "-h",
            &path(&socket),
            "-p",
            &one.port.to_string(),
            "-U",
            "postgres",
            "-D",
            &data,
            "-X",
            "stream",
        ];
        run_as_server("pg_basebackup", &[&arguments[..], &["-c", "fast"]].concat());
        write_following(&home.join("data"), &one);
        let other = Server::start(home, Listen::SocketAndLoopback);
        one.run(&format!("alter system set synchronous_standby_names = '{FOLLOWER}'")).await;
        one.run("select pg_reload_conf()").await;
        let pair = Self { one, other, _place: place };
        until("the standby is synchronous", async || {
            let sql = "select count(*) from pg_stat_replication where sync_state = 'sync'";
            (pair.one.value::<i64>(sql).await == 1).then_some(())
        })
        .await;
        pair
    }

    /// Both hosts, the standby first, so that a client has to find the one that takes writes.
    pub fn config(&self) -> DatabaseConfig {
        config(&format!("postgres://postgres@{},{}/postgres", self.other.place(), self.one.place()))
    }

    pub fn store(&self) -> Store {
        Store::connect_lazy(&self.config(), Role::Callers)
    }
}

pub fn config(url: &str) -> DatabaseConfig {
    let url = format!("{url}?sslmode=disable");
    DatabaseSettings::from_environment(&Environment::from_pairs([("WARMPROOF_DATABASE_URL", url)]))
        .expect("settings")
        .database
}

fn write_following(data: &Path, leader: &Server) {
    let socket = leader.running().connect_options().get_socket().expect("a socket").display().to_string();
    let source = format!("host={socket} port={} user=postgres application_name={FOLLOWER}", leader.port);
    // The last setting of a name wins, and what was the leader's own is not this server's.
    let text = format!("primary_conninfo = '{source}'\nsynchronous_standby_names = ''\n");
    std::fs::write(data.join("postgresql.auto.conf"), text).expect("its settings");
    std::fs::write(data.join("standby.signal"), "").expect("its signal");
    for name in ["postgresql.auto.conf", "standby.signal"] {
        give_to_server(&data.join(name));
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

/// The account that runs servers, where we are root.
fn account() -> Option<User> {
    geteuid().is_root().then(|| User::from_name("postgres").ok().flatten().expect("the account `postgres`"))
}

fn give_to_server(path: &Path) {
    if let Some(user) = account() {
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("an owner");
    }
}

fn run_as_server(program: &str, arguments: &[&str]) {
    let installed = Path::new("/usr/lib/postgresql/15/bin").join(program);
    let program = if installed.exists() { installed } else { PathBuf::from(program) };
    let mut command = Command::new(&program);
    if let Some(user) = account() {
        std::os::unix::process::CommandExt::uid(&mut command, user.uid.as_raw());
        std::os::unix::process::CommandExt::gid(&mut command, user.gid.as_raw());
    }
    let output = command.args(arguments).current_dir("/").output().expect("a program of PostgreSQL");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", program.display());
}

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection, raw_sql};
use uuid::Uuid;

use super::*;

/// How long a test waits before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A home that the server's account can reach and that the test removes at its end.
struct TestHome(PathBuf);

impl TestHome {
    fn new() -> Self {
        Self(PathBuf::from(format!("/tmp/warmproof-test-{}", Uuid::new_v4().simple())))
    }

    fn options(&self) -> Options {
        Options::new(Home::Kept(self.0.clone()), Discovery::from_environment())
    }
}

impl Drop for TestHome {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs one statement and returns its first column as text.
fn ask(options: &PgConnectOptions, sql: &'static str) -> Result<String, sqlx::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut db = PgConnection::connect_with(options).await?;
        let row = sqlx::Executor::fetch_optional(&mut db, raw_sql(sql)).await?;
        db.close().await?;
        Ok(row.map(|row| sqlx::Row::get::<String, _>(&row, 0)).unwrap_or_default())
    })
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_private_server_is_durable_and_reachable_by_its_socket_only() {
    let server =
        PrivatePostgres::start(&Options::new(Home::Temporary, Discovery::from_environment())).unwrap();
    let options = server.connect_options();
    assert_eq!(ask(&options, "show fsync").unwrap(), "on");
    assert_eq!(ask(&options, "show full_page_writes").unwrap(), "on");
    assert_eq!(ask(&options, "show listen_addresses").unwrap(), "");
    assert_eq!(ask(&options, "show data_checksums").unwrap(), "on");
    let by_url: PgConnectOptions = server.url().parse().unwrap();
    assert_eq!(ask(&by_url, "select current_user::text").unwrap(), "postgres");
    let socket_mode = fs::metadata(&server.socket_dir).unwrap().permissions().mode();
    assert_eq!(socket_mode & 0o777, 0o700);

    let (home, socket_dir) = (server.home().to_owned(), server.socket_dir.clone());
    server.stop();
    assert!(!home.exists() && !socket_dir.exists(), "a temporary server leaves nothing behind");
}

#[test]
fn committed_data_survives_a_restart_and_dropping_stops_the_server() {
    let home = TestHome::new();
    let first = PrivatePostgres::start(&home.options()).unwrap();
    ask(&first.connect_options(), "create table kept as select 'still here' as word").unwrap();
    let before = first.connect_options();
    drop(first);
    assert!(ask(&before, "select 'alive'").is_err());

    let second = PrivatePostgres::start(&home.options()).unwrap();
    assert!(!second.is_attached());
    assert_eq!(ask(&second.connect_options(), "select word from kept").unwrap(), "still here");
}

#[test]
fn a_second_start_attaches_and_does_not_stop_the_server() {
    let home = TestHome::new();
    let first = PrivatePostgres::start(&home.options()).unwrap();
    let second = PrivatePostgres::start(&home.options()).unwrap();
    assert!(second.is_attached());
    assert_eq!((second.pid(), second.url()), (first.pid(), first.url()));
    second.stop();
    assert_eq!(ask(&first.connect_options(), "select 'alive'").unwrap(), "alive");
}

#[test]
fn two_starts_at_once_share_one_server() {
    let home = TestHome::new();
    let servers: Vec<_> = std::thread::scope(|scope| {
        let starters: Vec<_> =
            (0..3).map(|_| scope.spawn(|| PrivatePostgres::start(&home.options()).unwrap())).collect();
        starters.into_iter().map(|starter| starter.join().unwrap()).collect()
    });
    assert_eq!(servers.iter().filter(|server| !server.is_attached()).count(), 1);
    assert!(servers.iter().all(|server| server.pid() == servers[0].pid()));
}

#[test]
fn a_server_listens_on_loopback_on_request() {
    let options = Options {
        listen: Listen::SocketAndLoopback,
        settings: vec![("fsync".into(), "off".into())],
        ..Options::new(Home::Temporary, Discovery::from_environment())
    };
    let server = PrivatePostgres::start(&options).unwrap();
    let address = server.tcp_addr().unwrap();
    let over_tcp = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(address.port())
        .username("postgres")
        .database("postgres")
        .ssl_mode(PgSslMode::Disable);
    assert_eq!(ask(&over_tcp, "show fsync").unwrap(), "off");
    let by_url: PgConnectOptions = server.url().parse().unwrap();
    assert_eq!(ask(&by_url, "show listen_addresses").unwrap(), "127.0.0.1");
}

#[test]
fn data_of_another_major_version_is_refused_with_both_versions_named() {
    let home = TestHome::new();
    fs::create_dir_all(home.0.join("data")).unwrap();
    fs::write(home.0.join("data/PG_VERSION"), "9.6\n").unwrap();
    let error = PrivatePostgres::start(&home.options()).unwrap_err();
    assert!(matches!(error, LaunchError::OtherMajor { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("belongs to PostgreSQL 9.6, but here is only 1"), "{text}");
    assert!(text.contains("hint: install PostgreSQL 9.6"), "{text}");
}

#[test]
fn the_error_of_a_failed_start_holds_the_servers_own_words() {
    let home = TestHome::new();
    let mut options = home.options();
    options.settings.push(("max_connections".into(), "plenty".into()));
    let error = PrivatePostgres::start(&options).unwrap_err();
    assert!(matches!(error, LaunchError::Died { .. }), "{error}");
    assert!(error.to_string().contains("invalid value for parameter \"max_connections\""), "{error}");
}

#[test]
fn a_server_that_was_killed_recovers_what_was_committed() {
    let home = TestHome::new();
    let first = PrivatePostgres::start(&home.options()).unwrap();
    ask(&first.connect_options(), "create table kept as select 'still here' as word").unwrap();
    let first_pid = nix::unistd::Pid::from_raw(first.pid());
    nix::sys::signal::kill(first_pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_until("the keeper noticed", || first.keeper.as_ref().is_some_and(|keeper| keeper.ended().is_some()));
    drop(first);

    let second = PrivatePostgres::start(&home.options()).unwrap();
    assert!(!second.is_attached());
    assert_eq!(ask(&second.connect_options(), "select word from kept").unwrap(), "still here");
}

/// An argument for the child of the next test; the test runner takes it for a filter.
const HOLD: &str = "hold-home=";

/// Does nothing unless it runs as the child of the next test.
#[test]
fn a_child_holds_a_server_until_it_is_killed() {
    let Some(home) = std::env::args().find_map(|arg| arg.strip_prefix(HOLD).map(PathBuf::from)) else {
        return;
    };
    let server =
        PrivatePostgres::start(&Options::new(Home::Kept(home), Discovery::from_environment())).unwrap();
    println!("\nserver {}", server.pid());
    loop {
        std::thread::park();
    }
}

#[test]
fn the_server_shuts_down_cleanly_when_its_parent_is_killed() {
    let home = TestHome::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "postgres::tests::a_child_holds_a_server_until_it_is_killed"])
        .arg(format!("{HOLD}{}", home.0.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.find(|line| line.starts_with("server ")).expect("the child started a server");
    let server: i32 = line["server ".len()..].parse().unwrap();
    child.kill().unwrap(); // SIGKILL: no destructor runs
    child.wait().unwrap();

    let data = home.0.join("data");
    wait_until("the server is gone", || {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(server), None).is_err()
    });
    assert!(!data.join("postmaster.pid").exists(), "it shut down cleanly");
    let log = fs::read_to_string(home.0.join("postgres.log")).unwrap();
    assert!(log.contains("database system is shut down"), "{log}");

    let next = PrivatePostgres::start(&home.options()).unwrap();
    assert!(!next.is_attached());
}

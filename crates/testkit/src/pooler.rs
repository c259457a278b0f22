//! A real PgBouncer between the tests and their server: for all tests when `make test-pooler` asks for one, and
//! for the tests that always need it.
//!
//! `WARMPROOF_TEST_POOLER` is `transaction` or `session`; unset, tests reach their server directly. Its settings are the ones that
//! Debian's package comes with, except for the users that may connect and how many connections they may have.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use warmproof_lab::postgres::PrivatePostgres;

/// Which sessions clients get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// The server's session for a transaction.
    Transaction,
    /// The server's session for as long as the client stays.
    Session,
}

impl PoolMode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Session => "session",
        }
    }
}

/// The mode that was asked for all tests; `None`: no pooler.
pub fn mode() -> Option<PoolMode> {
    match std::env::var("WARMPROOF_TEST_POOLER").ok()?.as_str() {
        "" => None,
        "transaction" => Some(PoolMode::Transaction),
        "session" => Some(PoolMode::Session),
        other => panic!("WARMPROOF_TEST_POOLER is `{other}`: use `transaction` or `session`"),
    }
}

/// The address of this test process's pooler of that mode. It is started once, and dies with the process.
pub fn address(server: &PrivatePostgres, mode: PoolMode) -> SocketAddr {
    static TRANSACTION: OnceLock<SocketAddr> = OnceLock::new();
    static SESSION: OnceLock<SocketAddr> = OnceLock::new();
    let started = match mode {
        PoolMode::Transaction => &TRANSACTION,
        PoolMode::Session => &SESSION,
    };
    *started.get_or_init(|| start(server, mode))
}

fn start(server: &PrivatePostgres, mode: PoolMode) -> SocketAddr {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    let address = free.expect("a free port");
    // Beside the server's own data, which goes when the server does.
    let home = server.home().join(format!("pgbouncer-{}", mode.as_str()));
    std::fs::create_dir_all(&home).expect("a directory");
    let options = server.connect_options();
    let (users, config) = (home.join("users"), home.join("pgbouncer.ini"));
    std::fs::write(&users, "\"postgres\" \"\"\n").expect("the users");
    let text = format!(
        "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
         unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {}\nmax_client_conn = 2000\n\
         default_pool_size = 20\nserver_idle_timeout = 3\n",
        options.get_socket().expect("a socket").display(),
        options.get_port(),
        address.port(),
        users.display(),
        mode.as_str(),
    );
    std::fs::write(&config, text).expect("the settings");
    for path in [home, users, config.clone()] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("others may read it");
    }
    spawn(config);
    address
}

/// On a thread that lives as long as the process: the pooler is killed when the thread that started it ends.
fn spawn(config: PathBuf) {
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if nix::unistd::geteuid().is_root() {
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        }
        command.arg("--").arg(program()).arg(config).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("PgBouncer starts; scripts/bootstrap --test installs it");
        let mut said = Vec::new();
        for line in BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok) {
            if line.contains("process up") {
                let _ = ready.send(());
            }
            said.push(line);
        }
        let _ = child.wait();
        drop(ready);
        for line in said {
            println!("pgbouncer: {line}");
        }
    });
    is_ready.recv().expect("PgBouncer is up; its log is above");
}

fn program() -> PathBuf {
    let installed = PathBuf::from("/usr/sbin/pgbouncer");
    if installed.exists() { installed } else { PathBuf::from("pgbouncer") }
}

//! Starts a server, step by step.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::account::Account;
use super::home::OpenHome;
use super::keeper::Keeper;
use super::pid_file::{PidFile, Status};
use super::programs::Programs;
use super::socket_dir::remove_socket_dir;
use super::{LaunchError, Listen, Options, PrivatePostgres, cluster};

/// The port in a socket's name. Each server has its own directory, so all can use the same port.
pub(super) const SOCKET_PORT: u16 = 5432;

/// How often the state of a starting or stopping server is checked.
const CHECK_EVERY: Duration = Duration::from_millis(10);
/// How long a start is retried after a temporary failure.
const PASSING_MAX: Duration = Duration::from_secs(10);
const CHECK_EVERY_WHILE_PASSING: Duration = Duration::from_millis(200);

/// Finds the programs, makes the data, starts the server and waits; see [`PrivatePostgres::start`].
pub(super) fn launch(options: &Options) -> Result<PrivatePostgres, LaunchError> {
    let account = Account::choose()?;
    let home = OpenHome::open(&options.home, &account)?;
    let result = launch_in(&home, &account, options);
    match result {
        Ok(running) => Ok(running.into_private(home)),
        Err(error) => {
            home.close();
            Err(error)
        }
    }
}

/// The result of a start, apart from its home.
struct Running {
    keeper: Option<Keeper>,
    socket_dir: PathBuf,
    port: u16,
    listen: Listen,
    pid: i32,
    major: u32,
}

impl Running {
    fn into_private(self, home: OpenHome) -> PrivatePostgres {
        let Self { keeper, socket_dir, port, listen, pid, major } = self;
        PrivatePostgres { keeper, socket_dir, port, listen, home, pid, major }
    }
}

fn launch_in(home: &OpenHome, account: &Account, options: &Options) -> Result<Running, LaunchError> {
    let data = home.data();
    let _lock = home.lock(options.start_timeout)?;
    let major = cluster::data_major(&data)?;
    let programs = Programs::choose(&options.discovery, &data, major.as_deref())?;
    if let Some(running) = attach(home, &programs, options.start_timeout)? {
        tracing::info!(pid = running.pid, home = %home.path().display(), "attached to a running PostgreSQL");
        return Ok(running);
    }
    account.check_reach(&programs.postgres())?;
    if major.is_none() {
        cluster::create(home, account, &programs)?;
    }
    cluster::write_hba(home, account, options.listen)?;
    let began = Instant::now();
    loop {
        match start(home, account, &programs, options) {
            Err(LaunchError::Died { output, .. }) if will_pass(&output) && began.elapsed() < PASSING_MAX => {
                sleep(CHECK_EVERY_WHILE_PASSING);
            }
            other => return other,
        }
    }
}

/// Whether a server that failed to start may start a moment later.
fn will_pass(output: &str) -> bool {
    // Another program took the free port before the server.
    output.contains("Address already in use")
        // The children of a server that was killed have not noticed yet.
        || output.contains("pre-existing shared memory block")
}

/// The server that already serves this home, if there is one. Waits for a server that is stopping.
fn attach(home: &OpenHome, programs: &Programs, patience: Duration) -> Result<Option<Running>, LaunchError> {
    let began = Instant::now();
    let data = home.data();
    loop {
        // The file's process is gone, as after a crash: the server handles this.
        let Some(file) = PidFile::read(&data).filter(PidFile::is_alive) else { return Ok(None) };
        if file.status == Status::Ready
            && file.answers()
            && let (Some(socket_dir), Some(port)) = (file.socket_dir, file.port)
        {
            let listen = if file.listens_on_tcp { Listen::SocketAndLoopback } else { Listen::Socket };
            let (pid, major) = (file.pid, programs.major);
            return Ok(Some(Running { keeper: None, socket_dir, port, listen, pid, major }));
        }
        // Nothing answers: another program got a dead server's process id, or the server hangs.
        if file.status == Status::Ready {
            return Ok(None);
        }
        if began.elapsed() > patience {
            return Err(LaunchError::InUse { data, pid: file.pid });
        }
        sleep(CHECK_EVERY);
    }
}

fn start(
    home: &OpenHome,
    account: &Account,
    programs: &Programs,
    options: &Options,
) -> Result<Running, LaunchError> {
    let port = match options.listen {
        Listen::Socket => SOCKET_PORT,
        Listen::SocketAndLoopback => free_port()?,
        Listen::SocketAndPort(port) => port,
    };
    let socket_dir = home.make_socket_dir(account, options.discovery.runtime_dir.as_deref())?;
    let (log, log_begin) = home.open_log()?;
    let mut command = account.command(&programs.postgres());
    command.args(cluster::settings(home, account, programs, &options.settings));
    place(&mut command, home, &socket_dir, port, options.listen);
    let copy = log.try_clone().map_err(LaunchError::io("share the log"))?;
    command.stdin(Stdio::null()).stdout(copy).stderr(log);
    let keeper = Keeper::spawn(command)
        .map_err(LaunchError::io(format!("run `{}`", programs.postgres().display())))?;
    match wait_ready(home, &keeper, options.start_timeout, log_begin) {
        Ok(()) => {
            let (pid, major, listen) = (keeper.pid(), programs.major, options.listen);
            tracing::debug!(pid, major, socket = %socket_dir.display(), "started a private PostgreSQL");
            Ok(Running { keeper: Some(keeper), socket_dir, port, listen, pid, major })
        }
        Err(error) => {
            keeper.stop();
            remove_socket_dir(&socket_dir);
            Err(error)
        }
    }
}

/// Where the server listens. It comes last on the command line, so that no extra setting can widen access.
fn place(command: &mut Command, home: &OpenHome, socket_dir: &std::path::Path, port: u16, listen: Listen) {
    let addresses = match listen {
        Listen::Socket => "",
        Listen::SocketAndLoopback | Listen::SocketAndPort(_) => "127.0.0.1",
    };
    command.arg("-D").arg(home.data());
    command.arg("-c").arg(format!("unix_socket_directories={}", socket_dir.display()));
    command.arg("-c").arg(format!("listen_addresses={addresses}"));
    command.arg("-c").arg(format!("port={port}"));
}

fn free_port() -> Result<u16, LaunchError> {
    let address = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    address.map(|address| address.port()).map_err(LaunchError::io("find a free port"))
}

/// The server is ready when its file says so under the process id of our child.
fn wait_ready(
    home: &OpenHome,
    keeper: &Keeper,
    patience: Duration,
    log_begin: u64,
) -> Result<(), LaunchError> {
    let began = Instant::now();
    loop {
        let file = PidFile::read(&home.data()).filter(|file| file.pid == keeper.pid());
        if file.is_some_and(|file| file.status == Status::Ready) {
            return Ok(());
        }
        if let Some(status) = keeper.ended() {
            let (output, log) = (home.log_since(log_begin), home.log());
            return Err(LaunchError::Died { status: status.to_owned(), output, log });
        }
        if began.elapsed() > patience {
            let (output, log) = (home.log_since(log_begin), home.log());
            return Err(LaunchError::TooSlow { waited: patience, output, log });
        }
        sleep(CHECK_EVERY);
    }
}

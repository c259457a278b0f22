//! A private PostgreSQL in a temporary directory, which ends with this program.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use tempfile::TempDir;

const START_MAX: Duration = Duration::from_secs(30);
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// A running server. Dropped, it is stopped, and its directory is removed.
#[derive(Debug)]
pub(super) struct Server {
    process: Child,
    programs: PathBuf,
    directory: TempDir,
}

impl Server {
    /// Starts a server and waits until it accepts connections.
    pub(super) async fn start(root: &Path) -> anyhow::Result<Self> {
        let programs = find_programs(root).await?;
        let account = account()?;
        let directory = private_directory(account.as_ref())?;
        make_cluster(&programs, account.as_ref(), directory.path()).await?;

        let log = File::create(directory.path().join("postgres.log"))?;
        let process = unprivileged(&programs.join("postgres"), account.as_ref())
            .args(["-D", "data", "-c", "listen_addresses=", "-c", "fsync=off", "-c"])
            .arg(format!("unix_socket_directories={}", directory.path().join("socket").display()))
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the private PostgreSQL")?;
        let mut server = Self { process, programs, directory };
        server.ready().await?;
        Ok(server)
    }

    /// The private directory. The account of the server can enter it, but not write to it.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// psql, connected to the server.
    pub(super) fn psql(&self) -> tokio::process::Command {
        let own = self.programs.join("psql");
        // Some packages install clients elsewhere; any version of psql will do.
        let mut psql = tokio::process::Command::new(if own.exists() { own } else { "psql".into() });
        psql.arg("-h").arg(self.directory().join("socket")).args(["-U", "postgres", "-d", "postgres"]);
        psql
    }

    /// What sqlx connects to, with the tables of `schema` in its path.
    pub(super) fn url(&self, schema: &str) -> String {
        let socket = self.directory().join("socket");
        format!(
            "postgres:///postgres?host={}&user=postgres&options=-c%20search_path%3D{schema}",
            socket.display()
        )
    }

    /// Line 8 of the server's own file says when it accepts connections.
    async fn ready(&mut self) -> anyhow::Result<()> {
        let state = self.directory().join("data/postmaster.pid");
        let started = Instant::now();
        while started.elapsed() < START_MAX && self.process.try_wait()?.is_none() {
            let text = fs::read_to_string(&state).unwrap_or_default();
            if text.lines().nth(7).is_some_and(|line| line.trim_end() == "ready") {
                return Ok(());
            }
            tokio::time::sleep(CHECK_EVERY).await;
        }
        let log = fs::read_to_string(self.directory().join("postgres.log")).unwrap_or_default();
        bail!("the private PostgreSQL did not start:\n{}", log.trim_end())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Stops at once, without a last checkpoint: its data goes, too. An error means that it is gone.
        if let Ok(id) = i32::try_from(self.process.id())
            && let Ok(None) = self.process.try_wait()
        {
            let _ = kill(Pid::from_raw(id), Signal::SIGQUIT);
        }
        let _ = self.process.wait();
    }
}

async fn find_programs(root: &Path) -> anyhow::Result<PathBuf> {
    let script = root.join("scripts/find-postgres");
    let found = tokio::process::Command::new(&script)
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot run {}", script.display()))?;
    if !found.status.success() {
        let why = String::from_utf8_lossy(&found.stderr);
        bail!("no PostgreSQL found; run scripts/bootstrap\n{}", why.trim_end());
    }
    Ok(PathBuf::from(String::from_utf8(found.stdout)?.trim_end()))
}

/// The account of the server, which refuses to run as root; none if this program does not run as root.
fn account() -> anyhow::Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some(user));
        }
    }
    bail!("PostgreSQL refuses to run as root, and the system has no account `postgres` or `nobody`")
}

fn private_directory(account: Option<&User>) -> anyhow::Result<TempDir> {
    // Not TMPDIR: the server's account may not be able to enter it, and the path of a socket is short.
    let directory = tempfile::Builder::new().prefix("warmproof-prepare-").tempdir_in("/tmp")?;
    // The server can enter its own directories, but no other account can list this one.
    fs::set_permissions(directory.path(), Permissions::from_mode(0o711))?;
    for name in ["data", "socket"] {
        let path = directory.path().join(name);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        if let Some(user) = account {
            chown(&path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
    }
    Ok(directory)
}

async fn make_cluster(programs: &Path, account: Option<&User>, directory: &Path) -> anyhow::Result<()> {
    let made = tokio::process::Command::from(unprivileged(&programs.join("initdb"), account))
        .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"])
        .args(["--no-instructions", "-D", "data"])
        .current_dir(directory)
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run initdb")?;
    if !made.status.success() {
        let said = String::from_utf8_lossy(&[made.stdout, made.stderr].concat()).into_owned();
        bail!("initdb failed ({}):\n{}", made.status, said.trim_end());
    }
    Ok(())
}

/// A program of PostgreSQL, run as `account`. The kernel kills it if this program ends without a `Drop`.
fn unprivileged(program: &Path, account: Option<&User>) -> Command {
    if cfg!(not(target_os = "linux")) {
        return Command::new(program); // nothing but Linux has setpriv
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if let Some(user) = account {
        command
            .arg(format!("--reuid={}", user.uid))
            .arg(format!("--regid={}", user.gid))
            .arg("--clear-groups");
    }
    command.arg("--").arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dropped_server_is_stopped_and_its_directory_removed() {
        let server = Server::start(&crate::root()).await.expect("a server");
        let (directory, process) = (server.directory().to_owned(), server.process.id());
        let asked = server.psql().args(["-X", "-q", "-c", "select 1"]).output().await.expect("psql");
        assert!(asked.status.success(), "{asked:?}");
        drop(server);
        assert!(!directory.exists());
        let process = Pid::from_raw(i32::try_from(process).unwrap());
        assert_eq!(kill(process, None), Err(nix::errno::Errno::ESRCH));
    }
}

//! The directories of a private server: its home with data and log, and the one for its socket.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::account::Account;
use super::socket_dir::{SHORT, SOCKET_NOTE, remove_socket_dir, short_path};
use super::temporary;
use super::{Home, LaunchError};

/// `sockaddr_un` has 104 bytes on some systems and 108 on others, one of them for the closing zero.
const SOCKET_PATH_MAX: usize = 103;
/// The longest name that PostgreSQL gives a socket: the highest port, and `.lock`.
const SOCKET_NAME_LEN: usize = "/.s.PGSQL.65535.lock".len();

/// How often a starter checks whether another starter is done.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// How many bytes of the log an error shows.
const LOG_TAIL_LEN: u64 = 2_000;
/// The next start empties a log longer than this.
const LOG_LEN_MAX: u64 = 8 * 1024 * 1024;

/// An existing home that the right account can reach.
#[derive(Debug)]
pub(super) struct OpenHome {
    path: PathBuf,
    /// The lock that holds a temporary home; see `temporary`.
    life: Option<File>,
}

impl OpenHome {
    /// Makes the home if it is missing, and checks that the account can reach it.
    pub(super) fn open(home: &Home, account: &Account) -> Result<Self, LaunchError> {
        // It belongs to us alone, even when another account runs the server: that account must pass through
        // to its data, but must not be able to create links where root writes.
        let mode = match account {
            Account::Ours => 0o700,
            Account::Other { .. } => 0o711,
        };
        let (path, life) = match home {
            Home::Kept(path) => (make_kept(path, mode)?, None),
            Home::Temporary => temporary::make(mode).map(|(path, life)| (path, Some(life)))?,
        };
        account.check_reach(&path)?;
        Ok(Self { path, life })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("postgres.log")
    }

    pub(super) fn hba(&self) -> PathBuf {
        self.path.join("pg_hba.conf")
    }

    /// One starter at a time: two that make the same data directory would damage each other's work.
    ///
    /// Locked from the first check until the server is ready; the second starter then finds it running.
    pub(super) fn lock(&self, patience: Duration) -> Result<File, LaunchError> {
        let path = self.path.join("start.lock");
        let task = format!("lock `{}`", path.display());
        let lock = File::create(&path).map_err(LaunchError::io(task.as_str()))?;
        let began = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) if began.elapsed() < patience => {
                    sleep(LOCK_POLL);
                }
                Err(error) => return Err(LaunchError::Io { what: task, source: error.into() }),
            }
        }
    }

    /// Opens the log for the server; also returns where this start's lines begin.
    pub(super) fn open_log(&self) -> Result<(File, u64), LaunchError> {
        let path = self.log();
        let length = fs::metadata(&path).map_or(0, |meta| meta.len());
        let is_too_long = length > LOG_LEN_MAX;
        let mut how = File::options();
        how.create(true).append(true);
        let log = how.open(&path).map_err(LaunchError::io(format!("open `{}`", path.display())))?;
        if is_too_long {
            log.set_len(0).map_err(LaunchError::io(format!("shorten `{}`", path.display())))?;
        }
        Ok((log, if is_too_long { 0 } else { length }))
    }

    /// The end of this start's log.
    pub(super) fn log_since(&self, begin: u64) -> String {
        let read = || -> std::io::Result<String> {
            let mut log = File::open(self.log())?;
            let end = log.seek(SeekFrom::End(0))?;
            log.seek(SeekFrom::Start(begin.max(end.saturating_sub(LOG_TAIL_LEN))))?;
            let mut text = Vec::new();
            log.read_to_end(&mut text)?;
            Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
        };
        read().unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// Makes the directory for the socket, and removes the one that a killed predecessor left.
    pub(super) fn make_socket_dir(
        &self,
        account: &Account,
        runtime_dir: Option<&Path>,
    ) -> Result<PathBuf, LaunchError> {
        let note = self.path.join(SOCKET_NOTE);
        if let Ok(old) = fs::read_to_string(&note) {
            remove_socket_dir(Path::new(old.trim()));
        }
        // Another account can enter neither root's runtime directory nor that of any other user.
        let parent = match account {
            Account::Ours => runtime_dir.filter(|dir| dir.is_dir()).unwrap_or(Path::new(SHORT)),
            Account::Other { .. } => Path::new(SHORT),
        };
        let dir = short_path(parent);
        if dir.as_os_str().len() + SOCKET_NAME_LEN > SOCKET_PATH_MAX {
            return Err(LaunchError::SocketPathTooLong { dir, max: SOCKET_PATH_MAX });
        }
        // Fails when the path exists: no other account can prepare a directory of its own there.
        let task = format!("make the directory `{}`", dir.display());
        DirBuilder::new().mode(0o700).create(&dir).map_err(LaunchError::io(task))?;
        account.take(&dir)?;
        let text = dir.to_string_lossy();
        fs::write(&note, text.as_bytes()).map_err(LaunchError::io(format!("write `{}`", note.display())))?;
        Ok(dir)
    }

    /// Removes a temporary home. Call it only when no server runs in it.
    pub(super) fn close(&self) {
        if self.life.is_some() {
            temporary::remove(&self.path);
        }
    }
}

fn make_kept(path: &Path, mode: u32) -> Result<PathBuf, LaunchError> {
    let make = || {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        DirBuilder::new().recursive(true).mode(mode).create(path)?;
        path.canonicalize()
    };
    make().map_err(LaunchError::io(format!("make the directory `{}`", path.display())))
}

/// Restricts a directory to its owner.
pub(super) fn make_private(path: &Path) -> Result<(), LaunchError> {
    let mode = fs::Permissions::from_mode(0o700);
    fs::set_permissions(path, mode).map_err(LaunchError::io(format!("restrict `{}`", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_path_that_would_be_cut_off_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(90));
        fs::create_dir(&deep).unwrap();
        let home = OpenHome { path: root.path().into(), life: None };
        let error = home.make_socket_dir(&Account::Ours, Some(&deep)).unwrap_err();
        assert!(matches!(error, LaunchError::SocketPathTooLong { .. }), "{error}");
    }

    #[test]
    fn a_directory_of_another_program_is_never_removed() {
        let root = tempfile::tempdir().unwrap();
        let other = root.path().join("other");
        fs::create_dir(&other).unwrap();
        remove_socket_dir(&other);
        assert!(other.exists());
    }

    #[test]
    fn the_next_start_clears_the_socket_directory_of_a_killed_one() {
        let root = tempfile::tempdir().unwrap();
        let home = OpenHome { path: root.path().into(), life: None };
        let first = home.make_socket_dir(&Account::Ours, Some(root.path())).unwrap();
        fs::write(first.join(".s.PGSQL.5432"), "").unwrap();
        let second = home.make_socket_dir(&Account::Ours, Some(root.path())).unwrap();
        assert!(!first.exists() && second.exists());
    }
}

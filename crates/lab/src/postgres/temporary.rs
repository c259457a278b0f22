//! Temporary homes, and the removal of abandoned ones.
//!
//! A process that is killed, or that keeps its server in a `static`, never removes its home; the server
//! still stops, but its data would stay. Each process therefore locks its temporary home for as long as
//! it lives. A process that makes a new temporary home removes all homes without a lock.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;

use super::LaunchError;

use super::pid_file::PidFile;
use super::socket_dir::{PREFIX, SHORT, SOCKET_NOTE, remove_socket_dir, short_path};

/// Locked while the process that made the home lives.
const LIFE: &str = "life.lock";

/// The maker of a home younger than this may not have locked it yet.
const YOUNG: Duration = Duration::from_mins(1);

/// Makes and locks a temporary home; it counts as abandoned once the returned file is closed.
pub(super) fn make(mode: u32) -> Result<(PathBuf, File), LaunchError> {
    remove_abandoned(Path::new(SHORT), YOUNG);
    let path = short_path(Path::new(SHORT));
    let held = DirBuilder::new().mode(mode).create(&path).and_then(|()| {
        let life = File::create(path.join(LIFE))?;
        life.try_lock()?;
        Ok(life)
    });
    let life = held.map_err(LaunchError::io(format!("make the directory `{}`", path.display())))?;
    Ok((path, life))
}

/// Removes the temporary homes of this account that no process has locked and no server uses.
fn remove_abandoned(parent: &Path, young: Duration) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_named_so = entry.file_name().to_string_lossy().starts_with(PREFIX);
        // An error: it is not our home, or another process removes it at this moment.
        if is_named_so && is_abandoned(&entry.path(), young).unwrap_or(false) {
            remove(&entry.path());
        }
    }
}

fn is_abandoned(home: &Path, young: Duration) -> io::Result<bool> {
    // For a link this describes the link itself: it never follows a link out of the parent.
    let meta = fs::symlink_metadata(home)?;
    if !meta.is_dir() || meta.uid() != geteuid().as_raw() {
        return Ok(false);
    }
    let life = File::open(home.join(LIFE))?;
    // A file from the future, as after a clock change, counts as young.
    let age = life.metadata()?.modified()?.elapsed().unwrap_or_default();
    let is_free = age >= young && life.try_lock().is_ok();
    Ok(is_free && !PidFile::read(&home.join("data")).is_some_and(|file| file.is_alive()))
}

/// Removes a temporary home and its socket directory.
pub(super) fn remove(home: &Path) {
    if let Ok(socket_dir) = fs::read_to_string(home.join(SOCKET_NOTE)) {
        remove_socket_dir(Path::new(socket_dir.trim()));
    }
    if let Err(error) = fs::remove_dir_all(home) {
        tracing::warn!(path = %home.display(), %error, "could not remove a temporary directory");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(parent: &Path, name: &str) -> PathBuf {
        let home = parent.join(name);
        fs::create_dir_all(home.join("data")).unwrap();
        fs::write(home.join(LIFE), "").unwrap();
        home
    }

    #[test]
    fn a_home_whose_process_is_gone_is_removed_with_its_socket_directory() {
        let parent = tempfile::tempdir().unwrap();
        let socket_dir = parent.path().join("warmproof-socket");
        fs::create_dir(&socket_dir).unwrap();
        let abandoned = home(parent.path(), "warmproof-a");
        fs::write(abandoned.join(SOCKET_NOTE), socket_dir.to_str().unwrap()).unwrap();
        remove_abandoned(parent.path(), Duration::ZERO);
        assert!(!abandoned.exists() && !socket_dir.exists());
    }

    #[test]
    fn a_home_in_use_or_of_another_account_stays() {
        let parent = tempfile::tempdir().unwrap();
        let held = home(parent.path(), "warmproof-held");
        let life = File::open(held.join(LIFE)).unwrap();
        life.try_lock().unwrap();
        let served = home(parent.path(), "warmproof-served");
        fs::write(served.join("data/postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
        let foreign = home(parent.path(), "other-a");
        remove_abandoned(parent.path(), Duration::ZERO);
        assert!(held.exists() && served.exists() && foreign.exists());
    }

    #[test]
    fn a_home_in_the_making_stays() {
        let parent = tempfile::tempdir().unwrap();
        let young = home(parent.path(), "warmproof-young");
        remove_abandoned(parent.path(), YOUNG);
        assert!(young.exists());
    }
}

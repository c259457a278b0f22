//! Directories for sockets: short enough for a socket's path, and ours by their name.

use std::fs;
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// The parent of directories with short names: a socket's path must be short.
pub(super) const SHORT: &str = "/tmp";
pub(super) const PREFIX: &str = "warmproof-";
/// Names the socket's directory, in the home.
pub(super) const SOCKET_NOTE: &str = "socket-dir";

/// Removes one of our socket directories. Call it only when no server runs on this home: then only the
/// socket of a killed server can be left in it.
pub(super) fn remove_socket_dir(dir: &Path) {
    let starts_with = |path: &Path, prefix: &str| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    if !starts_with(dir, PREFIX) {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if starts_with(&entry.path(), ".s.PGSQL.") {
            let _ = fs::remove_file(entry.path());
        }
    }
    // Fails, as it should, when the directory holds other files or is already gone.
    let _ = fs::remove_dir(dir);
}

pub(super) fn short_path(parent: &Path) -> PathBuf {
    let mut name = Uuid::new_v4().simple().to_string();
    name.truncate(12);
    parent.join(format!("{PREFIX}{name}"))
}

//! The account that runs the server. PostgreSQL refuses to run as root, so root switches to another one.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use nix::unistd::{User, geteuid};

use super::LaunchError;

/// The accounts that root switches to, best first.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

/// The account that runs the programs of PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Account {
    /// Our own account.
    Ours,
    /// Another account, because we are root.
    Other { name: String, uid: u32, gid: u32 },
}

impl Account {
    /// Our own account, unless we are root.
    pub(super) fn choose() -> Result<Self, LaunchError> {
        if !geteuid().is_root() {
            return Ok(Self::Ours);
        }
        let known = CANDIDATES.iter().find_map(|name| User::from_name(name).ok().flatten());
        let user = known.ok_or(LaunchError::NoAccount)?;
        Ok(Self::Other { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() })
    }

    /// A command that runs as this account, without our environment.
    ///
    /// Variables such as `PGPORT` or a preloaded clock must not reach the server.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").env("PATH", "/usr/bin:/bin").current_dir("/");
        if let Self::Other { uid, gid, .. } = self {
            // Setting a uid also drops root's supplementary groups.
            command.uid(*uid).gid(*gid);
        }
        command
    }

    /// Makes this account the owner of `path`.
    pub(super) fn take(&self, path: &Path) -> Result<(), LaunchError> {
        match self {
            Self::Ours => Ok(()),
            Self::Other { uid, gid, .. } => chown(path, Some(*uid), Some(*gid))
                .map_err(LaunchError::io(format!("change the owner of `{}`", path.display()))),
        }
    }

    /// Checks that this account can pass every directory down to `path`, and enter or run `path` itself.
    ///
    /// For a closed parent, the server itself reports `permission denied` without the parent's path.
    pub(super) fn check_reach(&self, path: &Path) -> Result<(), LaunchError> {
        let Self::Other { name, uid, gid } = self else { return Ok(()) };
        for step in path.ancestors() {
            let meta =
                fs::metadata(step).map_err(LaunchError::io(format!("inspect `{}`", step.display())))?;
            if !may_pass(meta.mode(), meta.uid() == *uid, meta.gid() == *gid) {
                let need = if meta.is_dir() { "enter" } else { "run" };
                return Err(LaunchError::OutOfReach { account: name.clone(), path: step.to_owned(), need });
            }
        }
        Ok(())
    }
}

/// Whether the permission bits allow an account to enter a directory or run a file.
fn may_pass(mode: u32, is_owner: bool, is_in_group: bool) -> bool {
    let bit = match (is_owner, is_in_group) {
        (true, _) => 0o100,
        (false, true) => 0o010,
        (false, false) => 0o001,
    };
    mode & bit != 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_private_directory_is_closed_to_others() {
        assert!(may_pass(0o700, true, false));
        assert!(!may_pass(0o700, false, true));
        assert!(!may_pass(0o700, false, false));
        assert!(may_pass(0o755, false, false));
    }

    #[test]
    fn the_owners_bits_count_even_when_all_others_have_more_rights() {
        assert!(!may_pass(0o055, true, true));
    }

    #[test]
    fn the_error_names_the_directory_that_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let stranger = Account::Other { name: "stranger".into(), uid: 4_000_000, gid: 4_000_000 };
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let error = stranger.check_reach(&inner).unwrap_err().to_string();
        let expected = format!("`stranger`: that account may not enter `{}`", dir.path().display());
        assert!(error.contains(&expected), "{error}");
    }
}

//! Where PostgreSQL's programs may be, and where a private server may put its socket.
//!
//! Only reads the environment; `postgres` decides what to make of it.

use std::env;
use std::ffi::OsStr;
use std::path::PathBuf;

/// The directory inside a cache directory that leads to the programs `scripts/bootstrap` installed.
pub const CACHED_BIN: &str = "warmproof/postgres-bin";

/// The cache that serves every account of this machine, used when the bootstrap ran as root.
const SYSTEM_CACHE: &str = "/var/cache";

/// The places of PostgreSQL that the environment names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discovery {
    /// `WARMPROOF_PG_BIN`: the directory that holds `initdb` and `postgres`.
    /// When set, no other place is searched: a wrong value is an error and never silently another version.
    pub pg_bin: Option<PathBuf>,
    /// `PATH`, split.
    pub path: Vec<PathBuf>,
    /// Cache directories below which `scripts/bootstrap` leaves [`CACHED_BIN`].
    pub caches: Vec<PathBuf>,
    /// `XDG_RUNTIME_DIR`: a private directory of this user, good for a socket.
    pub runtime_dir: Option<PathBuf>,
}

impl Discovery {
    /// Reads the environment of this process.
    #[expect(clippy::disallowed_methods, reason = "config is the one reader of the environment")]
    pub fn from_environment() -> Self {
        Self::from_lookup(|name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
    }

    /// As [`Discovery::from_environment`], with the environment given as a function.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let own_cache = lookup("XDG_CACHE_HOME").or_else(|| lookup("HOME").map(|home| home.join(".cache")));
        let path = lookup("PATH").unwrap_or_default();
        Self {
            pg_bin: lookup("WARMPROOF_PG_BIN"),
            path: env::split_paths::<OsStr>(path.as_ref()).filter(|dir| dir.is_absolute()).collect(),
            caches: own_cache.into_iter().chain([PathBuf::from(SYSTEM_CACHE)]).collect(),
            runtime_dir: lookup("XDG_RUNTIME_DIR"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_environment_still_knows_the_machine_wide_cache() {
        let found = Discovery::from_lookup(|_| None);
        assert_eq!(found, Discovery { caches: vec![SYSTEM_CACHE.into()], ..Discovery::default() });
    }

    #[test]
    fn relative_entries_of_path_are_not_trusted() {
        let found = Discovery::from_lookup(|name| (name == "PATH").then(|| "bin:/usr/bin:.".into()));
        assert_eq!(found.path, [PathBuf::from("/usr/bin")]);
    }

    #[test]
    fn the_users_cache_comes_before_the_machines() {
        let found = Discovery::from_lookup(|name| (name == "HOME").then(|| "/home/ada".into()));
        assert_eq!(found.caches, [PathBuf::from("/home/ada/.cache"), PathBuf::from(SYSTEM_CACHE)]);
    }
}

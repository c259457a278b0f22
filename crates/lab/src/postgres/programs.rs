//! Finds the programs of an installed PostgreSQL.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::postgres::discovery::{CACHED_BIN, Discovery};

use super::{LaunchError, MAJOR_MIN};

/// Places where packages put the programs; `*` is a version. The newest versions are tried first.
const PACKAGED: [(&str, &str); 5] = [
    ("/usr/lib/postgresql", "bin"),                            // Debian, Ubuntu
    ("/usr", "pgsql-*/bin"),                                   // Fedora, Red Hat
    ("/opt/homebrew/opt", "postgresql@*/bin"),                 // Homebrew on Apple silicon
    ("/usr/local/opt", "postgresql@*/bin"),                    // Homebrew on Intel
    ("/Applications/Postgres.app/Contents/Versions", "*/bin"), // Postgres.app
];

/// One installed PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Programs {
    pub(super) bin: PathBuf,
    pub(super) major: u32,
}

impl Programs {
    pub(super) fn initdb(&self) -> PathBuf {
        self.bin.join("initdb")
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.bin.join("postgres")
    }

    /// The programs for a data directory: those of its major version, or the best ones if it is new.
    ///
    /// Another major version cannot read the data, so it is never used instead.
    pub(super) fn choose(
        discovery: &Discovery,
        data: &Path,
        wanted: Option<&str>,
    ) -> Result<Self, LaunchError> {
        let (found, rejected) = find(discovery)?;
        let Some(wanted) = wanted else {
            return found.into_iter().next().ok_or_else(|| no_programs(&rejected));
        };
        if found.is_empty() {
            return Err(no_programs(&rejected));
        }
        let names: Vec<String> =
            found.iter().map(|one| format!("{} (`{}`)", one.major, one.bin.display())).collect();
        let fitting = found.into_iter().find(|one| one.major.to_string() == wanted);
        fitting.ok_or_else(|| LaunchError::OtherMajor {
            data: data.to_owned(),
            wanted: wanted.to_owned(),
            found: names.join(", "),
        })
    }
}

fn no_programs(rejected: &[String]) -> LaunchError {
    let mut places = String::from("WARMPROOF_PG_BIN, PATH, the usual directories and our cache");
    if !rejected.is_empty() {
        places = format!("{places} (not usable: {})", rejected.join("; "));
    }
    LaunchError::NoPrograms { min: MAJOR_MIN, places }
}

/// All usable PostgreSQL installations, best first, and what was wrong with the others.
fn find(discovery: &Discovery) -> Result<(Vec<Programs>, Vec<String>), LaunchError> {
    if let Some(dir) = &discovery.pg_bin {
        let only = inspect(dir).map_err(|problem| LaunchError::BadPgBin { dir: dir.clone(), problem })?;
        return Ok((vec![only], Vec::new()));
    }
    let (mut found, mut rejected) = (Vec::<Programs>::new(), Vec::new());
    for dir in candidates(discovery) {
        match inspect(&dir) {
            Ok(programs) if found.contains(&programs) => {}
            Ok(programs) => found.push(programs),
            Err(problem) => rejected.push(format!("`{}`: {problem}", dir.display())),
        }
    }
    Ok((found, rejected))
}

/// Directories that hold at least one of the programs, in the order of preference.
fn candidates(discovery: &Discovery) -> Vec<PathBuf> {
    let mut dirs = discovery.path.clone();
    dirs.extend(discovery.path.iter().find_map(|dir| ask_pg_config(&dir.join("pg_config"))));
    for (root, pattern) in PACKAGED {
        dirs.extend(versioned(Path::new(root), pattern));
    }
    dirs.extend(discovery.caches.iter().map(|cache| cache.join(CACHED_BIN)));
    dirs.retain(|dir| dir.join("postgres").is_file());
    dirs
}

/// `pg_config` may come with a client package only, so its answer is only a candidate.
fn ask_pg_config(program: &Path) -> Option<PathBuf> {
    let output = Command::new(program).arg("--bindir").output().ok()?;
    let answer = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(answer.trim()))
}

/// The directories under `root` that match `pattern`, the highest version first.
fn versioned(root: &Path, pattern: &str) -> Vec<PathBuf> {
    let (name, tail) = pattern.split_once('/').unwrap_or(("*", pattern));
    let prefix = name.trim_end_matches('*');
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((version, entry.path().join(tail)))
        })
        .collect();
    versions.sort_by(|a, b| b.cmp(a));
    versions.into_iter().map(|(_, dir)| dir).collect()
}

/// Checks that a directory holds both programs, in a usable version.
fn inspect(dir: &Path) -> Result<Programs, String> {
    // Resolve links, so that the programs find their own share directory.
    let bin = dir.canonicalize().map_err(|error| error.to_string())?;
    for name in ["initdb", "postgres"] {
        if !bin.join(name).is_file() {
            return Err(format!("no `{name}` there"));
        }
    }
    let output = Command::new(bin.join("postgres"))
        .arg("--version")
        .output()
        .map_err(|error| format!("`postgres --version`: {error}"))?;
    let answer = String::from_utf8_lossy(&output.stdout);
    let major =
        parse_major(&answer).ok_or_else(|| format!("`postgres --version` printed `{}`", answer.trim()))?;
    if major < MAJOR_MIN {
        return Err(format!("version {major} is older than {MAJOR_MIN}"));
    }
    Ok(Programs { bin, major })
}

/// `postgres (PostgreSQL) 15.18 (Debian …)`, or `18beta1` in place of `15.18`.
fn parse_major(answer: &str) -> Option<u32> {
    let number = answer.split_once("(PostgreSQL)")?.1.trim_start();
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_releases_and_betas() {
        assert_eq!(parse_major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_major("postgres (PostgreSQL) \n"), None);
        assert_eq!(parse_major("bash: postgres: command not found"), None);
    }

    #[test]
    fn higher_versions_come_first_by_number_not_by_letter() {
        let root = tempfile::tempdir().unwrap();
        for name in ["pgsql-9", "pgsql-15", "pgsql-18", "pgsql-x", "java"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        let found = versioned(root.path(), "pgsql-*/bin");
        let expected = ["pgsql-18/bin", "pgsql-15/bin", "pgsql-9/bin"].map(|dir| root.path().join(dir));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_wrong_pg_bin_is_an_error_even_when_other_programs_exist() {
        let empty = tempfile::tempdir().unwrap();
        let discovery = Discovery {
            pg_bin: Some(empty.path().into()),
            path: vec!["/usr/bin".into()],
            ..Discovery::default()
        };
        let error = Programs::choose(&discovery, Path::new("data"), None).unwrap_err().to_string();
        assert!(error.contains("WARMPROOF_PG_BIN") && error.contains("no `initdb` there"), "{error}");
        assert!(error.contains("hint:"), "{error}");
    }
}

//! Applies the migrations as `warmproof migrate` would, but with psql.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};

use super::server::Server;

/// The first line of a migration that runs without a transaction.
const NO_TRANSACTION: &str = "-- refinery:no-transaction";

/// Makes the schema and applies every migration of the directory to it.
pub(super) async fn apply(server: &Server, schema: &str, directory: &Path) -> anyhow::Result<()> {
    psql(server, schema, &["-c", &format!("create schema {schema}")])
        .await
        .context("cannot make a schema")?;
    for file in in_order(directory)? {
        let failed = || format!("{} failed", file.display());
        let whole = runs_in_one_transaction(&fs::read_to_string(&file).with_context(failed)?);
        let name = file.to_str().with_context(failed)?;
        let arguments: &[&str] = if whole { &["--single-transaction", "-f", name] } else { &["-f", name] };
        psql(server, schema, arguments).await.with_context(failed)?;
    }
    Ok(())
}

async fn psql(server: &Server, schema: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let mut psql = server.psql();
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1"])
        .args(arguments)
        .env("PGOPTIONS", format!("-c search_path={schema},pg_temp -c client_min_messages=warning"))
        .stdout(Stdio::null())
        .kill_on_drop(true);
    let status = psql.status().await.context("cannot run psql")?;
    if !status.success() {
        bail!("psql failed ({status})");
    }
    Ok(())
}

/// The migrations by number, as refinery orders them: V2 before V10.
fn in_order(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut numbered = Vec::new();
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if let Some(number) = path.file_name().and_then(|name| number(name.to_str()?)) {
            numbered.push((number, path));
        }
    }
    if numbered.is_empty() {
        bail!("{} holds no migrations", directory.display());
    }
    numbered.sort();
    Ok(numbered.into_iter().map(|(_, path)| path).collect())
}

/// 12 for `V12__name.sql`; none for a file that is no migration.
fn number(name: &str) -> Option<u64> {
    let (number, _) = name.strip_suffix(".sql")?.strip_prefix(['V', 'U'])?.split_once("__")?;
    number.parse().ok()
}

fn runs_in_one_transaction(text: &str) -> bool {
    !text.starts_with(NO_TRANSACTION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_ordered_by_number_and_other_files_are_none() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["V10__last.sql", "V2__second.sql", "V1__first.sql", "README.md", "V3__notes.md"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let expected = ["V1__first.sql", "V2__second.sql", "V10__last.sql"];
        assert_eq!(in_order(directory.path()).unwrap(), expected.map(|name| directory.path().join(name)));
    }

    #[test]
    fn a_directory_without_migrations_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(in_order(directory.path()).unwrap_err().to_string().contains("holds no migrations"));
    }

    #[test]
    fn only_the_first_line_declares_that_a_migration_runs_without_a_transaction() {
        assert!(!runs_in_one_transaction(
            "-- refinery:no-transaction\ncreate index concurrently i on t (c);"
        ));
        assert!(runs_in_one_transaction("-- Tables.\n-- refinery:no-transaction\n"));
    }
}

//! Regenerates sqlx-data.json, the metadata of every checked query, or checks that it is not stale.
//!
//! A private PostgreSQL gets `migrations/`, by psql: our own program may not compile while its queries
//! change. Then the macros describe the queries against it, one file each, which are merged into one.

mod merge;
mod migrations;
mod server;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use clap::Args;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::root;
use server::Server;

const DATA: &str = "sqlx-data.json";

/// The schema that the queries are described in; its name is not in them.
const SCHEMA: &str = "warmproof";

/// What cargo sets for this program. Some build scripts depend on it, and a `cargo check` that inherits it
/// would rebuild them, and all that needs them, each time.
const OF_THIS_PACKAGE: [&str; 8] = [
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_LINKS",
    "CARGO_PKG_NAME",
    "CARGO_PKG_VERSION",
    "CARGO_PKG_VERSION_MAJOR",
    "CARGO_PKG_VERSION_MINOR",
    "CARGO_PKG_VERSION_PATCH",
    "CARGO_PKG_VERSION_PRE",
];

/// How to prepare.
#[derive(Debug, Args)]
pub(crate) struct PrepareArgs {
    /// Write nothing, and fail if the file is stale
    #[arg(long)]
    check: bool,
}

/// Regenerates or checks the file. Answers a line for people.
///
/// Signals end it like an error does, so that the server and its directory never stay behind.
pub(crate) fn prepare(args: &PrepareArgs) -> anyhow::Result<String> {
    // One thread: the kernel's "parent died" signal refers to the thread that spawned the server.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::select! {
            biased;
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
            _ = hangup.recv() => bail!("the terminal is gone"),
            done = regenerate(args.check) => done,
        }
    })
}

async fn regenerate(check: bool) -> anyhow::Result<String> {
    let root = root();
    let server = Server::start(&root).await?;
    migrations::apply(&server, SCHEMA, &root.join("migrations")).await?;
    let queries = server.directory().join("queries");
    fs::create_dir(&queries)?;
    describe(&root, &server, &queries).await?;
    let fresh = merge::merge(&queries)?;

    let path = root.join(DATA);
    if !check {
        fs::write(&path, &fresh).with_context(|| format!("cannot write {}", path.display()))?;
        return Ok(format!("{DATA}: {} queries", fs::read_dir(&queries)?.count()));
    }
    let committed = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    if committed != fresh {
        show_difference(&root, &server.directory().join(DATA), &fresh).await?;
        bail!("{DATA} is stale; run `make prepare` and commit the result");
    }
    Ok(format!("{DATA} is up to date"))
}

/// Lets the macros describe every checked query of the workspace, into one file each.
async fn describe(root: &Path, server: &Server, queries: &Path) -> anyhow::Result<()> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["check", "--quiet", "--workspace", "--all-targets"])
        .current_dir(root)
        .env("SQLX_OFFLINE", "false")
        .env("SQLX_OFFLINE_DIR", queries)
        .env("DATABASE_URL", server.url(SCHEMA))
        .kill_on_drop(true);
    for name in OF_THIS_PACKAGE {
        cargo.env_remove(name);
    }
    let status = cargo.status().await.context("cannot run cargo")?;
    if !status.success() {
        bail!("`cargo check` failed against the migrated database ({status})");
    }
    Ok(())
}

/// Prints what changed, so that a log of CI names the queries.
async fn show_difference(root: &Path, beside: &Path, fresh: &str) -> anyhow::Result<()> {
    fs::write(beside, fresh)?;
    let mut diff = Command::new("diff");
    diff.arg("-u").arg(DATA).arg(beside).current_dir(root).kill_on_drop(true);
    diff.status().await.with_context(|| format!("{DATA} is stale, and `diff` cannot show how"))?;
    Ok(())
}

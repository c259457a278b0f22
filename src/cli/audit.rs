//! `warmproof audit`: what operators did, newest first.

use std::process::ExitCode;

use clap::Args;

use super::output;
use crate::store::audit::Audited;

/// What `audit` shows.
#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    /// Most entries to show
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Only entries before this number, to continue where another answer ended
    #[arg(long, value_name = "NUMBER")]
    before: Option<i64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Shows what operators did, by page, API or command.
pub(super) async fn audit(args: AuditArgs) -> anyhow::Result<ExitCode> {
    let entries = output::connect().await?.audit(args.before, args.limit).await?;
    if args.json {
        output::json(&entries)?;
        return Ok(ExitCode::SUCCESS);
    }
    if entries.is_empty() {
        output::line("no operator has done anything yet")?;
        return Ok(ExitCode::SUCCESS);
    }
    let row = |entry: &Audited| {
        vec![
            entry.id.to_string(),
            output::instant(entry.at),
            entry.actor.clone(),
            entry.action.clone(),
            output::or_dash(entry.target.as_deref()),
            entry.detail.to_string(),
        ]
    };
    output::table(
        &["no.", "when", "actor", "action", "target", "detail"],
        entries.iter().map(row).collect(),
    )?;
    Ok(ExitCode::SUCCESS)
}

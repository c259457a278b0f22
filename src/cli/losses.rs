//! `warmproof losses`: the latest losses, run by run.

use std::process::ExitCode;

use clap::Args;

use super::output;
use crate::domain::ids::SupervisorName;
use crate::store::latest_losses::Lost;

/// What `losses` shows.
#[derive(Debug, Args)]
pub(super) struct LossesArgs {
    /// Only in this pool
    #[arg(long)]
    pool: Option<String>,
    /// Most losses to show, the latest first
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Lists losses; `warmproof show RUN` has the details of each.
pub(super) async fn losses(args: LossesArgs) -> anyhow::Result<ExitCode> {
    let store = output::connect().await?;
    output::require_pool(&store, args.pool.as_deref()).await?;
    let losses = store.latest_lost(args.pool.as_deref(), args.limit).await?;
    if args.json {
        output::json(&losses)?;
        return Ok(ExitCode::SUCCESS);
    }
    if losses.is_empty() {
        output::line("no loss among the outcomes that are still kept")?;
        return Ok(ExitCode::SUCCESS);
    }
    let row = |one: &Lost| {
        vec![
            output::instant(one.settled_at),
            one.run_id.clone(),
            one.pool.clone(),
            output::or_dash(one.supervisor.as_ref().map(SupervisorName::as_str)),
            output::or_dash(one.deployment_version.as_deref()),
            one.outcome.as_str().to_owned(),
            output::or_dash(one.result()),
        ]
    };
    let header = ["when", "run", "pool", "supervisor", "version", "outcome", "result"];
    output::table(&header, losses.iter().map(row).collect())?;
    Ok(ExitCode::SUCCESS)
}

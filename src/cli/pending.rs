//! `warmproof pending` and `warmproof cancel`: list and cancel what is pending.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::output;
use crate::domain::ids::{RegionName, RunId, SnapshotId, SupervisorName};
use crate::domain::status::Status;
use crate::domain::verification::Cancelled;
use crate::store::lookup::Pending;
use crate::store::pending::PendingFilter;

/// Most verifications that one command cancels.
const CANCEL_MAX: u32 = 1_000_000;

/// Which pending verifications to show or cancel.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Only in this pool
    #[arg(long)]
    pool: Option<String>,
    /// Only from this supervisor
    #[arg(long)]
    supervisor: Option<SupervisorName>,
    /// Only from this region
    #[arg(long)]
    region: Option<RegionName>,
    /// Only of this deployment version
    #[arg(long = "deployment-version", value_name = "VERSION")]
    deployment_version: Option<String>,
    /// Only verifications in this status
    #[arg(long, value_enum)]
    status: Option<StatusArg>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StatusArg {
    /// A worker holds it
    Claimed,
    /// No worker has claimed it two seconds after its probe was due
    Overdue,
    /// Marked lost, its cold start is deferred: cap, brown-out, paused, or no room
    Held,
    /// Marked lost, and its next probe is not due yet
    Lost,
    /// Its next probe is not due yet
    Waiting,
}

impl Filter {
    fn into_filter(self) -> PendingFilter {
        PendingFilter {
            pool: self.pool,
            supervisor: self.supervisor,
            region: self.region,
            deployment_version: self.deployment_version,
            status: self.status.map(|status| match status {
                StatusArg::Claimed => Status::Claimed,
                StatusArg::Overdue => Status::Overdue,
                StatusArg::Held => Status::Held,
                StatusArg::Lost => Status::Lost,
                StatusArg::Waiting => Status::Waiting,
            }),
        }
    }
}

/// What `pending` shows.
#[derive(Debug, Args)]
pub(super) struct PendingArgs {
    #[command(flatten)]
    filter: Filter,
    /// Most verifications to show, in the order of their next probes
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Shows counts by pool and status, and the verifications with the next probes.
pub(super) async fn pending(args: PendingArgs) -> anyhow::Result<ExitCode> {
    let store = output::connect().await?;
    let filter = args.filter.into_filter();
    output::require_pool(&store, filter.pool.as_deref()).await?;
    let counts = store.pending_counts().await?;
    let page = store.pending_page(&filter, None, args.limit).await?;
    if args.json {
        output::json(&json!({ "counts": counts, "pending": page }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let header = ["pool", "pending", "waiting", "claimed", "lost", "held", "overdue"];
    let numbers = counts.iter().map(|one| {
        let by_status = [one.pending, one.waiting, one.claimed, one.lost, one.held, one.overdue];
        std::iter::once(one.pool.clone()).chain(by_status.iter().map(ToString::to_string)).collect()
    });
    output::table(&header, numbers.collect())?;
    if page.is_empty() {
        output::line("no pending verification matches")?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = store.clock().await?;
    let header = ["run", "pool", "supervisor", "probed in", "status", "worker", "last error"];
    let row = |one: &Pending| {
        vec![
            one.run_id.clone(),
            one.pool.clone(),
            output::or_dash(one.supervisor.as_ref().map(SupervisorName::as_str)),
            output::span(one.probe_at - now),
            status(one),
            output::or_dash(one.worker.as_deref()),
            output::or_dash(one.last_error.as_deref()),
        ]
    };
    output::table(&header, page.iter().map(row).collect())?;
    if page.len() == args.limit as usize {
        output::line("there may be more; ask with a larger --limit")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The status, with the reason if it is held.
fn status(pending: &Pending) -> String {
    match pending.hold_reason {
        Some(reason) if pending.status == Status::Held => {
            format!("{}: {}", pending.status.as_str(), reason.as_str())
        }
        Some(_) | None => pending.status.as_str().to_owned(),
    }
}

/// What `cancel` cancels: the verification of one run, or all that match a filter.
#[derive(Debug, Args)]
pub(super) struct CancelArgs {
    /// The run; without it a filter is needed
    run: Option<String>,
    /// Only if its pending verification is for this snapshot
    #[arg(long, requires = "run")]
    snapshot: Option<String>,
    #[command(flatten)]
    filter: Filter,
    /// Cancel the verifications that match the filter; without this flag they are only counted
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Cancels as an operator. Exits with 1 when there was nothing to cancel.
pub(super) async fn cancel(args: CancelArgs) -> anyhow::Result<ExitCode> {
    let filter = args.filter.into_filter();
    let of_filter = filter != PendingFilter::default();
    match args.run {
        Some(_) if of_filter => anyhow::bail!("name a run or a filter, not both"),
        Some(run) => cancel_run(&run, args.snapshot.as_deref(), args.json).await,
        None if !of_filter => {
            anyhow::bail!("name a run, or a filter such as --pool NAME; `warmproof pending` lists them")
        }
        None => cancel_filter(&filter, args.yes, args.json).await,
    }
}

async fn cancel_run(run: &str, snapshot: Option<&str>, json: bool) -> anyhow::Result<ExitCode> {
    let run_id = RunId::parse(run.to_owned())?;
    let snapshot_id = snapshot.map(|snapshot| SnapshotId::parse(snapshot.to_owned())).transpose()?;
    let store = output::connect().await?;
    let cancelled = store.operator_cancel(&run_id, snapshot_id, &output::actor()).await?;
    if json {
        output::json(&cancelled)?;
    } else {
        output::line(match &cancelled {
            Cancelled::Cancelled { .. } => "cancelled: the run will not be probed or started cold",
            Cancelled::Noted { .. } => "noted",
            Cancelled::TooLate { .. } => "too late: a cold start is permitted already",
            Cancelled::NotFound => "nothing is pending for that run; `warmproof show RUN` shows its past",
            Cancelled::Busy => "another transaction holds its row: try again when that has ended",
        })?;
    }
    let done = matches!(cancelled, Cancelled::Cancelled { .. });
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn cancel_filter(filter: &PendingFilter, yes: bool, json: bool) -> anyhow::Result<ExitCode> {
    let store = output::connect().await?;
    output::require_pool(&store, filter.pool.as_deref()).await?;
    if !yes {
        let matching = store.count_pending(filter, CANCEL_MAX).await?;
        if json {
            output::json(&json!({ "matching": matching }))?;
        } else {
            output::line(&format!("{} match; add --yes to cancel", verifications(matching)))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let done = store.operator_cancel_where(filter, CANCEL_MAX, &output::actor()).await?;
    if json {
        output::json(&done)?;
    } else {
        output::line(&format!("{} cancelled", verifications(done.cancelled)))?;
        if done.busy > 0 {
            let busy = verifications(done.busy);
            output::line(&format!("{busy} skipped: other transactions hold their rows; try again later"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn verifications(count: impl Into<i64>) -> String {
    match count.into() {
        1 => "1 verification".to_owned(),
        count => format!("{count} verifications"),
    }
}

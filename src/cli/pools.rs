//! `warmproof pools`: shows the settings of pools, and changes them while workers run.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::output;
use crate::domain::pool::OnConnect;
use crate::store::pool::{Pool, PoolChange, Stopped};

/// What to do with pools.
#[derive(Debug, Args)]
pub(super) struct PoolsArgs {
    #[command(subcommand)]
    action: Option<Action>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show all pools; the default
    List,
    /// Stop claims in a pool until it is resumed
    Pause {
        /// The pool
        pool: String,
    },
    /// Stop all cold starts at once, also of losses that have their permit; probes and records go on
    Stop {
        /// The pool
        #[arg(required_unless_present = "all")]
        pool: Option<String>,
        /// Every pool
        #[arg(long, conflicts_with = "pool")]
        all: bool,
    },
    /// Resume claims in a pool
    Resume {
        /// The pool
        pool: String,
    },
    /// Record losses and create nothing, or create again
    Shadow {
        /// The pool
        pool: String,
        /// Whether
        #[arg(value_enum)]
        shadow: OnOff,
    },
    /// Set the delay from schedule to probe, for calls without a delay of their own
    Delay {
        /// The pool
        pool: String,
        /// Milliseconds from 1000 to 60000, or `none`
        #[arg(value_parser = number_or_none)]
        delay_ms: Limit,
    },
    /// Set the most fallbacks in one window over all workers
    Cap {
        /// The pool
        pool: String,
        /// A count, 0 to stop all fallbacks, or `none`
        #[arg(value_parser = number_or_none)]
        cap: Limit,
        /// The window in milliseconds, 100 to 3600000; unchanged if not given
        #[arg(long, value_name = "MS")]
        window_ms: Option<i32>,
    },
    /// Set whether a runner's connect ends its verification or is only noted
    OnConnect {
        /// The pool
        pool: String,
        /// What a connect does
        #[arg(value_enum)]
        means: Means,
    },
    /// Set the time from a created fallback to its follow-up
    FollowUp {
        /// The pool
        pool: String,
        /// Milliseconds from 1000 to 600000, or `none`
        #[arg(value_parser = number_or_none)]
        after_ms: Limit,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnOff {
    On,
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Means {
    Confirm,
    KeepWatching,
}

/// A number, or none.
#[derive(Debug, Clone, Copy)]
struct Limit(Option<i32>);

fn number_or_none(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    text.parse().map(|number| Limit(Some(number))).map_err(|_| "must be a whole number or `none`".to_owned())
}

impl Action {
    /// Which pool the command changes and how; `None` if it only shows.
    fn change(self) -> Option<(String, PoolChange)> {
        let none = PoolChange::default();
        Some(match self {
            Self::List | Self::Stop { .. } => return None,
            Self::Pause { pool } => (pool, PoolChange { paused: Some(true), ..none }),
            Self::Resume { pool } => (pool, PoolChange { paused: Some(false), ..none }),
            Self::Shadow { pool, shadow } => {
                (pool, PoolChange { shadow: Some(matches!(shadow, OnOff::On)), ..none })
            }
            Self::Delay { pool, delay_ms } => (pool, PoolChange { delay_ms: Some(delay_ms.0), ..none }),
            Self::Cap { pool, cap, window_ms } => {
                (pool, PoolChange { cap: Some(cap.0), cap_window_ms: window_ms, ..none })
            }
            Self::OnConnect { pool, means } => {
                let on_connect = match means {
                    Means::Confirm => OnConnect::Confirm,
                    Means::KeepWatching => OnConnect::KeepWatching,
                };
                (pool, PoolChange { on_connect: Some(on_connect), ..none })
            }
            Self::FollowUp { pool, after_ms } => {
                (pool, PoolChange { follow_up_after_ms: Some(after_ms.0), ..none })
            }
        })
    }
}

/// Lists pools, or changes one and shows it.
pub(super) async fn pools(args: PoolsArgs) -> anyhow::Result<ExitCode> {
    if let Some(Action::Stop { pool, .. }) = &args.action {
        return stop(pool.as_deref(), args.json).await;
    }
    let Some((name, change)) = args.action.and_then(Action::change) else { return list(args.json).await };
    if let Err(faults) = change.check() {
        let reported: Vec<String> = faults.iter().map(ToString::to_string).collect();
        anyhow::bail!(reported.join("; "));
    }
    let store = output::connect().await?;
    let Some(changed) = store.change_pool(&name, &change, &output::actor()).await? else {
        return Err(output::unknown_pool(&store, &name).await?);
    };
    if args.json {
        output::json(&changed)?;
    } else {
        show(std::slice::from_ref(&changed))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Sets the cap of one pool, or of all, to 0.
async fn stop(pool: Option<&str>, json: bool) -> anyhow::Result<ExitCode> {
    let store = output::connect().await?;
    output::require_pool(&store, pool).await?;
    let stopped = store.stop_cold_starts(pool, &output::actor()).await?;
    if json {
        output::json(&json!({ "stopped": stopped }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for Stopped { pool, cap } in stopped {
        let before = cap.map_or("none".to_owned(), |cap| cap.to_string());
        output::line(&format!(
            "{pool}: no cold starts; to allow them again: warmproof pools cap {pool} {before}"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(json: bool) -> anyhow::Result<ExitCode> {
    let store = output::connect().await?;
    let (settings, served) = (store.pool_settings().await?, store.pools_served().await?);
    if json {
        output::json(&json!({ "pools": settings, "served": served }))?;
        return Ok(ExitCode::SUCCESS);
    }
    show(&settings)?;
    let rows = served.iter().map(|one| {
        let pending = if one.has_pending { "yes" } else { "no" };
        vec![
            one.pool.clone(),
            one.workers.to_string(),
            one.backends.join(", "),
            pending.to_owned(),
            one.problems.join("; "),
        ]
    });
    output::table(&["pool", "workers", "backend", "any pending", "problems"], rows.collect())?;
    Ok(ExitCode::SUCCESS)
}

fn show(pools: &[Pool]) -> anyhow::Result<()> {
    let header = ["pool", "state", "delay", "cap", "window", "on connect", "cool-down", "follow-up"];
    let row = |pool: &Pool| {
        let state = match (pool.paused, pool.shadow, pool.cap) {
            (true, _, _) => "paused",
            (false, true, _) => "shadow",
            (false, false, Some(0)) => "cap 0",
            (false, false, _) => "active",
        };
        let millis = |value: Option<i32>| value.map_or("-".to_owned(), |value| format!("{value} ms"));
        vec![
            pool.name.clone(),
            state.to_owned(),
            millis(pool.delay_ms),
            pool.cap.map_or("none".to_owned(), |cap| cap.to_string()),
            millis(Some(pool.cap_window_ms)),
            pool.on_connect.as_str().to_owned(),
            millis(Some(pool.cool_down_ms)),
            millis(pool.follow_up_after_ms),
        ]
    };
    output::table(&header, pools.iter().map(row).collect())
}

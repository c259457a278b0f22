//! `memory`: the memory of a worker's and an api's process while many rows are pending.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::context::Context;
use super::load::Stock;
use super::process::{self, Process};
use super::server;

/// How many different messages the pending rows have.
const MESSAGES: usize = 1_000;
/// How long the processes live before the measurement: some claims, a sweep, an upkeep.
const LIVING: Duration = Duration::from_secs(3);

/// Starts one worker and one api over a full table.
///
/// # Errors
/// The server refused, or a process could not be started.
pub async fn run(context: &Context) -> anyhow::Result<Value> {
    let pending = context.pick(50_000, 1_000_000);
    let store = context.fresh_store(2).await?;
    Stock::make(&store, MESSAGES).await?.fill(&store, MESSAGES).await?;
    server::fill_future(&store, pending / MESSAGES).await?;
    server::empty_all_but_future(&store).await?;
    let worker = Process::start(context, "worker").await?;
    let api = Process::start(context, "api").await?;
    sleep(LIVING).await;
    let row = |name: &str, process: &Process| {
        let (now, most) =
            process::resident_kb(process.pid()).with_context(|| format!("the {name} is gone"))?;
        anyhow::Ok(json!({ "process": name, "rss_mb": now.div_ceil(1024), "most_mb": most.div_ceil(1024) }))
    };
    let rows = [row("worker", &worker)?, row("api", &api)?];
    worker.stop().await?;
    api.stop().await?;
    Ok(json!({ "pending": pending, "processes": rows }))
}

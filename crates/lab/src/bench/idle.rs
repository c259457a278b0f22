//! `idle`: what an idle worker costs the server and the machine.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::context::Context;
use super::process::{self, Process};
use super::server;
use crate::bench::context::Bed;

/// The time a worker needs to connect and check each of its queries once.
const SETTLE_IN: Duration = Duration::from_secs(3);
/// Backends report their counters at most this late.
const COUNTERS_LATE: Duration = Duration::from_millis(1200);

/// Transactions per second, as the server counts them over a while.
async fn transactions(store: &Bed, over: Duration) -> anyhow::Result<f64> {
    let begin = Instant::now();
    let before = server::transactions(store.db()).await?;
    sleep(over).await;
    let after = server::transactions(store.db()).await?;
    let count = u32::try_from(after - before)?;
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}

/// CPU time so far of the worker and of its backends, where the kernel reports it.
fn cpu(worker: i32, backends: &[i32]) -> Option<(u64, u64)> {
    let of_backends = backends.iter().map(|pid| process::cpu_nanos(*pid)).sum::<Option<u64>>()?;
    Some((process::cpu_nanos(worker)?, of_backends))
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a minute are far below 2^52")]
fn percent(nanos: u64, over: Duration) -> f64 {
    (nanos as f64 / over.as_secs_f64() / 1e5).round() / 100.0
}

/// Measures the server with one idle worker.
///
/// # Errors
/// The server refused, or the worker could not be started.
pub async fn run(context: &Context) -> anyhow::Result<Value> {
    let over = context.pick(Duration::from_secs(5), Duration::from_secs(30));
    let store = context.fresh_store(1).await?;
    server::vacuum(store.db()).await?;
    sleep(COUNTERS_LATE).await;
    let worker = Process::start(context, "worker").await?;
    sleep(SETTLE_IN).await;
    let backends = server::product_backends(store.db()).await?;
    anyhow::ensure!(!backends.is_empty(), "the worker did not connect");
    let (begin, before) = (Instant::now(), cpu(worker.pid(), &backends));
    let with_worker = transactions(&store, over).await?;
    let (took, after) = (begin.elapsed(), cpu(worker.pid(), &backends));
    let connections = server::product_backends(store.db()).await?.len();
    let resident = process::resident_kb(worker.pid()).context("the worker is gone")?;
    worker.stop().await?;

    let used = after.zip(before);
    let of_worker = used.map(|(after, before)| percent(after.0 - before.0, took));
    let of_backends = used.map(|(after, before)| percent(after.1 - before.1, took));
    // Includes autovacuum and this benchmark's own two queries: the figure is too high rather than too low.
    let queries = with_worker;
    Ok(json!({
        "seconds": over.as_secs(),
        "queries_per_second": (queries * 100.0).round() / 100.0,
        "worker_cpu_percent": of_worker,
        "postgres_cpu_percent": of_backends,
        "connections": connections,
        "worker_rss_mb": resident.0 / 1024,
        "bars": {
            "idle_queries": queries,
            "idle_cpu_percent": of_worker.zip(of_backends).map(|(one, other)| one + other),
        },
    }))
}

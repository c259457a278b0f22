//! `execute`: a whole worker drains due rows: claim, dispatch, null probe, settle.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::context::{Context, SCHEMA};
use super::figures::{Rounds, per_second};
use super::load::Stock;
use super::{process, server};
use crate::bench::context::Bed;
use warmproof::config::WorkerSettings;
use warmproof::config::environment::Environment;
use warmproof::config::verify::Switch;
use warmproof::domain::ids::{RunId, SnapshotId};
use warmproof::domain::verdict::{LatestSnapshot, Observation};
use warmproof::worker::{Probe, ProbeSource, Served, Worker};

/// How long a drain may take before the phase fails.
const PATIENCE: Duration = Duration::from_mins(2);
/// How often the counts are read while a worker drains.
const COUNT_EVERY: Duration = Duration::from_millis(10);

/// Answers every probe with the same snapshot, so that a benchmark measures all the rest.
#[derive(Debug)]
struct Unchanging(LatestSnapshot);

impl ProbeSource for Unchanging {
    fn latest_snapshot<'a>(&'a self, _run_id: &'a RunId) -> BoxFuture<'a, Observation> {
        Box::pin(ready(Ok(self.0.clone())))
    }
}

/// An observation of a run that has moved on.
#[must_use]
pub fn moved_on(snapshot_id: SnapshotId) -> Probe {
    Probe::Custom(Arc::new(Unchanging(LatestSnapshot {
        snapshot_id,
        execution_status: "EXECUTING".to_owned(),
        description: "Attempt created, starting execution (warm start)".to_owned(),
        run_status: "EXECUTING".to_owned(),
        attempt_number: Some(1),
    })))
}

async fn drain(context: &Context, admin: &Bed, rows: usize, in_flight: Option<u32>) -> anyhow::Result<f64> {
    let settings = WorkerSettings::from_environment(&Environment::from_pairs(process::environment(context)));
    let Switch::Enabled(mut settings) = settings? else {
        return Err(anyhow!("the benchmark's own environment switches verification off"));
    };
    if let Some(in_flight) = in_flight {
        settings.worker.claims_in_flight_max = in_flight;
    }
    let store = context.store(settings.database.connections_max).await?;
    let mut pools = Served::set_up(&settings.pools)?;
    let probe = moved_on(SnapshotId::parse("snapshot_movedon")?);
    for served in pools.values_mut() {
        served.probe = probe.clone();
    }
    let stop = CancellationToken::new();
    let begin = Instant::now();
    let worker = tokio::spawn(Worker::builder(settings.worker, store.store.clone(), pools).run(stop.clone()));
    let done = timeout(PATIENCE, async {
        while usize::try_from(server::ended(admin).await?)? < rows {
            sleep(COUNT_EVERY).await;
        }
        anyhow::Ok(begin.elapsed())
    })
    .await;
    stop.cancel();
    worker.await??;
    store.close().await;
    let took = done.map_err(|_| anyhow!("the worker did not drain {rows} rows in {PATIENCE:?}"))??;
    server::expect_all_ended(admin, rows).await?;
    Ok(per_second(rows, took))
}

/// Measures a worker with default settings and one with more claims in flight.
///
/// # Errors
/// The server refused, or the worker left rows behind.
pub async fn run(context: &Context) -> anyhow::Result<Value> {
    let rows = context.pick(20_000, 100_000);
    let admin = context.fresh_store(2).await?;
    let stock = Stock::make(&admin, rows).await?;
    let mut rounds = Rounds::default();
    for _ in 0..context.rounds {
        for (name, in_flight) in
            [("one worker, defaults", None), ("one worker, 5000 claims in flight", Some(5000))]
        {
            server::empty(&admin).await?;
            stock.fill(&admin, rows).await?;
            server::make_due(&admin).await?;
            rounds.add(name, drain(context, &admin, rows, in_flight).await?);
        }
    }
    Ok(json!({ "rows": rows, "schema": SCHEMA, "variants": rounds.rows() }))
}

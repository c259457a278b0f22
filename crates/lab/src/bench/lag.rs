//! `lag`: how late a probe begins, compared with as many bare timers in as many processes.
//!
//! All rows are in the table before the first is due; scheduling does not run meanwhile. The
//! null probe answers at once that the run moved on. When the probe is called, it reads its
//! lateness from the machine's clock, which the server shares.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value, json};

use super::context::Context;
use super::fleet::Fleet;
use super::message::Dispatches;
use super::pace::Pace;
use super::rows::{self, Naming};
use super::spent::Reading;

/// The slowest insert rate to allow for, in rows per second; sets the time before the first probe.
const INSERTS_PER_SECOND: f64 = 16_000.0;
/// Between the last insert and the first probe: a worker claims ahead.
const LEAD: Duration = Duration::from_secs(2);
/// How long after the last due time all rows must be settled.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the phase.
///
/// # Errors
/// The server or a process failed, or not every row was settled.
pub async fn run(context: &Context) -> anyhow::Result<Value> {
    let rates: &[u32] = context.pick(&[5000], &[100, 1000, 5000]);
    let fleets: &[u32] = context.pick(&[4], &[1, 4]);
    let shapes: &[(&str, u32)] = context.pick(&[("spread", 1)], &[("spread", 1), ("bursty", 20)]);
    let seconds = context.pick(3, 15);
    let mut measured = Vec::new();
    let mut bar = Value::Null;
    let mut rss_peak_kib = 0;
    for &rate in rates {
        for &workers in fleets {
            for &(shape, group) in shapes {
                let figures = one(context, Pace { rate, seconds, group }, workers, shape).await?;
                if (rate, workers, shape) == (5000, 4, "spread") {
                    bar = figures["ratio_p99"].clone();
                }
                rss_peak_kib = rss_peak_kib.max(figures["worker_rss_peak_kib"].as_u64().unwrap_or(0));
                measured.push(figures);
            }
        }
    }
    let bars = json!({"lag_p99_to_timers": bar, "worker_rss_mb": rss_peak_kib / 1024});
    Ok(json!({"probe": "null", "measured": measured, "bars": bars}))
}

async fn one(context: &Context, pace: Pace, workers: u32, shape: &str) -> anyhow::Result<Value> {
    let store = context.fresh_store(2).await?;
    let db = store.db();
    let mut dispatches = Dispatches::new(u64::from(pace.rate), 0);
    let drafts = rows::drafts(&mut dispatches, rows::clock(db).await?, pace.count());
    let fleet = Fleet::workers(context, workers, &[], &[]).await?;

    let inserting = Duration::from_secs_f64(f64::from(pace.count()) / INSERTS_PER_SECOND);
    let start_at = rows::clock(db).await? + TimeDelta::from_std(inserting + LEAD)?;
    let took = rows::insert(db, &drafts, start_at, pace, Naming::AfterDue).await?;
    anyhow::ensure!(
        took < inserting + LEAD,
        "inserting took {took:?}; rows were due before they were in the table"
    );
    let until_start = (start_at - rows::clock(db).await?).to_std().unwrap_or_default();
    tokio::time::sleep(until_start).await;
    let before = Reading::take(db).await?;
    tokio::time::sleep(Duration::from_secs(u64::from(pace.seconds))).await;
    let spent = before.spent(db).await?;
    let all_settled = rows::drained(db, PATIENCE).await?;
    let accounts = fleet.stop().await?;
    let timers = bare_timers(context, db, pace, workers).await?;
    store.close().await;

    let probes = accounts.lag.map_or(0, |lag| lag.count);
    anyhow::ensure!(
        all_settled && probes == pace.count() as usize,
        "{probes} probes for {} rows, all settled: {all_settled}",
        pace.count()
    );
    let ratio_p99 = accounts.lag.zip(timers).map(|(lag, timers)| lag.p99 / timers.p99);
    Ok(json!({
        "due_per_second": pace.rate, "seconds": pace.seconds, "shape": shape, "workers": workers,
        "lag_ms": accounts.lag, "event_lag_ms": accounts.event_lag, "bare_timers_ms": timers, "ratio_p99": ratio_p99,
        "queries_per_second": spent.queries_per_second, "postgres_cpu_percent": spent.cpu_percent,
        "worker_rss_peak_kib": accounts.rss_peak_kib,
    }))
}

async fn bare_timers(
    context: &Context,
    db: &sqlx::PgPool,
    pace: Pace,
    processes: u32,
) -> anyhow::Result<Option<super::figures::Percentiles>> {
    let start_at = rows::clock(db).await? + TimeDelta::from_std(LEAD)?;
    let fleet = Fleet::timers(context, processes, start_at, pace).await?;
    tokio::time::sleep(LEAD + Duration::from_secs(u64::from(pace.seconds))).await;
    Ok(fleet.stop().await?.lag)
}

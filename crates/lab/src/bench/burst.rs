//! `burst`: many rows due at one instant, 4 workers with 50 concurrent HTTP probes each.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::context::{Context, Scale};
use super::fleet::Fleet;
use super::message::Dispatches;
use super::pace::Pace;
use super::platform;
use super::rows::{self, Naming};

const WORKERS: u32 = 4;
const PROBES: &str = "50";
/// The slowest insert rate to allow for, in rows per second.
const INSERTS_PER_SECOND: f64 = 16_000.0;
const LEAD: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_mins(2);

/// Runs the phase.
///
/// # Errors
/// The server, the simulator or a process failed, or not every row was delivered.
pub async fn run(context: &Context) -> anyhow::Result<Value> {
    let small = match context.scale {
        Scale::Quick => None,
        Scale::Full => Some(one(context, 10_000).await?),
    };
    let large = one(context, 50_000).await?;
    let bars = json!({"burst_50000_seconds": large["seconds_to_last_verdict"]});
    Ok(json!({"workers": WORKERS, "probes_each": 50, "bursts": [small, large], "bars": bars}))
}

async fn one(context: &Context, count: u32) -> anyhow::Result<Value> {
    let store = context.fresh_store(2).await?;
    let db = store.db();
    let simulator = platform::start().await?;
    let drafts = platform::moved_on(&simulator, &mut Dispatches::new(7, 0), count).await?;
    let environment = [("TRIGGER_API_URL", simulator.base_url()), ("WARMPROOF_PROBE_CONCURRENCY", PROBES)];
    let fleet = Fleet::workers(context, WORKERS, &["--http"], &environment).await?;

    let inserting = Duration::from_secs_f64(f64::from(count) / INSERTS_PER_SECOND);
    let due_at = rows::clock(db).await? + TimeDelta::from_std(inserting + LEAD)?;
    // All in one group: one instant.
    let pace = Pace { rate: count, seconds: 1, group: count };
    let took = rows::insert(db, &drafts, due_at, pace, Naming::Own).await?;
    anyhow::ensure!(
        took < inserting + LEAD,
        "inserting took {took:?}; the burst was due before it was in the table"
    );
    tokio::time::sleep((due_at - rows::clock(db).await?).to_std().unwrap_or_default()).await;
    let all_settled = rows::drained(db, PATIENCE).await?;
    let accounts = fleet.stop().await?;
    let (delivered, last) = delivered(db).await?;
    store.close().await;
    simulator.shutdown().await;
    anyhow::ensure!(
        all_settled && delivered == i64::from(count),
        "{delivered} of {count} delivered, all settled: {all_settled}"
    );
    let seconds = (last - due_at).to_std()?.as_secs_f64();
    Ok(json!({
        "rows": count, "seconds_to_last_verdict": seconds, "verdicts_per_second": f64::from(count) / seconds,
        "event_lag_ms": accounts.event_lag, "worker_rss_peak_kib": accounts.rss_peak_kib,
    }))
}

/// How many were delivered, and when the last of them was recorded.
async fn delivered(db: &PgPool) -> anyhow::Result<(i64, DateTime<Utc>)> {
    #[expect(clippy::disallowed_methods, reason = "a benchmark's own query")]
    let read = sqlx::query_as(
        "select count(*), coalesce(max(settled_at), 'epoch') from outcome where outcome = 'delivered'",
    )
    .fetch_one(db)
    .await?;
    Ok(read)
}

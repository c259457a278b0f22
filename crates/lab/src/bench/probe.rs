//! `probe`: real HTTP probes on loopback at a steady rate, and against a slow platform.
//!
//! Lateness is what the workers compute; [`super::lag`] compares it with the machine's clock.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use serde_json::{Value, json};

use super::context::Context;
use super::figures::per_second;
use super::fleet::Fleet;
use super::message::Dispatches;
use super::pace::Pace;
use super::platform;
use super::rows::{self, Naming};
use crate::simulator::{ProbeFault, Rule};

const LEAD: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_mins(2);

/// Runs the phase.
///
/// # Errors
/// The server, the simulator or a process failed, or not every row was settled.
pub async fn run(context: &Context) -> anyhow::Result<Value> {
    let seconds = context.pick(2, 15);
    let even = |rate| Pace { rate, seconds, group: 1 };
    // 10 concurrent probes of 50 ms make 200 a second: one load is below that, one above.
    let cases = [
        ("loopback_four_workers", 1000, 4, None),
        ("answers_50_ms_below_the_ceiling", 150, 1, Some(50)),
        ("loopback_one_worker", 1000, 1, None),
        ("answers_50_ms_above_the_ceiling", 400, 1, Some(50)),
        ("answers_50_ms_four_workers", 600, 4, Some(50)),
    ];
    let mut measured = serde_json::Map::new();
    for (name, rate, workers, answer_ms) in cases.into_iter().take(context.pick(2, cases.len())) {
        measured.insert(name.to_owned(), one(context, even(rate), workers, answer_ms).await?);
    }
    Ok(Value::Object(measured))
}

async fn one(context: &Context, pace: Pace, workers: u32, delay_ms: Option<u64>) -> anyhow::Result<Value> {
    let store = context.fresh_store(2).await?;
    let db = store.db();
    let simulator = platform::start().await?;
    if let Some(delay_ms) = delay_ms {
        simulator.faults().probe.add(Rule::always(ProbeFault::Delay { delay_ms }));
    }
    let drafts = platform::moved_on(&simulator, &mut Dispatches::new(11, 0), pace.count()).await?;
    let fleet =
        Fleet::workers(context, workers, &["--http"], &[("TRIGGER_API_URL", simulator.base_url())]).await?;
    let start_at = rows::clock(db).await? + TimeDelta::from_std(LEAD)?;
    let took = rows::insert(db, &drafts, start_at, pace, Naming::Own).await?;
    anyhow::ensure!(took < LEAD, "inserting took {took:?}; rows were due before they were in the table");
    tokio::time::sleep((start_at - rows::clock(db).await?).to_std().unwrap_or_default()).await;
    let began = Instant::now();
    let all_settled = rows::drained(db, PATIENCE).await?;
    let took = began.elapsed();
    let accounts = fleet.stop().await?;
    store.close().await;
    simulator.shutdown().await;
    anyhow::ensure!(all_settled, "some rows were not settled");
    Ok(json!({
        "due_per_second": pace.rate, "workers": workers, "answer_ms": delay_ms,
        "event_lag_ms": accounts.event_lag, "probes_per_second": per_second(pace.count() as usize, took),
        "worker_rss_peak_kib": accounts.rss_peak_kib,
    }))
}

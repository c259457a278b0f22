//! `neighbour`: how late the probes of a pool begin beside another pool whose platform is slow, and without it.
//!
//! One worker serves both. The slow platform answers in nearly the whole timeout of a probe, and far more of its rows
//! come due than can be probed.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value, json};

use super::context::Context;
use super::figures::Percentiles;
use super::fleet::Fleet;
use super::message::Dispatches;
use super::pace::Pace;
use super::rows::{self, Naming};

/// The pool whose platform is slow. Only rows of the other one have ids with their due times.
const SLOW: &str = "slow";
const SLOW_ANSWER_MS: u32 = 1900;
const SLOW_PER_SECOND: u32 = 50;
const PER_SECOND: u32 = 5;
/// From the first insert to the first probe.
const LEAD: Duration = Duration::from_secs(3);
/// How long after the last due time a probe may begin and still be counted.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the phase.
///
/// # Errors
/// The server or the worker failed, or not every row of the quick pool was probed.
pub async fn run(context: &Context) -> anyhow::Result<Value> {
    let seconds = context.pick(20, 60);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..context.rounds {
        alone.push(one(context, seconds, 0).await?);
        beside.push(one(context, seconds, SLOW_PER_SECOND).await?);
    }
    let p99 = |lags: &[Percentiles]| super::figures::median(lags.iter().map(|lag| lag.p99).collect());
    let ratio = p99(&alone).zip(p99(&beside)).map(|(alone, beside)| beside / alone);
    Ok(json!({
        "due_per_second": PER_SECOND, "slow_due_per_second": SLOW_PER_SECOND, "slow_answer_ms": SLOW_ANSWER_MS,
        "seconds": seconds, "lag_alone_ms": alone, "lag_beside_ms": beside,
        "bars": {"neighbour_p99_ratio": ratio},
    }))
}

async fn one(context: &Context, seconds: u32, slow_per_second: u32) -> anyhow::Result<Percentiles> {
    let store = context.fresh_store(2).await?;
    let db = store.db();
    let mut dispatches = Dispatches::new(17, 0);
    let now = rows::clock(db).await?;
    let quick = Pace { rate: PER_SECOND, seconds, group: 1 };
    let slow = Pace { rate: slow_per_second.max(1), seconds, group: 1 };
    let quick_rows = rows::drafts(&mut dispatches, now, quick.count());
    let slow_rows = rows::drafts(&mut dispatches, now, slow_per_second * seconds);
    let answer = format!("{SLOW}={SLOW_ANSWER_MS}");
    let pools = format!("default,{SLOW}");
    let fleet = Fleet::workers(context, 1, &["--slow", &answer], &[("WARMPROOF_POOLS", &pools)]).await?;

    let start_at = rows::clock(db).await? + TimeDelta::from_std(LEAD)?;
    let mut took = rows::insert(db, &quick_rows, start_at, quick, Naming::AfterDue).await?;
    took += rows::insert_into(db, SLOW, &slow_rows, start_at, slow, Naming::Own).await?;
    anyhow::ensure!(took < LEAD, "inserting took {took:?}; rows were due before they were in the table");
    let end = Duration::from_secs(u64::from(seconds)) + LEAD;
    tokio::time::sleep(end).await;
    let all_probed = rows::drained_of(db, "default", PATIENCE).await?;
    // Thousands of rows of the slow pool are left; they end with their schema.
    let lag = fleet.stop().await?.lag;
    store.close().await;
    let lag = lag.filter(|lag| all_probed && lag.count == quick_rows.len());
    lag.ok_or_else(|| anyhow::anyhow!("not all of {} rows were probed: {lag:?}", quick_rows.len()))
}

//! `held`: the same load with and without a long transaction that prevents the removal of dead rows.
//!
//! 1 500 schedules a second, nine of ten cancelled, the rest executed by one worker. A claimer in this
//! process times the claim statement in the same pool, on the same index range as the worker.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::claimer;
use super::context::Context;
use super::figures::Percentiles;
use super::fleet::Fleet;
use super::message::Dispatches;
use super::rows;
use crate::bench::context::Bed;
use warmproof::domain::verification::{CancelReason, Cancellation, NewVerification};

/// How often it sends a batch of schedules and one of cancels.
const EVERY: Duration = Duration::from_millis(20);
const BATCH: usize = 30;
const EXECUTED: usize = 3;
/// Schedules offered per second, and the share of them that must succeed for a valid run.
const OFFERED: f64 = 1500.0;
const REACHED: f64 = 0.95;
/// Longer than the time from schedule to cancel, shorter than the run.
const DELAY: Duration = Duration::from_secs(2);
/// Batches between a schedule and its cancel.
const CANCEL_BEHIND: usize = 25;

/// Runs the phase.
///
/// # Errors
/// The server or a process failed.
pub async fn run(context: &Context) -> anyhow::Result<Value> {
    let span = context.pick(Duration::from_secs(3), Duration::from_mins(10));
    let without = one(context, context.pick(span, Duration::from_mins(1)), false).await?;
    let with = one(context, span, true).await?;
    let ratio = |figures: fn(&Figures) -> f64| figures(&with) / figures(&without);
    Ok(json!({
        "seconds_held": span.as_secs(), "schedules_per_second": OFFERED,
        "without": without.shown(), "with": with.shown(),
        "bars": {"held_p99_ratio": ratio(|figures| figures.lag.p99)},
        "claim_p50_ratio": ratio(|figures| figures.claim.p50),
        "claim_p99_ratio": ratio(|figures| figures.claim.p99),
    }))
}

struct Figures {
    lag: Percentiles,
    claim: Percentiles,
    schedules_per_second: f64,
}

impl Figures {
    fn shown(&self) -> Value {
        json!({
            "event_lag_ms": self.lag, "claim_ms": self.claim,
            "schedules_per_second_reached": self.schedules_per_second,
        })
    }
}

async fn one(context: &Context, span: Duration, held: bool) -> anyhow::Result<Figures> {
    let store = context.fresh_store(4).await?;
    let fleet = Fleet::workers(context, 1, &[], &[]).await?;
    // The product's sessions end such a transaction after ten seconds; this one belongs to another program.
    let holder = context.plain_store(1).await?;
    let snapshot = if held { Some(hold(&holder).await?) } else { None };
    let offered = tokio::spawn(offer(store.clone(), span));
    // Measures the second half: by then there are dead rows.
    tokio::time::sleep(span / 2).await;
    let claims = claimer::claim_for(&store, span / 2).await?;
    let schedules_per_second = offered.await??;
    anyhow::ensure!(
        schedules_per_second >= OFFERED * REACHED,
        "{schedules_per_second:.0} of {OFFERED} schedules a second succeeded: the load was too low"
    );
    anyhow::ensure!(rows::drained(store.db(), Duration::from_secs(30)).await?, "some rows were not settled");
    let accounts = fleet.stop().await?;
    if let Some(snapshot) = snapshot {
        snapshot.rollback().await?;
    }
    holder.close().await;
    store.close().await;
    Ok(Figures {
        lag: accounts.event_lag.context("nothing was executed")?,
        claim: Percentiles::of(claims.took_ms).context("nothing was claimed")?,
        schedules_per_second,
    })
}

/// An idle transaction that has read a row. It keeps all later dead rows from being removed.
async fn hold(holder: &Bed) -> anyhow::Result<sqlx::Transaction<'static, sqlx::Postgres>> {
    let mut transaction = holder.db().begin().await?;
    for text in ["set transaction isolation level repeatable read", "select count(*) from pending"] {
        #[expect(clippy::disallowed_methods, reason = "a benchmark's own set-up")]
        sqlx::query(text).execute(&mut *transaction).await?;
    }
    Ok(transaction)
}

async fn offer(store: Bed, span: Duration) -> anyhow::Result<f64> {
    let mut dispatches = Dispatches::new(5, 0);
    let now = rows::clock(store.db()).await?;
    let mut waiting: std::collections::VecDeque<Vec<NewVerification>> = std::collections::VecDeque::new();
    let began = Instant::now();
    let mut ticks = tokio::time::interval(EVERY);
    let mut scheduled: u32 = 0;
    while began.elapsed() < span {
        ticks.tick().await;
        let dequeued_at = now + chrono::TimeDelta::from_std(began.elapsed())?;
        let batch: Vec<_> = (0..BATCH).map(|_| dispatches.hit(dequeued_at, Some(DELAY))).collect();
        for answer in store.schedule(&batch, DELAY).await? {
            let _ = answer?;
        }
        scheduled += 30;
        waiting.push_back(batch);
        if waiting.len() > CANCEL_BEHIND
            && let Some(earlier) = waiting.pop_front()
        {
            cancel(&store, &earlier).await?;
        }
    }
    for earlier in waiting {
        cancel(&store, &earlier).await?;
    }
    Ok(f64::from(scheduled) / began.elapsed().as_secs_f64())
}

async fn cancel(store: &Bed, batch: &[NewVerification]) -> anyhow::Result<()> {
    let cancellations: Vec<Cancellation> = batch[EXECUTED..]
        .iter()
        .map(|new| Cancellation {
            run_id: new.dispatch.run_id.clone(),
            snapshot_id: None,
            reason: CancelReason::Connected,
        })
        .collect();
    let _ = store.cancel(&cancellations).await?;
    Ok(())
}

//! `cancel-heavy`: 500 single schedule calls a second through the API process, nine of ten cancelled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::context::Context;
use super::figures::{Percentiles, millis};
use super::fleet::{self, API_TOKEN, Fleet};
use super::load::Clock;
use super::message::{Dispatches, Undated};
use super::rows;

const RATE: u32 = 500;
/// From a schedule's answer to its cancel.
const CANCEL_AFTER: Duration = Duration::from_millis(500);
const DELAY_MS: u32 = 2000;

/// Runs the phase.
///
/// # Errors
/// The server or a process failed, or a call was refused.
pub async fn run(context: &Context) -> anyhow::Result<Value> {
    let seconds = context.pick(5, 60);
    let store = context.fresh_store(1).await?;
    let now = rows::clock(store.db()).await?;
    let mut dispatches = Dispatches::new(31, 0);
    let lives: Vec<Life> = (0..RATE * seconds)
        .map(|nth| {
            let dispatch = dispatches.next(now);
            let message = dispatch.message;
            Life {
                schedule: Undated::new(
                    format!("{{\"delay_ms\":{DELAY_MS},\"dequeued_message\":{message}}}"),
                    now,
                ),
                cancel: (nth % 10 != 0)
                    .then(|| json!({"run_id": dispatch.run_id, "reason": "connected"}).to_string()),
            }
        })
        .collect();
    let clock = Clock::read(&store).await?;
    let fleet = Fleet::workers(context, 1, &[], &[]).await?;
    let (api, url) = fleet::api(context).await?;
    let api_calls = Arc::new(Api { client: super::http::reqwest_client()?, url, clock });

    let mut calls = JoinSet::new();
    let began = tokio::time::Instant::now();
    for (nth, life) in (0..).zip(lives) {
        tokio::time::sleep_until(began + Duration::from_secs(1) * nth / RATE).await;
        let api_calls = Arc::clone(&api_calls);
        calls.spawn(async move { api_calls.live(life).await });
    }
    let (mut schedules, mut cancels) = (Vec::new(), Vec::new());
    while let Some(done) = calls.join_next().await {
        let (schedule, cancel) = done??;
        schedules.push(schedule);
        cancels.extend(cancel);
    }
    let all_settled = rows::drained(store.db(), Duration::from_secs(30)).await?;
    fleet::stop_api(api).await?;
    let accounts = fleet.stop().await?;
    store.close().await;
    anyhow::ensure!(all_settled, "some rows were not settled");
    let lag = accounts.event_lag.context("nothing was executed")?;
    let both = Percentiles::of(schedules.iter().chain(&cancels).copied().collect());
    Ok(json!({
        "schedules_per_second": RATE, "cancels_per_second": RATE / 10 * 9, "seconds": seconds,
        "call_ms": both, "schedule_ms": Percentiles::of(schedules), "cancel_ms": Percentiles::of(cancels),
        "event_lag_ms_of_the_rest": lag,
        "bars": {
            "cancel_heavy_call_p99_ms": both.map(|calls| calls.p99),
            "cancel_heavy_late_p99_ms": lag.p99,
        },
    }))
}

struct Life {
    schedule: Undated,
    cancel: Option<String>,
}

struct Api {
    client: reqwest::Client,
    url: String,
    clock: Clock,
}

impl Api {
    /// How long the calls of one life took, in milliseconds.
    async fn live(&self, life: Life) -> anyhow::Result<(f64, Option<f64>)> {
        let schedule = self.post("verifications", life.schedule.dated(self.clock.dequeued_at())).await?;
        let Some(cancel) = life.cancel else { return Ok((schedule, None)) };
        tokio::time::sleep(CANCEL_AFTER).await;
        Ok((schedule, Some(self.post("cancellations", cancel).await?)))
    }

    async fn post(&self, what: &str, body: String) -> anyhow::Result<f64> {
        let asked = Instant::now();
        let answer = self
            .client
            .post(format!("{}/v1/{what}", self.url))
            .bearer_auth(API_TOKEN)
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await?;
        let status = answer.status();
        let text = answer.bytes().await?;
        anyhow::ensure!(status.is_success(), "the api answered {status}: {}", String::from_utf8_lossy(&text));
        Ok(millis(asked.elapsed()))
    }
}

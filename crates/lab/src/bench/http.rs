//! `http`: the rate of schedules through the API, compared with library calls, with 256 callers each.
//!
//! The load generator is this process and shares the machine with the API and the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::context::Context;
use super::figures::{Percentiles, Round, Rounds, millis, per_second};
use super::fleet::{self, API_TOKEN};
use super::load::Clock;
use super::message::{Dispatches, Undated};
use super::{process, rows};
use warmproof::domain::dispatch::Dispatch;
use warmproof::scheduler::{Hit, Scheduler};

const CALLERS: usize = 256;
const ARRAY: usize = 100;
const DELAY: Duration = Duration::from_mins(1);

const LIBRARY: &str = "library, single calls";
const ARRAYS: &str = "HTTP, arrays of 100";
const SINGLES: &str = "HTTP, single calls";

/// Runs the phase.
///
/// # Errors
/// The server or a process failed, or a call was refused.
pub async fn run(context: &Context) -> anyhow::Result<Value> {
    let many = context.pick(30_000, 100_000);
    let mut rounds = Rounds::default();
    let mut api_rss_peak_kib = 0;
    for _ in 0..context.rounds {
        rounds.add(LIBRARY, library(context, many).await?);
        for (name, count, array) in [(ARRAYS, many, ARRAY), (SINGLES, many / 3, 1)] {
            let (round, rss_peak_kib) = posts(context, count, array).await?;
            rounds.add(name, round);
            api_rss_peak_kib = api_rss_peak_kib.max(rss_peak_kib);
        }
    }
    Ok(json!({
        "callers": CALLERS,
        "variants": rounds.rows(),
        "bars": {
            "arrays_to_library": rounds.ratio(ARRAYS, LIBRARY),
            "singles_to_library": rounds.ratio(SINGLES, LIBRARY),
            "api_rss_mb": api_rss_peak_kib / 1024,
        },
    }))
}

async fn library(context: &Context, count: usize) -> anyhow::Result<Round> {
    let store = context.fresh_store(6).await?;
    let now = rows::clock(store.db()).await?;
    let mut dispatches = Dispatches::new(21, 0);
    let clock = Clock::read(&store).await?;
    let hits: Vec<Dispatch> = (0..count).map(|_| dispatches.next(now)).collect();
    let scheduler = Scheduler::new(&store, DELAY);
    let figures = by_callers(hits, move |mut dispatch| {
        let scheduler = scheduler.clone();
        dispatch.dequeued_at = clock.dequeued_at();
        async move {
            let promised = scheduler.schedule(Hit::new(dispatch)).await?;
            anyhow::ensure!(promised.is_some(), "verification is off");
            Ok(())
        }
    })
    .await?;
    store.close().await;
    Ok(figures)
}

async fn posts(context: &Context, count: usize, array: usize) -> anyhow::Result<(Round, u64)> {
    let store = context.fresh_store(1).await?;
    let now = rows::clock(store.db()).await?;
    let mut dispatches = Dispatches::new(22, 0);
    let bodies: Vec<Undated> = (0..count / array)
        .map(|_| {
            let one = |dispatches: &mut Dispatches| {
                let message = dispatches.next(now).message;
                format!(
                    "{{\"delay_ms\":60000,\"supervisor\":\"supervisor-1\",\"dequeued_message\":{message}}}"
                )
            };
            if array == 1 {
                return Undated::new(one(&mut dispatches), now);
            }
            let elements: Vec<String> = (0..array).map(|_| one(&mut dispatches)).collect();
            Undated::new(format!("[{}]", elements.join(",")), now)
        })
        .collect();
    let clock = Clock::read(&store).await?;
    let (api, url) = fleet::api(context).await?;
    let client = reqwest_client()?;
    let url: Arc<str> = format!("{url}/v1/verifications").into();
    let figures = by_callers(bodies, move |body| {
        let (client, url) = (client.clone(), Arc::clone(&url));
        async move {
            let answer = client
                .post(&*url)
                .bearer_auth(API_TOKEN)
                .header("content-type", "application/json")
                .body(body.dated(clock.dequeued_at()))
                .send()
                .await?;
            let status = answer.status();
            let text = answer.bytes().await?;
            anyhow::ensure!(status == 201, "the api answered {status}: {}", String::from_utf8_lossy(&text));
            Ok(())
        }
    })
    .await?;
    let pid = api.id().and_then(|pid| i32::try_from(pid).ok()).context("the api is gone")?;
    let (_, rss_peak_kib) = process::resident_kb(pid).context("the api is gone")?;
    fleet::stop_api(api).await?;
    let rows = store.conservation().await?;
    anyhow::ensure!(rows.scheduled == i64::try_from(count / array * array)?, "not every call left a row");
    store.close().await;
    Ok((Round { per_second: figures.per_second * count_of(array), ..figures }, rss_peak_kib))
}

/// A client without TLS or proxies: everything is on this machine.
pub(super) fn reqwest_client() -> anyhow::Result<reqwest::Client> {
    warmproof::platform::Client::without_credentials().map_err(anyhow::Error::new)
}

/// Divides the work among 256 callers; each makes one call after the other.
async fn by_callers<W, F>(
    work: Vec<W>,
    call: impl Fn(W) -> F + Clone + Send + 'static,
) -> anyhow::Result<Round>
where
    W: Clone + Send + Sync + 'static,
    F: Future<Output = anyhow::Result<()>> + Send,
{
    let work = Arc::new(work);
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (work, next, call) = (Arc::clone(&work), Arc::clone(&next), call.clone());
        callers.spawn(async move {
            let mut took_ms = Vec::new();
            while let Some(one) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                let asked = Instant::now();
                call(one.clone()).await?;
                took_ms.push(millis(asked.elapsed()));
            }
            anyhow::Ok(took_ms)
        });
    }
    let mut took_ms = Vec::new();
    while let Some(caller) = callers.join_next().await {
        took_ms.extend(caller??);
    }
    let per_second = per_second(took_ms.len(), began.elapsed());
    Ok(Round { per_second, calls: Percentiles::of(took_ms), cpu: None })
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
fn count_of(count: usize) -> f64 {
    count as f64
}

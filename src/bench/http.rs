//! `http`: what the API takes in, beside the library call, with 256 callers each.
//!
//! The load generator is this process and shares the machine with the API and the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::context::{Context, SCHEMA};
use super::figures::{Percentiles, millis, per_second};
use super::fleet::{self, API_TOKEN};
use super::message::Dispatches;
use super::rows;
use crate::scheduler::{Hit, Scheduler};
use std::time::Duration;

const CALLERS: usize = 256;
const ARRAY: usize = 100;
const DELAY: Duration = Duration::from_mins(1);

/// Runs the phase.
///
/// # Errors
/// The server or a process failed, or a call was refused.
pub async fn run(context: &Context) -> anyhow::Result<Value> {
    let many = context.pick(30_000, 100_000);
    let library = library(context, many).await?;
    let arrays = posts(context, many, ARRAY).await?;
    let single = posts(context, many / 3, 1).await?;
    let rate = |figures: &Value| figures["schedules_per_second"].as_f64().unwrap_or(f64::NAN);
    Ok(json!({
        "callers": CALLERS,
        "library_single": library, "http_arrays_of_100": arrays, "http_single": single,
        "bars": {
            "arrays_to_library": rate(&arrays) / rate(&library),
            "singles_to_library": rate(&single) / rate(&library),
        },
    }))
}

async fn library(context: &Context, count: usize) -> anyhow::Result<Value> {
    let store = context.fresh_store(6).await?;
    let now = rows::clock(store.db()).await?;
    let mut dispatches = Dispatches::new(21, 0);
    let hits: Vec<Hit> = (0..count).map(|_| Hit::new(dispatches.next(now))).collect();
    let scheduler = Scheduler::new(&store, SCHEMA, DELAY);
    let figures = by_callers(hits, move |hit| {
        let scheduler = scheduler.clone();
        async move {
            let promised = scheduler.schedule(hit).await?;
            anyhow::ensure!(promised.is_some(), "verification is off");
            Ok(())
        }
    })
    .await?;
    store.close().await;
    Ok(figures.shown(1))
}

async fn posts(context: &Context, count: usize, array: usize) -> anyhow::Result<Value> {
    let store = context.fresh_store(1).await?;
    let now = rows::clock(store.db()).await?;
    let mut dispatches = Dispatches::new(22, 0);
    let bodies: Vec<Bytes> = (0..count / array)
        .map(|_| {
            let one = |dispatches: &mut Dispatches| {
                let message = dispatches.next(now).message;
                format!(
                    "{{\"delay_ms\":60000,\"supervisor\":\"supervisor-1\",\"dequeued_message\":{message}}}"
                )
            };
            if array == 1 {
                return Bytes::from(one(&mut dispatches));
            }
            let elements: Vec<String> = (0..array).map(|_| one(&mut dispatches)).collect();
            Bytes::from(format!("[{}]", elements.join(",")))
        })
        .collect();
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
                .body(body)
                .send()
                .await?;
            let status = answer.status();
            let text = answer.bytes().await?;
            anyhow::ensure!(status == 201, "the api answered {status}: {}", String::from_utf8_lossy(&text));
            Ok(())
        }
    })
    .await?;
    fleet::stop_api(api).await?;
    let rows = store.conservation().await?;
    anyhow::ensure!(rows.scheduled == i64::try_from(count / array * array)?, "not every call left a row");
    store.close().await;
    Ok(figures.shown(array))
}

/// A client without TLS or proxies: everything is on this machine.
pub(super) fn reqwest_client() -> anyhow::Result<reqwest::Client> {
    crate::platform::Client::without_credentials().map_err(anyhow::Error::new)
}

struct Calls {
    latency: Percentiles,
    took: Duration,
}

impl Calls {
    fn shown(&self, elements: usize) -> Value {
        json!({
            "calls_per_second": per_second(self.latency.count, self.took),
            "schedules_per_second": per_second(self.latency.count * elements, self.took),
            "call_ms": self.latency,
        })
    }
}

/// Gives the work out to 256 callers that call one after the other.
async fn by_callers<W, F>(
    work: Vec<W>,
    call: impl Fn(W) -> F + Clone + Send + 'static,
) -> anyhow::Result<Calls>
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
    let took = began.elapsed();
    Ok(Calls { latency: Percentiles::of(took_ms).context("no call was made")?, took })
}

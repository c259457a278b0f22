//! `/metrics`: what this process counted, and the state of the fleet as the database has it.
//!
//! The database is asked at most every few seconds, no matter how often `/metrics` is scraped.

use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tokio::time::{Instant, timeout};

use super::Api;
use super::openapi::NotFound;
use super::problem::Problem;
use crate::store::gauges::PoolGauges;
use crate::store::{Store, StoreError};
use crate::telemetry::metrics::{self, names};

/// How long a reading of the pools is good. One statement over what is due soon and what is lost.
const POOLS_EVERY: Duration = Duration::from_secs(5);
/// How long a reading of the account is good; upkeep counts anew every few minutes.
const CONSERVATION_EVERY: Duration = Duration::from_secs(30);

/// How long a reading may take, including the wait for a connection. Two readings fit into a scrape's usual
/// 10 s.
const READING_MAX: Duration = Duration::from_secs(3);

/// When the database was last asked, and which pools it reported.
#[derive(Debug, Default)]
pub(super) struct Gauges(tokio::sync::Mutex<Readings>);

#[derive(Debug, Default)]
struct Readings {
    pools_at: Option<Instant>,
    conservation_at: Option<Instant>,
    pools: Vec<String>,
}

/// All metrics in Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "health",
    responses(
        (status = 200, body = String, content_type = "text/plain", description = "What was counted"),
        (status = 504, body = Problem, content_type = "application/problem+json", description = "`timeout`"),
        NotFound
    )
)]
pub(super) async fn metrics(State(api): State<Api>) -> Response {
    // While metrics are off, the database is not asked.
    if metrics::render().is_none() {
        return Problem::not_found("metrics are off (METRICS_ENABLED)").into_response();
    }
    api.gauges.refresh(&api.store).await;
    let connections = api.store.db().connections();
    metrics::connections(connections.open, connections.idle, connections.max);
    let text = metrics::render().unwrap_or_default();
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

impl Gauges {
    async fn refresh(&self, store: &Store) {
        let mut last = self.0.lock().await;
        let old = |at: Option<Instant>, age: Duration| at.is_none_or(|at| at.elapsed() >= age);
        if old(last.pools_at, POOLS_EVERY) {
            last.read_pools(store).await;
            last.pools_at = Some(Instant::now());
        }
        if old(last.conservation_at, CONSERVATION_EVERY) {
            let read = soon("conservation", store.account_soon()).await;
            metrics::unaccounted(read.map_or(f64::NAN, |read| count(read.conservation.unaccounted)));
            last.conservation_at = Some(Instant::now());
        }
    }
}

impl Readings {
    async fn read_pools(&mut self, store: &Store) {
        if let Some(pools) = soon("pools", store.pool_gauges()).await {
            pools.iter().for_each(show);
            self.pools = pools.into_iter().map(|pool| pool.pool).collect();
        } else {
            // An old reading must not pass for the current state.
            self.pools.iter().for_each(|pool| show_unknown(pool));
        }
    }
}

/// A reading, or `None` if the database does not give it in time. Records which of the two it was.
async fn soon<T>(what: &'static str, reading: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
    let read = match timeout(READING_MAX, reading).await {
        Ok(Ok(read)) => Some(read),
        Ok(Err(error)) => {
            tracing::warn!(%error, reading = what, "could not read gauges");
            None
        }
        Err(_elapsed) => {
            tracing::warn!(reading = what, "could not read gauges: the database does not answer");
            None
        }
    };
    metrics::reading(what, read.is_some());
    read
}

fn show(pool: &PoolGauges) {
    let gauges = [
        (names::PENDING, count(pool.pending)),
        (names::CLAIMED, count(pool.claimed)),
        (names::OVERDUE, count(pool.overdue)),
        (names::OVERDUE_LONGEST, pool.overdue_longest_seconds),
        (names::LOST, count(pool.lost)),
        (names::HELD, count(pool.held)),
        (names::FOLLOW_UPS_WAITING, count(pool.follow_ups_waiting)),
        (names::WORKERS, count(pool.workers)),
        (names::PAUSED, f64::from(u8::from(pool.paused))),
        (names::BROWN_OUT, f64::from(u8::from(pool.brown_out))),
    ];
    for (metric, value) in gauges {
        metrics::of_pool(metric, &pool.pool, value);
    }
}

fn show_unknown(pool: &str) {
    let gauges = [
        names::PENDING,
        names::CLAIMED,
        names::OVERDUE,
        names::OVERDUE_LONGEST,
        names::LOST,
        names::HELD,
        names::FOLLOW_UPS_WAITING,
        names::WORKERS,
        names::PAUSED,
        names::BROWN_OUT,
    ];
    for metric in gauges {
        metrics::of_pool(metric, pool, f64::NAN);
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to nine quadrillions")]
fn count(value: i64) -> f64 {
    value as f64
}

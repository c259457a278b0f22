//! A worker's small HTTP listener: is it alive, does it claim, what has it counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::in_flight::InFlightRegister;
use super::limits::Limits;
use crate::domain::ids::PoolName;
use crate::store::fleet::WorkerPool;
use crate::store::{Store, StoreError};
use crate::telemetry::metrics;
use crate::telemetry::readiness::{Check, Readiness};
use crate::transport::server::{self, Bounds};

/// A scraper and a few probes; all other descriptors are for probes of runs and the database.
const BOUNDS: Bounds = Bounds {
    connections_max: 64,
    answer_max: Duration::from_secs(30),
    count_dropped: metrics::connection_dropped,
};

/// What a worker knows about its own health.
#[derive(Debug, Default)]
pub(super) struct Health {
    claimed_at: Mutex<Option<Instant>>,
    /// Why the database failed its last request.
    failure: Mutex<Option<String>>,
    at_capacity: AtomicBool,
    pools: Mutex<Vec<WorkerPool>>,
}

impl Health {
    /// A claim was answered.
    pub(super) fn claimed(&self) {
        *self.claimed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.failed_by(None);
    }

    /// A settle was answered.
    pub(super) fn settled(&self) {
        self.failed_by(None);
    }

    /// The database failed a request: a claim, a settle, or one before the first claim.
    pub(super) fn failed(&self, error: &StoreError) {
        self.failed_by(Some(error.in_public()));
    }

    fn failed_by(&self, failure: Option<String>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Whether the worker is too busy to claim, reported before each claim.
    pub(super) fn at_capacity(&self, full: bool) {
        self.at_capacity.store(full, Ordering::Relaxed);
        if full {
            *self.claimed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }

    /// The backends were checked.
    pub(super) fn checked(&self, pools: &[WorkerPool]) {
        *self.pools.lock().unwrap_or_else(PoisonError::into_inner) = pools.to_vec();
    }

    /// What is wrong with claims: the last one was answered longer ago than a lease holds, so that other
    /// workers may have taken what is in flight. `None` while the worker is at capacity.
    fn claims(&self, lease: Duration) -> Option<String> {
        if self.at_capacity.load(Ordering::Relaxed) {
            return None;
        }
        match *self.claimed_at.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Some("nothing was claimed yet".to_owned()),
            Some(at) if at.elapsed() < lease => None,
            Some(at) => Some(format!(
                "the last claim was answered {} s ago, and a lease holds for {} s",
                at.elapsed().as_secs(),
                lease.as_secs()
            )),
        }
    }

    fn database(&self) -> Option<String> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let never = self.claimed_at.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        failure.or_else(|| never.then(|| "the database has not answered yet".to_owned()))
    }
}

/// What the listener reports on.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub(super) store: Store,
    pub(super) health: Arc<Health>,
    pub(super) in_flight: Arc<InFlightRegister>,
    pub(super) limits: BTreeMap<PoolName, Arc<Limits>>,
    pub(super) lease: Duration,
}

/// Serves until `done`.
pub(super) async fn serve(listener: TcpListener, watched: Watched, done: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show))
        .with_state(watched);
    let _ = done.run_until_cancelled(server::serve(listener, router, BOUNDS, CancellationToken::new())).await;
}

/// 200 while the latest claims succeed, else 503 with the reasons. Lists backends as well.
async fn readyz(State(watched): State<Watched>) -> Response {
    let (database, claims) = (watched.health.database(), watched.health.claims(watched.lease));
    let mut checks = vec![Check::required("database", database), Check::required("claims", claims)];
    for (pool, limits) in &watched.limits {
        // Required: a worker that is restarted elsewhere may have a better network or other credentials.
        checks.push(Check::required(&format!("probes of {pool}"), limits.sickness.problem()));
    }
    let pools = watched.health.pools.lock().unwrap_or_else(PoisonError::into_inner).clone();
    checks.extend(pools.into_iter().map(|served| Check::of_pool(served.pool.as_str(), served.problem)));
    let readiness = Readiness::from(checks);
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn show(State(watched): State<Watched>) -> Response {
    let connections = watched.store.db().connections();
    metrics::connections(connections.open, connections.idle, connections.max);
    metrics::in_flight(watched.in_flight.len());
    for (pool, limits) in &watched.limits {
        let is_sick = f64::from(u8::from(limits.sickness.is_sick()));
        metrics::of_pool(metrics::names::WORKER_SICK, pool.as_str(), is_sick);
    }
    match metrics::render() {
        Some(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        None => (StatusCode::NOT_FOUND, "metrics are off\n").into_response(),
    }
}

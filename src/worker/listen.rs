//! A worker's small HTTP listener: is it alive, does it claim, what has it counted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::in_hand::InHand;
use crate::store::Store;
use crate::store::fleet::ServedPool;
use crate::telemetry::metrics;
use crate::telemetry::readiness::{Check, Readiness};

/// A worker that has not claimed for so long is not ready; it claims several times a second.
const CLAIMS_EVERY: Duration = Duration::from_secs(15);
/// How long the database may take to say that it is there.
const DATABASE_MAX: Duration = Duration::from_secs(2);

/// What a worker knows of its own health.
#[derive(Debug, Default)]
pub(super) struct Health {
    claimed_at: Mutex<Option<Instant>>,
    hands_full: AtomicBool,
    pools: Mutex<Vec<ServedPool>>,
}

impl Health {
    /// A claim was answered, or none was wanted.
    pub(super) fn claimed(&self) {
        *self.claimed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether hands are too full to claim, told before each claim.
    pub(super) fn hands_full(&self, full: bool) {
        self.hands_full.store(full, Ordering::Relaxed);
        if full {
            self.claimed();
        }
    }

    /// The backends were checked.
    pub(super) fn checked(&self, pools: &[ServedPool]) {
        *self.pools.lock().unwrap_or_else(PoisonError::into_inner) = pools.to_vec();
    }

    /// What is wrong with claims; nothing while hands are full.
    fn claims(&self) -> Option<String> {
        if self.hands_full.load(Ordering::Relaxed) {
            return None;
        }
        match *self.claimed_at.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Some("nothing was claimed yet".to_owned()),
            Some(at) if at.elapsed() < CLAIMS_EVERY => None,
            Some(at) => Some(format!("the last claim was answered {} s ago", at.elapsed().as_secs())),
        }
    }
}

/// What the listener looks at.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub(super) store: Store,
    pub(super) health: Arc<Health>,
    pub(super) in_hand: Arc<InHand>,
}

/// Serves until `done`.
pub(super) async fn serve(listener: TcpListener, watched: Watched, done: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show))
        .with_state(watched);
    let served = done.run_until_cancelled(axum::serve(listener, router).into_future()).await;
    if let Some(Err(error)) = served {
        tracing::warn!(%error, "the listener for metrics failed");
    }
}

/// 200 when it claims and the database answers, else 503 with the reasons. Backends are told of as well.
async fn readyz(State(watched): State<Watched>) -> Response {
    let database = match timeout(DATABASE_MAX, watched.store.clock()).await {
        Ok(Ok(_now)) => None,
        Ok(Err(error)) => {
            tracing::warn!(%error, "not ready");
            Some("the database cannot be reached; the log tells more".to_owned())
        }
        Err(_elapsed) => Some(format!("the database did not answer within {} s", DATABASE_MAX.as_secs())),
    };
    let claims = watched.health.claims();
    let mut checks = vec![Check::required("database", database), Check::required("claims", claims)];
    let pools = watched.health.pools.lock().unwrap_or_else(PoisonError::into_inner).clone();
    checks.extend(pools.into_iter().map(|served| Check::of_pool(served.pool.as_str(), served.problem)));
    let readiness = Readiness::from(checks);
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn show(State(watched): State<Watched>) -> Response {
    let db = watched.store.db();
    metrics::connections(db.size(), db.num_idle(), db.options().get_max_connections());
    metrics::in_hand(watched.in_hand.len());
    match metrics::render() {
        Some(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        None => (StatusCode::NOT_FOUND, "metrics are off\n").into_response(),
    }
}

//! The simulator's own routes, for tests and people in other processes.
//!
//! Each list can wait: `at_least=1&wait_ms=5000` answers as soon as that many
//! entries match, or with the matching entries when the time is over.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use super::core::Core;
use super::fault::{Faults, Rule, Switches};
use super::options::RunnerKind;
use super::record::{Counters, Report};
use super::runner::{self, Character};
use super::visits::{Visit, VisitState, Visits};
use warmproof::domain::ids::RunId;

/// Most runs that one request may queue.
const RUNS_MAX: usize = 100_000;

pub(super) fn routes() -> Router<Arc<Core>> {
    let control = Router::new()
        .route("/runs", post(queue_runs))
        .route("/runs/{run}/cancel", post(cancel))
        .route("/runners", post(spawn_runner))
        .route("/pollers", get(pollers))
        .route("/probes", get(probes))
        .route("/instances", get(instances))
        .route("/report", get(report))
        .route("/counters", get(counters))
        .route("/connected", get(connected))
        .route("/faults/release", post(release))
        .nest("/faults/probe", switches(|faults| &faults.probe))
        .nest("/faults/start", switches(|faults| &faults.start))
        .nest("/faults/gateway", switches(|faults| &faults.gateway));
    Router::new().nest("/simulator", control)
}

/// `GET` lists, `POST` adds, `DELETE` clears the rules of one kind of call.
fn switches<F>(of: fn(&Faults) -> &Switches<F>) -> Router<Arc<Core>>
where
    F: Clone + Send + Sync + Serialize + for<'de> Deserialize<'de> + 'static,
{
    let list = move |State(core): State<Arc<Core>>| async move { Json(of(&core.faults).rules()) };
    let add = move |State(core): State<Arc<Core>>, Json(rule): Json<Rule<F>>| async move {
        of(&core.faults).add(rule);
        StatusCode::NO_CONTENT
    };
    let clear = move |State(core): State<Arc<Core>>| async move {
        of(&core.faults).clear();
        StatusCode::NO_CONTENT
    };
    Router::new().route("/", get(list).post(add).delete(clear))
}

async fn release(State(core): State<Arc<Core>>) -> StatusCode {
    core.faults.release();
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct QueueRuns {
    count: usize,
}

async fn queue_runs(State(core): State<Arc<Core>>, Json(body): Json<QueueRuns>) -> Response {
    if body.count > RUNS_MAX {
        let error = format!("`count` must be at most {RUNS_MAX}");
        return (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response();
    }
    let run_ids: Vec<RunId> = (0..body.count).map(|_| core.engine.queue_run()).collect();
    (StatusCode::CREATED, Json(json!({ "run_ids": run_ids }))).into_response()
}

async fn cancel(State(core): State<Arc<Core>>, Path(run): Path<RunId>) -> Response {
    Json(json!({ "cancelled": core.engine.cancel(&run).await })).into_response()
}

#[derive(Deserialize)]
struct SpawnRunner {
    kind: RunnerKind,
}

async fn spawn_runner(State(core): State<Arc<Core>>, Json(body): Json<SpawnRunner>) -> StatusCode {
    core.spawn(runner::warm(Arc::clone(&core), Character::Fixed(body.kind)));
    StatusCode::CREATED
}

#[derive(Deserialize)]
struct Wanted {
    run: Option<RunId>,
    /// Only visits that hang now.
    #[serde(default)]
    hanging: bool,
    #[serde(default)]
    at_least: usize,
    #[serde(default)]
    wait_ms: u64,
}

impl Wanted {
    fn of(&self, visits: &Visits) -> Vec<Visit> {
        let mut visits = visits.of(self.run.as_ref().map(RunId::as_str));
        visits.retain(|visit| !self.hanging || visit.state == VisitState::Hanging);
        visits
    }

    async fn wait<T>(&self, core: &Core, count: impl Fn() -> (usize, T)) -> T {
        let enough = || Some(count()).filter(|(found, _)| *found >= self.at_least);
        let wait = Duration::from_millis(self.wait_ms);
        core.changes.within(wait, enough).await.unwrap_or_else(count).1
    }

    async fn wait_for(&self, core: &Core, visits: &Visits) -> Vec<Visit> {
        self.wait(core, || {
            let found = self.of(visits);
            (found.len(), found)
        })
        .await
    }
}

async fn probes(State(core): State<Arc<Core>>, Query(wanted): Query<Wanted>) -> Response {
    Json(json!({ "probes": wanted.wait_for(&core, &core.probes).await })).into_response()
}

async fn instances(State(core): State<Arc<Core>>, Query(wanted): Query<Wanted>) -> Response {
    let creates = wanted.wait_for(&core, &core.creates).await;
    Json(json!({ "creates": creates, "names": core.instances.names() })).into_response()
}

async fn pollers(State(core): State<Arc<Core>>, Query(wanted): Query<Wanted>) -> Response {
    let waiting = wanted
        .wait(&core, || {
            let waiting = core.broker.waiting();
            (waiting, waiting)
        })
        .await;
    Json(json!({ "waiting": waiting })).into_response()
}

/// One JSON object per line for each runner that announces itself after this call.
async fn connected(State(core): State<Arc<Core>>) -> Response {
    let lines = futures_util::stream::unfold(core.connected.subscribe(), |mut announced| async {
        loop {
            match announced.recv().await {
                Ok(connected) => {
                    let line = serde_json::to_string(&connected).map(|json| json + "\n");
                    return Some((line, announced));
                }
                // A slow reader misses some, as after a reconnect of a real socket.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    Body::from_stream(lines).into_response()
}

async fn report(State(core): State<Arc<Core>>) -> Json<Report> {
    Json(core.ledger.report())
}

async fn counters(State(core): State<Arc<Core>>) -> Json<Counters> {
    Json(core.ledger.counters())
}

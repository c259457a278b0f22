//! Workers: which run, which pools they serve, and what keeps them from cold starts.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};

use super::Admin;
use super::badge::Badge;
use super::error::PageError;
use super::page::{self, Chrome, Tab};
use super::shown;
use super::visitor::Reading;
use crate::store::fleet::WorkerSeen;

/// One pool that a worker serves.
struct Served {
    pool: String,
    backend: String,
    problem: Option<String>,
}

struct Row {
    name: String,
    badge: Badge,
    version: String,
    in_flight: String,
    up: String,
    seen: String,
    served: Vec<Served>,
}

#[derive(Template)]
#[template(path = "workers.html")]
struct WorkersPage {
    chrome: Chrome,
    reported: String,
    rows: Vec<Row>,
}

/// The page.
pub(super) async fn page(
    State(admin): State<Admin>,
    Reading(visitor): Reading,
) -> Result<Response, PageError> {
    let chrome = Chrome::live(&admin, &visitor, Tab::Workers).await?;
    let workers = admin.store.workers().await?;
    let (running, in_flight) = workers
        .iter()
        .filter(|worker| worker.running)
        .fold((0_i64, 0_i64), |(n, claims), worker| (n + 1, claims + i64::from(worker.in_flight)));
    let now = chrome.clock();
    page::write(&WorkersPage {
        reported: format!(
            "{} running · {} in flight",
            shown::number(running),
            shown::times(in_flight, "claim")
        ),
        rows: workers.into_iter().map(|worker| row(worker, now)).collect(),
        chrome,
    })
}

fn row(worker: WorkerSeen, now: DateTime<Utc>) -> Row {
    let served = worker.pools.into_iter().zip(worker.backends).zip(worker.problems);
    let badge = if worker.running { Badge::new("good", "running") } else { Badge::new("bad", "silent") };
    Row {
        badge,
        version: worker.version,
        in_flight: shown::number(worker.in_flight.into()),
        up: shown::span(worker.seen_at - worker.started_at),
        seen: shown::relative(worker.seen_at.min(now), now),
        served: served.map(|((pool, backend), problem)| Served { pool, backend, problem }).collect(),
        name: worker.name,
    }
}

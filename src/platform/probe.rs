//! The probe: one GET, one timeout over all of it, every failure by its name.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{DATE, HeaderMap};
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::client::Client;
use super::prune::Pruner;
use super::wire;
use crate::domain::ids::{RunId, SnapshotId};
use crate::domain::verdict::{LatestSnapshot, Observation, ProbeFailure};
use crate::transport;

/// Most of an answer that is read. A real one is a few KB; the outputs of waitpoints can make it tens of
/// megabytes (platform.md §13), which the reader skips as they come.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most of an answer that is kept: the snapshot and the run, without what they refer to.
pub(super) const KEPT_BYTES_MAX: usize = 256 * 1024;
/// Longest wait that a 429 may ask for; a wrong clock must not delay a row for hours.
const RESET_AFTER_MAX: Duration = Duration::from_mins(1);

impl Client {
    /// Asks once for the latest snapshot of a run.
    ///
    /// The timeout covers name, connection, headers and body. Nothing is retried.
    pub async fn latest_snapshot(&self, run: &RunId) -> Observation {
        let after = self.probe_timeout;
        tokio::time::timeout(after, self.ask_once(run)).await.unwrap_or(Err(ProbeFailure::Timeout { after }))
    }

    async fn ask_once(&self, run: &RunId) -> Observation {
        let response = self
            .request(Method::GET, &format!("/runs/{run}/snapshots/latest"))
            .send()
            .await
            .map_err(|error| ProbeFailure::Connection { problem: transport::describe(error) })?;
        if let Some(failure) = refusal(response.status(), response.headers()) {
            return Err(failure);
        }
        read_observation(run, &read_pruned(response).await?)
    }
}

/// Reads an answer as it streams, and keeps the fields that the verdict needs.
async fn read_pruned(mut response: reqwest::Response) -> Result<Vec<u8>, ProbeFailure> {
    let broken = |error| ProbeFailure::Connection { problem: transport::describe(error) };
    let (mut pruner, mut read) = (Pruner::default(), 0);
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        read += chunk.len();
        if read > BODY_BYTES_MAX {
            return Err(ProbeFailure::BodyTooLarge { limit_bytes: BODY_BYTES_MAX });
        }
        pruner.push(&chunk);
        if pruner.kept_bytes() > KEPT_BYTES_MAX {
            return Err(ProbeFailure::BodyTooLarge { limit_bytes: KEPT_BYTES_MAX });
        }
    }
    pruner.finish().ok_or(ProbeFailure::InvalidJson)
}

/// What a probe reads of an answer: only the fields that are judged, so that a change elsewhere does no harm.
#[derive(Deserialize)]
struct Answer {
    execution: Execution,
}

#[derive(Deserialize)]
struct Execution {
    #[serde(rename = "version")]
    _version: wire::Version,
    snapshot: Snapshot,
    run: Run,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Snapshot {
    friendly_id: SnapshotId,
    execution_status: String,
    description: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    friendly_id: RunId,
    status: String,
    #[serde(default)]
    attempt_number: Option<u32>,
}

fn refusal(status: StatusCode, headers: &HeaderMap) -> Option<ProbeFailure> {
    match status.as_u16() {
        200..=299 => None,
        401 => Some(ProbeFailure::Unauthorized),
        429 => Some(ProbeFailure::RateLimited { reset_after: reset_after(headers, local_now()) }),
        status @ 500.. => Some(ProbeFailure::ServerError { status }),
        status => Some(ProbeFailure::UnexpectedStatus { status }),
    }
}

/// How long a 429 asks us to wait, by the answering clock when the answer carries its time.
pub(super) fn reset_after(headers: &HeaderMap, local_now: DateTime<Utc>) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let reset_ms: i64 = text(wire::RATE_LIMIT_RESET_HEADER)?.trim().parse().ok()?;
    let now = text(DATE.as_str())
        .and_then(|date| DateTime::parse_from_rfc2822(date).ok())
        .map_or(local_now, |date| date.to_utc());
    let wait_ms = reset_ms.saturating_sub(now.timestamp_millis());
    Some(Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0)).min(RESET_AFTER_MAX))
}

#[expect(clippy::disallowed_methods, reason = "without a date in the answer there is no other clock")]
fn local_now() -> DateTime<Utc> {
    Utc::now()
}

fn read_observation(run: &RunId, body: &[u8]) -> Observation {
    // Checked first: a body that breaks off is not JSON, even if its beginning also has the wrong shape.
    serde_json::from_slice::<serde::de::IgnoredAny>(body).map_err(|_| ProbeFailure::InvalidJson)?;
    let mut json = serde_json::Deserializer::from_slice(body);
    let answer: Answer = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| ProbeFailure::WrongSchema { problem: schema_problem(&error) })?;
    let execution = answer.execution;
    if execution.run.friendly_id != *run {
        return Err(ProbeFailure::WrongSchema {
            problem: "`execution.run.friendlyId`: names another run than the one asked for".to_owned(),
        });
    }
    Ok(LatestSnapshot {
        snapshot_id: execution.snapshot.friendly_id,
        execution_status: execution.snapshot.execution_status,
        description: execution.snapshot.description,
        run_status: execution.run.status,
        attempt_number: execution.run.attempt_number,
    })
}

/// Names the field. The parser's own text is kept only where it cannot repeat a value of the body.
pub(super) fn schema_problem(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let path = match error.path().to_string() {
        path if path == "." => "body".to_owned(),
        path => path,
    };
    let text = error.inner().to_string();
    match text.strip_prefix("missing field `").and_then(|rest| rest.split_once('`')) {
        Some((field, _)) => format!("`{path}`: `{field}` is missing"),
        None => format!("`{path}`: not of the expected form"),
    }
}

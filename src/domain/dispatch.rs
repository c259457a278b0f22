//! What the supervisor gave to a warm runner: the dequeued message.
//!
//! The message is kept as the raw JSON that came in, so that fields unknown to
//! this version survive until a fallback (platform.md §2). Two readings exist: the
//! [`Dispatch`] that a schedule call checks, and the [`ColdStartRequest`] that a
//! fallback reads much later from the stored bytes.

use chrono::{DateTime, Datelike, TimeZone, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::ids::{self, RunId, SnapshotId};

/// A message that cannot be read, with the field that is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {problem}")]
pub struct MessageError {
    /// Dotted path inside the message, such as `snapshot.friendlyId`; empty for the message itself.
    pub field: String,
    /// What is wrong there and what is expected.
    pub problem: String,
}

/// One dispatch of a run at one snapshot, as a schedule call brings it.
#[derive(Debug, Clone)]
pub struct Dispatch {
    /// The run's friendly id.
    pub run_id: RunId,
    /// The dispatched snapshot's friendly id; equality with the latest one means loss.
    pub snapshot_id: SnapshotId,
    /// When the platform let the run leave the queue, by the platform's clock. Orders dispatches of one run.
    pub dequeued_at: DateTime<Utc>,
    /// `backgroundWorker.version`, for reports.
    pub deployment_version: Option<String>,
    /// W3C trace context of the run, if the message carries a valid one.
    pub traceparent: Option<String>,
    /// The dequeued message, byte for byte.
    pub message: Box<RawValue>,
    /// The supervisor's timings, byte for byte.
    pub timings: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Essentials {
    version: Version,
    snapshot: Friendly<SnapshotId>,
    run: EssentialRun,
    #[serde(deserialize_with = "js_date")]
    dequeued_at: DateTime<Utc>,
    background_worker: Option<BackgroundWorker>,
}

#[derive(Deserialize)]
enum Version {
    #[serde(rename = "1")]
    One,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Friendly<T> {
    friendly_id: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EssentialRun {
    friendly_id: RunId,
    #[serde(default)]
    trace_context: Option<serde_json::Value>,
}

/// `backgroundWorker`: the deployed code.
#[derive(Debug, Clone, Deserialize)]
pub struct BackgroundWorker {
    /// The deployment's version, such as `20260821.3`.
    pub version: String,
    /// Such as `node-22` or `bun`; absent in older deployments.
    pub runtime: Option<String>,
}

impl Dispatch {
    /// Reads what a verification needs and keeps the rest as it came.
    ///
    /// # Errors
    /// Names the first field that is missing or malformed.
    pub fn parse(message: Box<RawValue>, timings: Option<Box<RawValue>>) -> Result<Self, MessageError> {
        // A derived reader would take an array for a struct, by position. The platform sends no such thing.
        if !message.get().starts_with('{') {
            return Err(MessageError { field: String::new(), problem: "must be an object".to_owned() });
        }
        let essentials: Essentials = read(message.get())?;
        let Version::One = essentials.version;
        let deployment_version = essentials.background_worker.map(|worker| worker.version);
        if let Some(version) = &deployment_version {
            ids::parse_name(version).map_err(|error| MessageError {
                field: "backgroundWorker.version".to_owned(),
                problem: error.to_string(),
            })?;
        }
        Ok(Self {
            run_id: essentials.run.friendly_id,
            snapshot_id: essentials.snapshot.friendly_id,
            dequeued_at: essentials.dequeued_at,
            deployment_version,
            traceparent: essentials.run.trace_context.as_ref().and_then(traceparent),
            message,
            timings,
        })
    }
}

/// Everything a cold start needs of the stored message (platform.md §5.1).
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ColdStartRequest {
    /// When the platform let the run leave the queue.
    #[serde(deserialize_with = "js_date")]
    pub dequeued_at: DateTime<Utc>,
    /// The dispatched snapshot.
    pub snapshot: Snapshot,
    /// Full image reference; absent in development, where nothing can be created.
    pub image: Option<String>,
    /// Present on the restore path, which is never warm-started.
    pub checkpoint: Option<serde_json::Value>,
    /// The deployed code.
    pub background_worker: BackgroundWorker,
    /// The deployment's ids.
    pub deployment: Deployment,
    /// The run.
    pub run: Run,
    /// The environment's id and type.
    pub environment: RunEnvironment,
    /// The organization.
    pub organization: Organization,
    /// The project.
    pub project: Project,
    /// Placement wishes, used by kubernetes only.
    #[serde(default)]
    pub placement_tags: Vec<PlacementTag>,
}

/// `snapshot` of a dequeued message.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The snapshot's friendly id.
    pub friendly_id: SnapshotId,
}

/// `deployment` of a dequeued message.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// Without it no workload can be created (platform.md §5.1).
    pub friendly_id: Option<String>,
    /// Such as `linux/amd64`.
    pub image_platform: Option<String>,
}

/// `run` of a dequeued message.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// The internal id.
    pub id: String,
    /// The friendly id.
    pub friendly_id: RunId,
    /// What the workload gets.
    pub machine: Machine,
    /// The number of the next attempt, 1 for a fresh run.
    pub attempt_number: u32,
    /// Trace context; `traceparent` only if it is a string.
    #[serde(default)]
    pub trace_context: Option<serde_json::Value>,
    /// Where the run came from.
    #[serde(default)]
    pub annotations: Option<serde_json::Value>,
}

/// A machine preset with its numbers, as the message brings them.
#[derive(Debug, Clone, Deserialize)]
pub struct Machine {
    /// The preset's name, such as `small-1x`.
    pub name: String,
    /// vCPUs.
    pub cpu: f64,
    /// Memory in GB.
    pub memory: f64,
}

/// `environment` of a dequeued message.
#[derive(Debug, Clone, Deserialize)]
pub struct RunEnvironment {
    /// Internal id.
    pub id: String,
    /// `PRODUCTION`, `STAGING`, `DEVELOPMENT` or `PREVIEW`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// `organization` of a dequeued message.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Organization {
    /// Internal id.
    pub id: String,
    /// Whether its workloads are labelled for private links.
    #[serde(default)]
    pub has_private_link: Option<bool>,
}

/// `project` of a dequeued message.
#[derive(Debug, Clone, Deserialize)]
pub struct Project {
    /// Internal id.
    pub id: String,
}

/// One of `placementTags`.
#[derive(Debug, Clone, Deserialize)]
pub struct PlacementTag {
    /// The tag's name.
    pub key: String,
    /// Its values; the first one counts.
    #[serde(default)]
    pub values: Vec<String>,
}

impl ColdStartRequest {
    /// Reads a stored message.
    ///
    /// # Errors
    /// Names the first field that is missing or malformed.
    pub fn parse(message: &str) -> Result<Self, MessageError> {
        read(message)
    }

    /// The message's trace context, if it is a valid one.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        self.run.trace_context.as_ref().and_then(traceparent)
    }

    /// The workload's name: `runner-<run>[-attempt-<n>]-<last 8 of the snapshot id>` (design.md §3).
    ///
    /// The snapshot is in the name so that no other dispatch of the run has the same name
    /// (platform.md §9.12).
    #[must_use]
    pub fn workload_name(&self) -> String {
        let run = self.run.friendly_id.internal();
        let snapshot = self.snapshot.friendly_id.as_str();
        // Ids are ASCII (checked on parsing), so a byte index is a character index.
        let tail = &snapshot[snapshot.len().saturating_sub(8)..];
        match self.run.attempt_number {
            0 | 1 => format!("runner-{run}-{tail}"),
            n => format!("runner-{run}-attempt-{n}-{tail}"),
        }
    }
}

fn read<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, MessageError> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let field = error.path().to_string();
        MessageError {
            field: if field == "." { String::new() } else { field },
            problem: plain_problem(&error.into_inner()),
        }
    })
}

/// `serde_json`'s text without its line and column, which mean nothing inside a larger body.
fn plain_problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// A date as the platform's client accepts it: RFC 3339, or milliseconds since the epoch.
fn js_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum JsDate {
        Text(String),
        Millis(i64),
    }
    let expected =
        || serde::de::Error::custom("expected an RFC 3339 instant such as `2026-08-21T18:27:52.114Z`");
    let instant = match JsDate::deserialize(deserializer).map_err(|_| expected())? {
        JsDate::Text(text) => DateTime::parse_from_rfc3339(&text).ok().map(|at| at.to_utc()),
        JsDate::Millis(ms) => Utc.timestamp_millis_opt(ms).single(),
    };
    // RFC 3339 has four digits for a year. Far beyond them the database has no such instant.
    instant.filter(|at| (1..=9999).contains(&at.year())).ok_or_else(expected)
}

/// `traceparent` of a trace context, if it is a valid W3C version 00 header.
fn traceparent(context: &serde_json::Value) -> Option<String> {
    let text = context.get("traceparent")?.as_str()?;
    trace_id(text).map(|_| text.to_owned())
}

/// The trace id of a valid version 00 `traceparent`: 32 lower-case hex digits, not all zero.
#[must_use]
pub fn trace_id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let valid =
        parts.next().is_none() && version == "00" && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    (valid && trace.bytes().any(|byte| byte != b'0')).then_some(trace)
}

#[cfg(test)]
mod tests;

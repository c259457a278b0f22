//! The platform's JSON and header names (platform.md §1), the one thing the simulator shares.
//!
//! Recorded fixtures pin these types, so that client and simulator cannot drift
//! together. Optional fields are absent, never null, unless platform.md says so.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::domain::ids::{RunId, SnapshotId};

/// Where every worker action lives below the platform's base URL.
pub const BASE_PATH: &str = "/engine/v1/worker-actions";
/// What every worker token starts with.
pub const WORKER_TOKEN_PREFIX: &str = "tr_wgt_";
/// Header with the name of the calling worker instance.
pub const INSTANCE_NAME_HEADER: &str = "x-trigger-worker-instance-name";
/// Header with the secret shared by managed workers.
pub const MANAGED_SECRET_HEADER: &str = "x-trigger-worker-managed-secret";
/// Header that narrows a call to one environment; a blank value counts as absent.
pub const ENVIRONMENT_HEADER: &str = "x-trigger-worker-environment-id";
/// Header with a fresh UUID per call.
pub const IDEMPOTENCY_KEY_HEADER: &str = "x-trigger-request-idempotency-key";
/// Header of a 429: when to come back, in unix milliseconds.
pub const RATE_LIMIT_RESET_HEADER: &str = "x-ratelimit-reset";
/// What the platform's own client calls the bodies of `attempts/start` and `attempts/complete`.
pub const TEXT_CONTENT_TYPE: &str = "text/plain;charset=UTF-8";

/// The one version of messages and snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// `"1"`.
    #[serde(rename = "1")]
    One,
}

/// One execution snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionSnapshot {
    /// Internal id.
    pub id: String,
    /// `snapshot_` and the internal id.
    pub friendly_id: SnapshotId,
    /// One of platform.md §3.1, or something newer.
    pub execution_status: String,
    /// Free text.
    pub description: String,
    /// When it was written; never compared (platform.md §0).
    #[serde(serialize_with = "js_iso")]
    pub created_at: DateTime<Utc>,
}

/// The run as snapshots carry it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BaseRun {
    /// Internal id.
    pub id: String,
    /// `run_` and the internal id.
    pub friendly_id: RunId,
    /// One of platform.md §1.4; never `DEQUEUED` here.
    pub status: String,
    /// Absent or null before the first attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_number: Option<u32>,
    /// Where the run's events are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_event_store: Option<String>,
}

/// A run at one snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunExecutionData {
    /// Always `"1"`.
    pub version: Version,
    /// The snapshot.
    pub snapshot: ExecutionSnapshot,
    /// The run.
    pub run: BaseRun,
    /// The batch the run belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Value>,
    /// The checkpoint it can be restored from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Value>,
    /// Required, may be empty.
    pub completed_waitpoints: Vec<Value>,
}

/// Answer of `GET /runs/{run}/snapshots/latest`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LatestSnapshotAnswer {
    /// The run at its latest snapshot.
    pub execution: RunExecutionData,
}

/// Answer of `GET /runs/{run}/snapshots/since/{snapshot}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotsSinceAnswer {
    /// Oldest first.
    pub snapshots: Vec<RunExecutionData>,
}

/// Body of `POST /connect`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConnectRequest {
    /// What the worker reports about itself.
    pub metadata: serde_json::Map<String, Value>,
}

/// Answer of `POST /connect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectAnswer {
    /// Always true.
    pub ok: bool,
    /// The group the token belongs to.
    pub worker_group: WorkerGroup,
}

/// The group of workers that one token belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerGroup {
    /// `MANAGED` or `UNMANAGED`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The group's name.
    pub name: String,
}

/// Body of `POST /dequeue`. The platform reads the first two and ignores them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DequeueRequest {
    /// Ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_resources: Option<Resources>,
    /// Ignored: one call returns at most one message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_run_count: Option<f64>,
    /// Which of the worker group's two queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_class: Option<QueueClass>,
}

/// vCPUs and GB.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Resources {
    /// vCPUs.
    pub cpu: f64,
    /// Memory in GB.
    pub memory: f64,
}

/// The queues of a worker group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueClass {
    /// Everything but schedules.
    Default,
    /// Runs of schedules.
    Scheduled,
}

/// Body of `POST /heartbeat`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HeartbeatRequest {
    /// vCPUs.
    pub cpu: Usage,
    /// Memory in GB.
    pub memory: Usage,
    /// What the worker runs; always empty.
    pub tasks: Vec<String>,
}

/// How much of a resource is in use.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Usage {
    /// In use.
    pub used: f64,
    /// Still free.
    pub available: f64,
}

/// Body of a run's heartbeat; the platform reads it and ignores it.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct RunHeartbeatRequest {
    /// vCPUs in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// GB in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<f64>,
}

/// Answer of every call that only acknowledges.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct OkAnswer {
    /// Always true.
    pub ok: bool,
}

/// Body of `attempts/start`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartAttemptRequest {
    /// Whether a warm runner starts the attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_warm_start: Option<bool>,
}

/// Answer of `attempts/start`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartAttemptAnswer {
    /// The new snapshot.
    pub snapshot: ExecutionSnapshot,
    /// The run with its new attempt number.
    pub run: BaseRun,
    /// What the runner executes.
    pub execution: Value,
    /// The runner's environment.
    pub env_vars: serde_json::Map<String, Value>,
}

/// Body of `attempts/complete`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CompleteAttemptRequest {
    /// How the attempt ended.
    pub completion: Completion,
}

/// How an attempt ended; unknown fields are dropped.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Completion {
    /// Whether the task succeeded.
    pub ok: bool,
    /// The run's friendly id.
    pub id: String,
    /// Required when `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_type: Option<String>,
    /// Required unless `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Value>,
    /// When to try again, `{timestamp, delay}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// When a failed attempt is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// Unix milliseconds.
    pub timestamp: f64,
    /// Milliseconds from now.
    pub delay: f64,
}

/// Answer of `attempts/complete`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompleteAttemptAnswer {
    /// What became of the run.
    pub result: CompletionResult,
}

/// What became of a run whose attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompletionResult {
    /// `RUN_FINISHED`, `RUN_PENDING_CANCEL`, `RETRY_QUEUED` or `RETRY_IMMEDIATELY`.
    pub attempt_status: String,
    /// The new snapshot.
    pub snapshot: ExecutionSnapshot,
    /// The run.
    pub run: BaseRun,
}

/// Body of every refusal (platform.md §1.2).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// One sentence.
    pub error: String,
    /// Which field, when a schema refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Vec<Value>>,
}

/// Body of the broker's `POST /warm-start` (platform.md §4.1).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WarmStartRequest {
    /// The dequeued message as it came.
    pub dequeued_message: Box<RawValue>,
}

/// Answer of the broker's `POST /warm-start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WarmStartAnswer {
    /// The message was written to a poller's socket; nothing more is promised.
    pub did_warm_start: bool,
}

/// Answer of the broker's `GET /connect` (platform.md §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokerConnectAnswer {
    /// After how long a runner aborts its poll and polls again; 0 disables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_timeout_ms: Option<u64>,
    /// After how long without a run it leaves; 0 disables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive_ms: Option<u64>,
}

/// As JavaScript writes dates: always three digits of a second, always `Z`.
fn js_iso<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

//! The content of a call: the dispatch byte for byte, and the verification that asks.

use chrono::{DateTime, SecondsFormat};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::domain::ids::{RunId, SnapshotId, VerificationId};
use crate::workload::{CreateError, CreateRequest};

/// A call before it is signed.
pub(super) struct Message {
    /// The same for every call about one verification, so that a receiver can recognize a repeat.
    pub(super) id: String,
    /// When the call is made, in seconds since the epoch, by the database's clock.
    pub(super) timestamp: i64,
    /// The JSON that is signed and sent.
    pub(super) body: String,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    verification_id: Option<VerificationId>,
    run_id: &'a RunId,
    snapshot_id: &'a SnapshotId,
    workload: &'a str,
    dequeued_message: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<&'a RawValue>,
}

impl Message {
    pub(super) fn new(create: &CreateRequest) -> Result<Self, CreateError> {
        let unusable = |error: serde_json::Error| CreateError::Permanent {
            reason: format!("could not pass on the stored message: {error}"),
        };
        let asked_at = DateTime::from_timestamp_millis(create.pod_scheduled_at_ms).unwrap_or_default();
        let body = serde_json::to_string(&Body {
            kind: "fallback.requested",
            timestamp: asked_at.to_rfc3339_opts(SecondsFormat::Millis, true),
            data: Data {
                verification_id: create.verification_id,
                run_id: &create.request.run.friendly_id,
                snapshot_id: &create.request.snapshot.friendly_id,
                workload: &create.name,
                dequeued_message: serde_json::from_str(&create.message).map_err(unusable)?,
                // Timings are not worth a failed start.
                timings: create.timings.as_deref().and_then(|timings| serde_json::from_str(timings).ok()),
            },
        });
        // A supervisor's own cold start has no verification; the workload's name is as unique.
        let id = create.verification_id.map_or_else(|| create.name.clone(), |id| id.0.to_string());
        Ok(Self { id, timestamp: asked_at.timestamp(), body: body.map_err(unusable)? })
    }
}

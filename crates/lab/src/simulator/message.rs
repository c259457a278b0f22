//! A dequeued message of realistic shape and size, about 3 KB (platform.md §2).

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;
use serde_json::value::RawValue;

use super::run::Run;

/// The deployment that all simulated runs belong to.
pub(super) const DEPLOYMENT_ID: &str = "deployment_r8k2mfq7w3zsbd5n";
/// Its version.
pub(super) const DEPLOYMENT_VERSION: &str = "20260821.3";
/// The environment that all simulated runs belong to.
pub(super) const ENVIRONMENT_ID: &str = "clx3q9v2a0003ml08f1t6h2yz";

/// The message for a run that was just dequeued: its latest snapshot is the dispatched one.
pub(super) fn dequeued(run: &Run, queue_length: usize, now: DateTime<Utc>) -> Box<RawValue> {
    let id = run.id.internal();
    let trace = trace_id(id);
    let baggage: String = (0..20)
        .map(|n| {
            format!("session.attribute.{n:02}={}", trace.chars().cycle().skip(n).take(48).collect::<String>())
        })
        .collect::<Vec<_>>()
        .join(",");
    let message = json!({
        "version": "1",
        "dequeuedAt": now.to_rfc3339_opts(SecondsFormat::Millis, true),
        "workerQueueLength": queue_length,
        "snapshot": run.latest().snapshot,
        "image": format!(
            "registry.simulated.example/deployments/proj_hqkldvbmxwqzwprtcyfa:{DEPLOYMENT_VERSION}.prod@sha256:{trace}{trace}"
        ),
        "completedWaitpoints": [],
        "backgroundWorker": {
            "id": "cmelus7r1001p07jx6m2k9fwe",
            "friendlyId": "worker_cmelus7r1001p07jx6m2k9fwe",
            "version": DEPLOYMENT_VERSION,
            "runtime": "node-22"
        },
        "deployment": {
            "id": "cmelus6xk001n07jxc0p5t3da",
            "friendlyId": DEPLOYMENT_ID,
            "imagePlatform": "linux/amd64"
        },
        "run": {
            "id": id,
            "friendlyId": run.id,
            "isTest": false,
            "isReplay": false,
            "machine": { "name": "small-1x", "cpu": 0.5, "memory": 0.5, "centsPerMs": 0.000_033_82 },
            "attemptNumber": run.next_attempt(),
            "masterQueue": "us-east-1",
            "traceContext": {
                "traceparent": format!("00-{trace}-b7ad6b7169203331-01"),
                "tracestate": "vendor=opaque",
                "baggage": baggage,
                "external": { "traceparent": format!("00-{trace}-00f067aa0ba902b7-01") }
            },
            "annotations": {
                "triggerSource": "sdk",
                "triggerAction": "trigger",
                "rootTriggerSource": "sdk",
                "taskKind": "STANDARD"
            }
        },
        "environment": { "id": ENVIRONMENT_ID, "type": "PRODUCTION" },
        "organization": { "id": "clx3q9tqs0001ml08d4kk9c7w", "hasPrivateLink": false },
        "project": { "id": "clx3q9uh40002ml08a9r3g5jb" },
        "placementTags": [{ "key": "paid", "values": ["true"] }]
    });
    serde_json::value::to_raw_value(&message).expect("a JSON value")
}

/// 32 hex digits that belong to this run.
fn trace_id(internal_run_id: &str) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    let hex = internal_run_id.bytes().rev().flat_map(|byte| [digit(byte & 15), digit(byte >> 4)]);
    hex.chain(std::iter::repeat('0')).take(32).collect()
}

#[cfg(test)]
mod tests {
    use super::super::ids::Mint;
    use super::*;
    use warmproof::domain::dispatch::{ColdStartRequest, Dispatch};

    #[test]
    fn the_product_can_read_the_message() {
        let mint = Mint::default();
        let now = DateTime::UNIX_EPOCH;
        let mut run = Run::queued(&mint, now);
        run.dequeue(&mint, now).unwrap();
        let message = dequeued(&run, 7, now);
        let length = message.get().len();
        assert!((2500..3800).contains(&length), "{length} bytes");
        let dispatch = Dispatch::parse(message.clone(), None).unwrap();
        assert_eq!(dispatch.run_id, run.id);
        assert_eq!(dispatch.snapshot_id, *run.latest_id());
        assert!(dispatch.traceparent.is_some());
        assert!(ColdStartRequest::parse(message.get()).unwrap().image.is_some());
    }
}

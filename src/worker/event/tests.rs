use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use uuid::Uuid;

use super::*;
use crate::config::WorkerSettings;
use crate::config::environment::Environment;
use crate::config::verify::Switch;
use crate::domain::claim::{ClaimKey, Fence};
use crate::domain::ids::{PoolName, RunId, SnapshotId, VerificationId};
use crate::domain::outcome::{FallbackResult, OutcomeKind, Reason};
use crate::domain::verdict::ProbeFailure;
use crate::domain::verification::Intent;

const SECRETS: [&str; 4] =
    ["tr_wgt_plantedtoken", "planted-managed-secret", "planted-gateway-token", "planted-password"];

/// The keys of the platform's own verifier in its order, then ours.
const KEYS: [&str; 37] = [
    "msg",
    "request_id",
    "trace_id",
    "start_time",
    "service",
    "version",
    "node_id",
    "op",
    "kind",
    "ok",
    "duration_ms",
    "meta.run_id",
    "meta.snapshot_id",
    "meta.verification_id",
    "meta.pool",
    "phase.probe.duration_ms",
    "phase.probe.ok",
    "phase.probe.attempts",
    "phase.probe.error_message",
    "outcome",
    "delay_ms",
    "error",
    "reason",
    "fallback_result",
    "workload",
    "late",
    "early",
    "lag_ms",
    "overdue_ms",
    "actual_delay_ms",
    "claim_count",
    "create_count",
    "intent",
    "supervisor",
    "region",
    "deployment_version",
    "worker",
];

fn config() -> WorkerConfig {
    let variables = [
        ("TRIGGER_WARM_START_VERIFY_ENABLED", "true"),
        ("TRIGGER_WARM_START_URL", "http://broker"),
        ("TRIGGER_API_URL", "http://platform"),
        ("TRIGGER_WORKER_TOKEN", SECRETS[0]),
        ("MANAGED_WORKER_SECRET", SECRETS[1]),
        ("COMPUTE_GATEWAY_URL", "http://gateway"),
        ("COMPUTE_GATEWAY_AUTH_TOKEN", SECRETS[2]),
        ("TRIGGER_WORKLOAD_API_DOMAIN", "supervisor"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel"),
        ("TRIGGER_WORKER_INSTANCE_NAME", "node-a"),
        ("WARMPROOF_DATABASE_URL", "postgres://u:planted-password@db/d"),
    ];
    match WorkerSettings::from_environment(&Environment::from_pairs(variables)).expect("settings") {
        Switch::Enabled(settings) => settings.worker,
        Switch::Disabled { reason } => panic!("{reason}"),
    }
}

fn due_at() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

fn claim() -> Claim {
    Claim {
        key: ClaimKey {
            run_id: RunId::parse("run_x").expect("a run"),
            id: VerificationId(Uuid::nil()),
            fence: Fence::fresh(&mut rand::rng()),
        },
        snapshot_id: SnapshotId::parse("snapshot_y").expect("a snapshot"),
        pool: PoolName::default_pool(),
        supervisor: None,
        region: None,
        intent: Intent::Hit,
        dequeued_at: due_at() - TimeDelta::seconds(11),
        left_queue_at: due_at() - TimeDelta::seconds(11),
        redrive: crate::domain::claim::REDRIVE_DEFAULT,
        due_at: due_at(),
        probe_at: due_at() + TimeDelta::seconds(2),
        claimed_at: due_at(),
        claim_count: 2,
        probe_failures: 1,
        create_count: 1,
        prepare_failures: 0,
        early: None,
        lost_at: None,
        workload: None,
        traceparent: None,
    }
}

fn failed_fallback(claim: &Claim, error: &str) -> Outcome {
    Outcome {
        settled_at: due_at() + TimeDelta::milliseconds(2345),
        id: claim.key.id.0,
        run_id: claim.key.run_id.to_string(),
        snapshot_id: claim.snapshot_id.to_string(),
        pool: claim.pool.to_string(),
        supervisor: SupervisorName::parse("supervisor-1").ok(),
        region: RegionName::parse("eu").ok(),
        deployment_version: Some("20260821.3".to_owned()),
        intent: Intent::Hit,
        dequeued_at: claim.dequeued_at,
        scheduled_at: claim.due_at - TimeDelta::seconds(10),
        due_at: claim.due_at,
        outcome: OutcomeKind::Fallback,
        reason: None,
        fallback_result: Some(FallbackResult::Failed),
        late: false,
        early: false,
        fence: None,
        worker: Some("worker-1".to_owned()),
        claim_count: 2,
        probe_count: 2,
        create_count: 1,
        connected_at: None,
        lost_at: Some(due_at()),
        create_permitted_at: Some(due_at()),
        probe_ms: Some(7),
        workload: Some("runner-x".to_owned()),
        error: Some(error.to_owned()),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    }
}

/// The event of an outcome that was probed two seconds past due.
fn line(outcome: &Outcome, failure: Option<ProbeFailure>) -> String {
    let at = Instant::now();
    let clock = DbClock::new(due_at() + TimeDelta::milliseconds(2005), at);
    let span = tracing::Span::none();
    let probing = Probing { at, probes: 1, probe_ms: Some(7), failure, lost_at: None, span };
    serde_json::to_string(&settled(&config(), &claim(), &clock, &probing, outcome)).expect("JSON")
}

#[test]
fn the_platforms_keys_come_in_its_order_and_ours_follow() {
    let failure = ProbeFailure::ServerError { status: 503 };
    let line = line(&failed_fallback(&claim(), "the gateway answered 500"), Some(failure));
    assert!(!line.contains('\n'));
    let event: serde_json::Map<_, _> = serde_json::from_str(&line).expect("one object");
    assert!(event.values().all(|value| !value.is_object() && !value.is_array()), "flat: {line}");
    let places: Vec<(usize, &str)> =
        KEYS.iter().filter_map(|key| line.find(&format!("\"{key}\":")).map(|place| (place, *key))).collect();
    assert!(places.is_sorted(), "{line}");
    assert_eq!(places.len(), event.len(), "a key this test does not know: {line}");
    assert_eq!(places.len(), KEYS.len() - 1, "all but `reason`, which a fallback does not have: {line}");
    assert_eq!(event["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(event["service"], "warmproof");
    assert_eq!((&event["op"], &event["kind"]), (&"warmstart.verify".into(), &"scheduled".into()));
    assert_eq!(event["ok"], false, "no create was confirmed");
    assert_eq!((&event["delay_ms"], &event["actual_delay_ms"]), (&10_000.into(), &12_005.into()));
    assert_eq!((&event["lag_ms"], &event["overdue_ms"]), (&5.0.into(), &2005.into()));
    assert_eq!((&event["duration_ms"], &event["phase.probe.duration_ms"]), (&340.into(), &7.into()));
    assert_eq!(event["phase.probe.ok"], false);
    for secret in SECRETS {
        assert!(!line.contains(secret), "{line}");
    }
}

#[test]
fn a_delivery_is_ok_and_names_what_acted() {
    let mut outcome = failed_fallback(&claim(), "");
    outcome.outcome = OutcomeKind::Delivered;
    outcome.reason = Some(Reason::Started);
    (outcome.fallback_result, outcome.error, outcome.traceparent) = (None, None, None);
    let event: serde_json::Map<_, _> = serde_json::from_str(&line(&outcome, None)).expect("one object");
    assert_eq!((&event["ok"], &event["reason"]), (&true.into(), &"started".into()));
    assert_eq!(event["phase.probe.ok"], true);
    for absent in ["error", "trace_id", "fallback_result", "phase.probe.error_message"] {
        assert!(!event.contains_key(absent), "{absent} is empty and left out");
    }
}

#[test]
fn an_error_is_cut_at_512_bytes() {
    let line = line(&failed_fallback(&claim(), &"ß".repeat(600)), None);
    let event: serde_json::Map<_, _> = serde_json::from_str(&line).expect("one object");
    assert_eq!(event["error"].as_str().map(str::len), Some(512));
}

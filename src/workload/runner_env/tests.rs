use std::collections::BTreeMap;

use super::*;
use crate::config::runner::Protocol;
use crate::domain::dispatch::ColdStartRequest;
use crate::domain::ids::VerificationId;

const RETRY: &str = include_str!("../../../tests/fixtures/dequeued-message.retry-scheduled.json");

fn config() -> RunnerEnvConfig {
    RunnerEnvConfig {
        api_protocol: Protocol::Https,
        api_domain: None,
        api_port: 8443,
        instance_name: "node-a".to_owned(),
        otel_endpoint: "https://otel.example".to_owned(),
        send_run_debug_logs: true,
        pretty_logs: false,
        warm_start_url: Some("http://localhost:3040".to_owned()),
        metadata_url: Some("http://metadata.example".to_owned()),
        heartbeat_seconds: Some(2.5),
        snapshot_poll_seconds: Some(10.0),
        additional: vec![],
    }
}

fn env(config: &RunnerEnvConfig, engine: RunnerHost<'_>) -> BTreeMap<String, String> {
    let create = CreateRequest {
        name: "runner-x-r2".to_owned(),
        verification_id: Some(VerificationId::fresh()),
        request: ColdStartRequest::parse(RETRY).expect("the fixture"),
        message: String::new(),
        timings: None,
        pod_scheduled_at_ms: 1_787_337_077_123,
        request_id: None,
        traceparent: None,
    };
    let deployment_id = SecretString::from("signed");
    let runner = Runner { create: &create, deployment: "deployment_x", deployment_id: &deployment_id };
    let pairs = runner_env(config, engine, &runner);
    let count = pairs.len();
    let env: BTreeMap<String, String> = pairs.into_iter().collect();
    assert_eq!(env.len(), count, "no name twice");
    env
}

const GATEWAY: RunnerHost<'static> = RunnerHost::Gateway { snapshots: true };

#[test]
fn a_machine_gets_every_row_of_the_table() {
    let rows = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otel.example"),
        ("PRETTY_LOGS", "false"),
        ("TRIGGER_DEPLOYMENT_FRIENDLY_ID", "deployment_x"),
        ("TRIGGER_DEPLOYMENT_ID", "signed"),
        ("TRIGGER_DEPLOYMENT_VERSION", "20260819.1"),
        ("TRIGGER_DEQUEUED_AT_MS", "1787337067902"),
        ("TRIGGER_ENV_ID", "clz8d0m3k0007ml0871h5r9qe"),
        ("TRIGGER_HEARTBEAT_INTERVAL_SECONDS", "2.5"),
        ("TRIGGER_MACHINE_CPU", "4"),
        ("TRIGGER_MACHINE_MEMORY", "8"),
        ("TRIGGER_METADATA_URL", "http://metadata.example"),
        ("TRIGGER_POD_SCHEDULED_AT_MS", "1787337077123"),
        ("TRIGGER_RUNNER_ID", "runner-x-r2"),
        ("TRIGGER_RUN_ID", "run_cmelv0a1u000108l25y7f9kme"),
        ("TRIGGER_SEND_RUN_DEBUG_LOGS", "true"),
        ("TRIGGER_SNAPSHOT_ID", "snapshot_cmelv4x9a001208l2p7qk3h5s"),
        ("TRIGGER_SNAPSHOT_POLL_INTERVAL_SECONDS", "10"),
        ("TRIGGER_SUPERVISOR_API_DOMAIN", ""),
        ("TRIGGER_SUPERVISOR_API_PORT", "8443"),
        ("TRIGGER_SUPERVISOR_API_PROTOCOL", "https"),
        ("TRIGGER_WARM_START_URL", "http://localhost:3040"),
        ("TRIGGER_WORKER_INSTANCE_NAME", "node-a"),
    ];
    let env = env(&config(), GATEWAY);
    for (name, value) in rows {
        assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(env.len(), rows.len(), "{:?}", env.keys());
}

#[test]
fn what_is_not_configured_is_left_out() {
    let bare = RunnerEnvConfig {
        warm_start_url: None,
        metadata_url: None,
        heartbeat_seconds: None,
        snapshot_poll_seconds: None,
        ..config()
    };
    let env = env(&bare, GATEWAY);
    for name in [
        "TRIGGER_WARM_START_URL",
        "TRIGGER_METADATA_URL",
        "TRIGGER_HEARTBEAT_INTERVAL_SECONDS",
        "TRIGGER_SNAPSHOT_POLL_INTERVAL_SECONDS",
    ] {
        assert!(!env.contains_key(name), "{name}");
    }
}

#[test]
fn a_machine_without_snapshots_gets_no_metadata_url() {
    let env = env(&config(), RunnerHost::Gateway { snapshots: false });
    assert!(!env.contains_key("TRIGGER_METADATA_URL"));
}

#[test]
fn a_container_reaches_the_host_by_the_hosts_name() {
    let env = env(&config(), RunnerHost::Docker { host: "host.docker.internal" });
    assert_eq!(env["TRIGGER_SUPERVISOR_API_DOMAIN"], "host.docker.internal");
    assert_eq!(env["TRIGGER_WARM_START_URL"], "http://host.docker.internal:3040/");
    assert_eq!(env["TRIGGER_METADATA_URL"], "http://metadata.example");
}

#[test]
fn a_pod_brings_its_node_and_host_itself() {
    let env = env(&config(), RunnerHost::Kubernetes);
    for name in ["TRIGGER_SUPERVISOR_API_DOMAIN", "TRIGGER_WORKER_INSTANCE_NAME", "PRETTY_LOGS"] {
        assert!(!env.contains_key(name), "{name}");
    }
    assert_eq!(env["TRIGGER_WARM_START_URL"], "http://localhost:3040");
}

#[test]
fn a_configured_domain_wins_everywhere() {
    let config = RunnerEnvConfig { api_domain: Some("supervisor.example".to_owned()), ..config() };
    for engine in [RunnerHost::Docker { host: "localhost" }, RunnerHost::Kubernetes, GATEWAY] {
        assert_eq!(env(&config, engine)["TRIGGER_SUPERVISOR_API_DOMAIN"], "supervisor.example");
    }
}

#[test]
fn additional_variables_override() {
    let additional = vec![
        ("TRIGGER_MACHINE_CPU".to_owned(), SecretString::from("1")),
        ("EXTRA".to_owned(), SecretString::from("yes")),
    ];
    let env = env(&RunnerEnvConfig { additional, ..config() }, GATEWAY);
    assert_eq!((env["TRIGGER_MACHINE_CPU"].as_str(), env["EXTRA"].as_str()), ("1", "yes"));
}

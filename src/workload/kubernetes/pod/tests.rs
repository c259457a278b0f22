//! Golden pods: one in full, then for each option what it changes.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::config::environment::Environment;
use crate::config::reader;
use crate::config::workload::{BackendConfig, WorkloadConfig};
use crate::domain::ids::VerificationId;
use crate::workload::token::DeploymentId;

const FRESH: &str = include_str!("../../../../tests/fixtures/dequeued-message.fresh.json");

/// An option: its variables, and changes to the message that show its effect.
type Case = (&'static str, &'static [(&'static str, &'static str)], &'static [(&'static str, &'static str)]);

fn pod_of(variables: &[(&str, &str)], changes: &[(&str, &str)]) -> Result<Value, CreateError> {
    let fixed =
        [("WARMPROOF_BACKEND", "kubernetes"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otel.example")];
    let environment = Environment::from_pairs(fixed.into_iter().chain(variables.iter().copied()));
    let config = reader::read_all(&environment, WorkloadConfig::read).expect("a configuration");
    let BackendConfig::Kubernetes(kubernetes) = &config.backend else { panic!("another backend") };
    let mut message: Value = serde_json::from_str(FRESH).expect("a fixture");
    for (pointer, value) in changes {
        let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
        *message.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer} in the message")) = value;
    }
    let request = ColdStartRequest::parse(&message.to_string()).expect("a message");
    let create = CreateRequest {
        name: request.workload_name(),
        verification_id: Some(VerificationId(Uuid::nil())),
        request,
        message: message.to_string(),
        timings: None,
        pod_scheduled_at_ms: 1_787_336_882_500,
        request_id: None,
        traceparent: None,
    };
    let order = Order::check(&create).unwrap_or_else(|error| panic!("an order: {error}"));
    let deployment_id = DeploymentId::new(&config.token);
    let deployment_id = deployment_id.value(&create.request, order.deployment).expect("a deployment id");
    let runner = Runner { create: &create, deployment: order.deployment, deployment_id: &deployment_id };
    let pod = pod(kubernetes, &order, &runner, &config.runner)?;
    Ok(serde_json::to_value(pod).expect("JSON"))
}

/// Every scalar with its path; list members are identified by their name if they have one.
fn flat(value: &Value, path: &str, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                flat(field, &format!("{path}.{name}"), into);
            }
        }
        Value::Array(members) => {
            for (index, member) in members.iter().enumerate() {
                let name = member["name"].as_str().map_or_else(|| index.to_string(), str::to_owned);
                flat(member, &format!("{path}[{name}]"), into);
            }
        }
        scalar @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => {
            into.insert(path.to_owned(), scalar.clone());
        }
    }
}

fn changes(base: &Value, pod: &Value) -> Vec<String> {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    flat(base, "", &mut before);
    flat(pod, "", &mut after);
    let gone = before.iter().filter(|(path, value)| after.get(*path) != Some(value));
    let come = after.iter().filter(|(path, value)| before.get(*path) != Some(value));
    let gone = gone.map(|(path, value)| format!("- {path} = {value}"));
    gone.chain(come.map(|(path, value)| format!("+ {path} = {value}"))).collect()
}

#[test]
fn a_pod_without_options_is_the_platforms_with_our_labels() {
    insta::assert_json_snapshot!(pod_of(&[], &[]).expect("a pod"));
}

const SCHEDULED: (&str, &str) = ("/run/annotations/rootTriggerSource", "schedule");
const LARGE: (&str, &str) =
    ("/run/machine", r#"{"name": "large-1x", "cpu": 4, "memory": 8, "centsPerMs": 0}"#);
const NODE_24: (&str, &str) = ("/backgroundWorker/runtime", "node-24");
const BUN: (&str, &str) = ("/backgroundWorker/runtime", "bun");
const CHECKPOINTS: (&str, &str) = ("TRIGGER_CHECKPOINT_URL", "https://checkpoints.example");
const STRIP: (&str, &str) = ("KUBERNETES_STRIP_IMAGE_DIGEST", "true");
const REWRITE_FROM: (&str, &str) = ("KUBERNETES_IMAGE_REGISTRY_REWRITE_FROM", "registry.internal.example");
const REWRITE_TO: (&str, &str) = ("KUBERNETES_IMAGE_REGISTRY_REWRITE_TO", "mirror.example/cache");
const LARGE_POOL: (&str, &str) = ("KUBERNETES_LARGE_MACHINE_AFFINITY_ENABLED", "true");
const SCHEDULED_POOL: (&str, &str) = ("KUBERNETES_SCHEDULED_RUN_AFFINITY_ENABLED", "true");
const PROJECT: (&str, &str) = ("KUBERNETES_PROJECT_AFFINITY_ENABLED", "1");
const RESTRICTED: (&str, &str) = ("KUBERNETES_RUNNER_SECURITY_CONTEXT", "restricted");
const TOLERATIONS: (&str, &str) = ("KUBERNETES_RUNNER_TOLERATIONS", "dedicated=runs:NoSchedule");
const SCHEDULED_TOLERATIONS: (&str, &str) = ("KUBERNETES_SCHEDULED_RUN_TOLERATIONS", "cron:NoExecute");
const TAGS: (&str, &str) = ("PLACEMENT_TAGS_ENABLED", "true");
const OVERRIDE: (&str, &str) = (
    "KUBERNETES_ORG_PLACEMENT_OVERRIDES",
    r#"{"clx3q9tqs0001ml08d4kk9c7w": {"nodeSelector": {"nodetype": "own", "node.cluster.x-k8s.io/paid": "own"}, "tolerations": "own:NoSchedule"}}"#,
);

const OPTIONS: [Case; 53] = [
    ("namespace", &[("KUBERNETES_NAMESPACE", "runs")], &[]),
    ("nodetype", &[("KUBERNETES_WORKER_NODETYPE_LABEL", "v5")], &[]),
    ("nodetype, empty", &[("KUBERNETES_WORKER_NODETYPE_LABEL", "")], &[]),
    ("pull secrets", &[("KUBERNETES_IMAGE_PULL_SECRETS", "first, second")], &[]),
    ("storage limit", &[("KUBERNETES_EPHEMERAL_STORAGE_SIZE_LIMIT", "20Gi")], &[]),
    ("storage request", &[("KUBERNETES_EPHEMERAL_STORAGE_SIZE_REQUEST", "1Gi")], &[]),
    ("strip digest", &[STRIP], &[]),
    ("rewrite registry", &[REWRITE_FROM, REWRITE_TO], &[]),
    ("rewrite registry, half", &[REWRITE_FROM], &[]),
    (
        "rewrite registry, other image",
        &[("KUBERNETES_IMAGE_REGISTRY_REWRITE_FROM", "registry"), REWRITE_TO],
        &[],
    ),
    ("strip digest, rewrite registry", &[STRIP, REWRITE_FROM, REWRITE_TO], &[]),
    ("cpu ratio", &[("KUBERNETES_CPU_REQUEST_RATIO", "0.5")], &[]),
    ("cpu ratio of this preset", &[("KUBERNETES_CPU_REQUEST_RATIO_SMALL_1X", "0.1")], &[]),
    ("cpu ratio of another preset", &[("KUBERNETES_CPU_REQUEST_RATIO_MICRO", "0.1")], &[]),
    ("cpu min", &[("KUBERNETES_CPU_REQUEST_MIN_CORES", "0.4")], &[]),
    ("cpu min above the preset", &[("KUBERNETES_CPU_REQUEST_MIN_CORES", "2")], &[]),
    ("memory ratio", &[("KUBERNETES_MEMORY_REQUEST_RATIO", "0.5")], &[]),
    ("memory ratio of this preset", &[("KUBERNETES_MEMORY_REQUEST_RATIO_SMALL_1X", "0.2")], &[]),
    (
        "memory min",
        &[("KUBERNETES_MEMORY_REQUEST_MIN_GB", "0.3"), ("KUBERNETES_MEMORY_REQUEST_RATIO", "0.1")],
        &[],
    ),
    ("memory overhead", &[("KUBERNETES_MEMORY_OVERHEAD_GB", "0.25")], &[]),
    ("scheduler", &[("KUBERNETES_SCHEDULER_NAME", "packing")], &[]),
    ("priority class", &[("KUBERNETES_RUN_POD_PRIORITY_CLASS_NAME", "runs")], &[]),
    ("security baseline", &[("KUBERNETES_RUNNER_SECURITY_CONTEXT", "baseline")], &[]),
    ("security restricted", &[RESTRICTED], &[]),
    ("security restricted, user", &[RESTRICTED, ("KUBERNETES_RUNNER_RUN_AS_USER", "4711")], &[]),
    ("security restricted, bun", &[RESTRICTED], &[BUN]),
    ("seccomp, node 22", &[CHECKPOINTS], &[]),
    ("seccomp, node 24", &[CHECKPOINTS], &[NODE_24]),
    ("seccomp, node 24, no checkpoints", &[], &[NODE_24]),
    ("seccomp, none", &[CHECKPOINTS, ("KUBERNETES_RUNNER_SECCOMP_PROFILE_RUNTIMES", "none")], &[NODE_24]),
    ("seccomp, all", &[CHECKPOINTS, ("KUBERNETES_RUNNER_SECCOMP_PROFILE_RUNTIMES", "all")], &[]),
    ("seccomp path", &[CHECKPOINTS, ("KUBERNETES_RUNNER_SECCOMP_PROFILE_PATH", "p/own.json")], &[NODE_24]),
    ("ndots", &[("KUBERNETES_POD_DNS_NDOTS_OVERRIDE_ENABLED", "true")], &[]),
    (
        "ndots, 5",
        &[("KUBERNETES_POD_DNS_NDOTS_OVERRIDE_ENABLED", "true"), ("KUBERNETES_POD_DNS_NDOTS", "5")],
        &[],
    ),
    ("large pool, small machine", &[LARGE_POOL], &[]),
    ("large pool, large machine", &[LARGE_POOL, ("KUBERNETES_LARGE_MACHINE_AFFINITY_WEIGHT", "7")], &[LARGE]),
    (
        "large pool, own label",
        &[
            LARGE_POOL,
            ("KUBERNETES_LARGE_MACHINE_AFFINITY_POOL_LABEL_KEY", "own/size"),
            ("KUBERNETES_LARGE_MACHINE_AFFINITY_POOL_LABEL_VALUE", "big"),
        ],
        &[],
    ),
    ("scheduled pool, other run", &[SCHEDULED_POOL], &[]),
    ("scheduled pool, scheduled run", &[SCHEDULED_POOL], &[SCHEDULED]),
    (
        "scheduled pool, own label and weight, scheduled run",
        &[
            SCHEDULED_POOL,
            ("KUBERNETES_SCHEDULED_RUN_AFFINITY_POOL_LABEL_KEY", "own/purpose"),
            ("KUBERNETES_SCHEDULED_RUN_AFFINITY_POOL_LABEL_VALUE", "cron"),
            ("KUBERNETES_SCHEDULED_RUN_AFFINITY_WEIGHT", "8"),
        ],
        &[SCHEDULED],
    ),
    (
        "scheduled pool, own weight, other run",
        &[SCHEDULED_POOL, ("KUBERNETES_SCHEDULED_RUN_ANTI_AFFINITY_WEIGHT", "9")],
        &[],
    ),
    ("both pools, large scheduled run", &[LARGE_POOL, SCHEDULED_POOL], &[LARGE, SCHEDULED]),
    ("project affinity", &[PROJECT, ("KUBERNETES_PROJECT_AFFINITY_TOPOLOGY_KEY", "zone")], &[]),
    ("project affinity, own weight", &[PROJECT, ("KUBERNETES_PROJECT_AFFINITY_WEIGHT", "6")], &[]),
    ("tolerations", &[TOLERATIONS, SCHEDULED_TOLERATIONS], &[]),
    ("tolerations, scheduled run", &[TOLERATIONS, SCHEDULED_TOLERATIONS, OVERRIDE], &[SCHEDULED]),
    ("placement tags", &[TAGS], &[]),
    (
        "placement tags, prefix, no value",
        &[TAGS, ("PLACEMENT_TAGS_PREFIX", "own")],
        &[("/placementTags/0/values", "[]")],
    ),
    ("placement tags, organization", &[TAGS, OVERRIDE], &[]),
    (
        "organization with private link, staging",
        &[],
        &[("/organization/hasPrivateLink", "true"), ("/environment/type", "STAGING")],
    ),
    (
        "what runners get",
        &[
            ("TRIGGER_WORKLOAD_API_PROTOCOL", "HTTPS"),
            ("TRIGGER_WORKLOAD_API_PORT_EXTERNAL", "8443"),
            ("TRIGGER_WARM_START_URL", "http://localhost:9000"),
            ("TRIGGER_METADATA_URL", "http://metadata.example"),
            ("RUNNER_HEARTBEAT_INTERVAL_SECONDS", "11"),
            ("RUNNER_SNAPSHOT_POLL_INTERVAL_SECONDS", "12"),
            ("SEND_RUN_DEBUG_LOGS", "1"),
            // The platform's supervisor does not use it for pods either.
            ("RUNNER_PRETTY_LOGS", "true"),
        ],
        &[],
    ),
    ("signed token", &[("WORKLOAD_TOKEN_ENFORCEMENT", "log"), ("WORKLOAD_TOKEN_SECRET", "test-secret")], &[]),
    (
        "own variables win over the node's",
        &[
            ("RUNNER_ADDITIONAL_ENV_VARS", "LIMITS_CPU=1,A=2"),
            ("TRIGGER_WORKLOAD_API_DOMAIN", "supervisor.example"),
        ],
        &[],
    ),
];

#[test]
fn each_option_changes_what_it_says_and_nothing_else() {
    let base = pod_of(&[], &[]).expect("a pod");
    let changed: BTreeMap<&str, Vec<String>> = OPTIONS
        .iter()
        .map(|(name, variables, message)| {
            (*name, changes(&base, &pod_of(variables, message).expect("a pod")))
        })
        .collect();
    assert_eq!(changed.len(), OPTIONS.len(), "each case has a name of its own");
    insta::assert_json_snapshot!(changed);
}

/// The ratio of a preset applies to that preset only.
#[test]
fn each_presets_ratio_is_its_own() {
    let presets = ["micro", "small-1x", "small-2x", "medium-1x", "medium-2x", "large-1x", "large-2x"];
    for of_ratio in presets {
        let suffix = of_ratio.to_uppercase().replace('-', "_");
        let cpu = format!("KUBERNETES_CPU_REQUEST_RATIO_{suffix}");
        let memory = format!("KUBERNETES_MEMORY_REQUEST_RATIO_{suffix}");
        for preset in presets {
            let machine = json!({"name": preset, "cpu": 8, "memory": 8, "centsPerMs": 0}).to_string();
            let variables = [(cpu.as_str(), "0.125"), (memory.as_str(), "0.25")];
            let pod = pod_of(&variables, &[("/run/machine", &machine)]).expect("a pod");
            let requests = &pod["spec"]["containers"][0]["resources"]["requests"];
            let expected = if preset == of_ratio { ("1", "2G") } else { ("6", "8G") };
            let asked = (requests["cpu"].as_str(), requests["memory"].as_str());
            assert_eq!(asked, (Some(expected.0), Some(expected.1)), "{of_ratio}'s ratio, {preset}");
        }
    }
}

/// Each variable that the backend reads must change at least one golden pod, so that no variable is untested.
#[test]
fn every_variable_of_the_backend_has_a_golden_pod() {
    let read = [
        include_str!("../../../config/kubernetes.rs"),
        include_str!("../../../config/kubernetes/placement.rs"),
        include_str!("../../../config/kubernetes/resources.rs"),
        include_str!("../../../config/runner.rs"),
    ];
    let quoted = read.iter().flat_map(|source| source.split('"').skip(1).step_by(2));
    let is_variable = |text: &&str| {
        text.len() > 4
            && text.bytes().all(|byte| byte == b'_' || byte.is_ascii_uppercase() || byte.is_ascii_digit())
    };
    let shown: Vec<&str> =
        OPTIONS.iter().flat_map(|(_, variables, _)| variables.iter().map(|(name, _)| *name)).collect();
    // The cluster's address is not part of a pod, presets have their own test, and the base sets these two.
    let elsewhere = |name: &&str| {
        matches!(*name, "KUBERNETES_PORT" | "WARMPROOF_KUBECONFIG" | "OTEL_EXPORTER_OTLP_ENDPOINT")
            || ["MICRO", "_1X", "_2X"].iter().any(|preset| name.ends_with(preset))
    };
    let unseen: Vec<&str> = quoted
        .filter(is_variable)
        .filter(|name| !shown.contains(name))
        .filter(|name| !elsewhere(name))
        .collect();
    assert_eq!(unseen, [""; 0]);
}

#[test]
fn an_id_too_long_for_a_label_is_an_annotation() {
    let long = format!("snapshot_{}", "a".repeat(80));
    let pod = pod_of(&[], &[("/snapshot/friendlyId", &long)]).expect("a pod");
    let metadata = &pod["metadata"];
    assert_eq!(metadata["annotations"], json!({ "warmproof/snapshot-id": long }));
    assert_eq!(metadata["labels"]["warmproof/run-id"], "run_06n8r0j5c2p5ve1k3m7qfa9he1");
    assert_eq!(metadata["labels"]["warmproof/snapshot-id"], Value::Null);
    assert_eq!(metadata["labels"]["warmproof/verification-id"], Uuid::nil().to_string());
}

#[test]
fn a_name_kubernetes_does_not_take_is_refused_before_any_request() {
    for (pointer, id) in [
        ("/run/friendlyId", "run_Upper".to_owned()),
        ("/snapshot/friendlyId", "snapshot_short".to_owned()),
        ("/snapshot/friendlyId", "snapshot_endsWithUPPER".to_owned()),
    ] {
        let error = pod_of(&[], &[(pointer, &id)]).expect_err("a bad name");
        let CreateError::Permanent { reason } = error else { panic!("{id} is permanent") };
        assert!(reason.contains("`runner-"), "{reason}");
    }
    assert!(pod_of(&[], &[("/run/friendlyId", &format!("run_{}", "a".repeat(190)))]).is_ok());
}

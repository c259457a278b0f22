use super::placement::{OrganizationPlacement, Toleration};
use super::*;
use crate::config::environment::Environment;
use crate::config::error::ConfigErrors;
use crate::config::reader;

fn read(pairs: &[(&str, &str)]) -> Result<KubernetesConfig, ConfigErrors> {
    let environment = Environment::from_pairs(pairs.iter().copied());
    reader::read_all(&environment, |reader| Some(KubernetesConfig::read(reader)))
}

fn toleration(key: &str, value: Option<&str>, effect: &str) -> Toleration {
    Toleration { key: key.to_owned(), value: value.map(str::to_owned), effect: effect.to_owned() }
}

#[test]
fn an_empty_environment_gives_the_supervisors_defaults() {
    let config = read(&[]).expect("defaults");
    assert_eq!(config.access, Access::Kubeconfig);
    assert_eq!(config.namespace, "default");
    assert_eq!(config.nodetype.as_deref(), Some("v4-worker"));
    assert_eq!((config.scheduler_name, config.priority_class_name, config.ndots), (None, None, None));
    assert!(!config.image.strip_digest && config.image.rewrite.is_none());
    assert!(config.image.pull_secrets.is_empty());
    assert_eq!((config.resources.cpu.ratio, config.resources.memory.ratio), (0.75, 1.0));
    assert_eq!((config.resources.cpu.min, config.resources.memory.min), (0.0, 0.0));
    assert_eq!(
        (config.resources.storage_request.as_str(), config.resources.storage_limit.as_str()),
        ("2Gi", "10Gi")
    );
    assert_eq!(config.security.level, SecurityLevel::Off);
    assert_eq!(config.security.run_as_user, 1000);
    assert_eq!(config.security.seccomp_profile, None, "checkpoints are not configured");
    assert_eq!(config.security.seccomp_runtimes, SeccompRuntimes::Node24Plus);
    let placement = config.placement;
    assert!(placement.large_machines.is_none() && placement.scheduled_runs.is_none());
    assert!(placement.project.is_none() && placement.tags_prefix.is_none());
    assert!(placement.tolerations.is_empty() && placement.organizations.is_empty());
}

#[test]
fn a_kubeconfig_of_ours_goes_before_the_pods_own_account() {
    let in_pod = ("KUBERNETES_PORT", "tcp://10.0.0.1:443");
    assert_eq!(read(&[in_pod]).expect("a configuration").access, Access::InCluster);
    let access = read(&[in_pod, ("WARMPROOF_KUBECONFIG", "/etc/kube")]).expect("a configuration").access;
    assert_eq!(access, Access::File(PathBuf::from("/etc/kube")));
}

#[test]
fn every_bad_value_is_named() {
    let cases = [
        ("KUBERNETES_NAMESPACE", "Runs"),
        ("KUBERNETES_WORKER_NODETYPE_LABEL", "v4 worker"),
        ("KUBERNETES_IMAGE_PULL_SECRETS", "good,Bad"),
        ("KUBERNETES_EPHEMERAL_STORAGE_SIZE_LIMIT", "10GB"),
        ("KUBERNETES_EPHEMERAL_STORAGE_SIZE_REQUEST", "much"),
        ("KUBERNETES_CPU_REQUEST_MIN_CORES", "-1"),
        ("KUBERNETES_CPU_REQUEST_RATIO", "1.1"),
        ("KUBERNETES_CPU_REQUEST_RATIO_LARGE_2X", "2"),
        ("KUBERNETES_MEMORY_REQUEST_MIN_GB", "much"),
        ("KUBERNETES_MEMORY_REQUEST_RATIO", "NaN"),
        ("KUBERNETES_MEMORY_REQUEST_RATIO_MICRO", "-0.1"),
        ("KUBERNETES_MEMORY_OVERHEAD_GB", "-1"),
        ("KUBERNETES_SCHEDULER_NAME", "My Scheduler"),
        ("KUBERNETES_RUN_POD_PRIORITY_CLASS_NAME", "runs!"),
        ("KUBERNETES_RUNNER_SECURITY_CONTEXT", "strict"),
        ("KUBERNETES_RUNNER_RUN_AS_USER", "0"),
        ("KUBERNETES_RUNNER_SECCOMP_PROFILE_PATH", "../secrets"),
        ("KUBERNETES_RUNNER_SECCOMP_PROFILE_RUNTIMES", "node"),
        ("TRIGGER_CHECKPOINT_URL", "checkpoints"),
        ("KUBERNETES_POD_DNS_NDOTS", "16"),
        ("KUBERNETES_LARGE_MACHINE_AFFINITY_POOL_LABEL_KEY", "a/b/c"),
        ("KUBERNETES_LARGE_MACHINE_AFFINITY_POOL_LABEL_VALUE", "large machines"),
        ("KUBERNETES_LARGE_MACHINE_AFFINITY_WEIGHT", "0"),
        ("KUBERNETES_SCHEDULED_RUN_AFFINITY_POOL_LABEL_KEY", "-"),
        ("KUBERNETES_SCHEDULED_RUN_AFFINITY_POOL_LABEL_VALUE", " "),
        ("KUBERNETES_SCHEDULED_RUN_AFFINITY_WEIGHT", "101"),
        ("KUBERNETES_SCHEDULED_RUN_ANTI_AFFINITY_WEIGHT", "1.5"),
        ("KUBERNETES_PROJECT_AFFINITY_WEIGHT", "heavy"),
        ("KUBERNETES_PROJECT_AFFINITY_TOPOLOGY_KEY", "kubernetes.io/host name"),
        ("KUBERNETES_RUNNER_TOLERATIONS", "dedicated=runs"),
        ("KUBERNETES_SCHEDULED_RUN_TOLERATIONS", "dedicated=runs:Never"),
        ("KUBERNETES_ORG_PLACEMENT_OVERRIDES", r#"{"org": {"nodeselector": {}}}"#),
        ("PLACEMENT_TAGS_PREFIX", "node/cluster"),
    ];
    for (variable, value) in cases {
        let errors = read(&[(variable, value)]).expect_err(variable);
        assert_eq!(errors.variables(), [variable], "{value}");
    }
}

#[test]
fn an_empty_text_unpins_pods_and_zeroes_a_presets_ratio() {
    let config = read(&[
        ("KUBERNETES_WORKER_NODETYPE_LABEL", ""),
        ("KUBERNETES_CPU_REQUEST_RATIO_MICRO", ""),
        ("KUBERNETES_MEMORY_REQUEST_RATIO_SMALL_1X", "0.5"),
        ("KUBERNETES_CPU_REQUEST_MIN_CORES", "0.1"),
    ])
    .expect("a configuration");
    assert_eq!(config.nodetype, None);
    let (cpu, memory) = (config.resources.cpu, config.resources.memory);
    assert_eq!((cpu.of("micro", 0.25), cpu.of("small-1x", 0.5), cpu.of("tiny", 0.05)), (0.1, 0.375, 0.05));
    assert_eq!((memory.of("micro", 0.25), memory.of("small-1x", 0.5)), (0.25, 0.25));
}

#[test]
fn tolerations_are_pairs_with_an_effect() {
    let text = " dedicated=runs:NoSchedule, spot:NoExecute,,example.com/a=:PreferNoSchedule ";
    let config = read(&[("KUBERNETES_RUNNER_TOLERATIONS", text)]).expect("a configuration");
    let expected = [
        toleration("dedicated", Some("runs"), "NoSchedule"),
        toleration("spot", None, "NoExecute"),
        toleration("example.com/a", Some(""), "PreferNoSchedule"),
    ];
    assert_eq!(config.placement.tolerations, expected);
    for bad in [":NoSchedule", "a b:NoSchedule", "a=b c:NoSchedule", "a:noschedule", "a:"] {
        let errors = read(&[("KUBERNETES_RUNNER_TOLERATIONS", bad)]).expect_err(bad);
        assert!(errors.to_string().contains(&format!("`{bad}`")), "the entry is named: {errors}");
    }
}

#[test]
fn an_organizations_override_is_strict_json() {
    let variable = "KUBERNETES_ORG_PLACEMENT_OVERRIDES";
    let text = r#"{"org_a": {"nodeSelector": {"pool": "a"}, "tolerations": "pool=a:NoSchedule"},
                   "org_b": {"tolerations": ["b:NoExecute", "c=1:NoSchedule"]}, "org_c": {}}"#;
    let organizations = read(&[(variable, text)]).expect("a configuration").placement.organizations;
    assert_eq!(organizations["org_a"].node_selector["pool"], "a");
    assert_eq!(organizations["org_a"].tolerations, [toleration("pool", Some("a"), "NoSchedule")]);
    assert_eq!(organizations["org_b"].tolerations.len(), 2);
    assert_eq!(organizations["org_c"], OrganizationPlacement::default());
    for bad in [
        "{",
        "[]",
        r#"{"org": {"affinity": {}}}"#,
        r#"{"org": {"nodeSelector": {"a b": "c"}}}"#,
        r#"{"org": {"nodeSelector": {"a": 1}}}"#,
        r#"{"org": {"tolerations": "a:Never"}}"#,
        r#"{"org": {"tolerations": [{"key": "a"}]}}"#,
    ] {
        assert_eq!(read(&[(variable, bad)]).expect_err(bad).variables(), [variable], "{bad}");
    }
}

#[test]
fn a_registry_is_rewritten_only_if_both_ends_are_given() {
    let (from, to) = (
        ("KUBERNETES_IMAGE_REGISTRY_REWRITE_FROM", "a.example"),
        ("KUBERNETES_IMAGE_REGISTRY_REWRITE_TO", "b.example"),
    );
    assert!(read(&[from]).expect("a configuration").image.rewrite.is_none());
    assert!(read(&[to]).expect("a configuration").image.rewrite.is_none());
    assert!(read(&[from, to]).expect("a configuration").image.rewrite.is_some());
}

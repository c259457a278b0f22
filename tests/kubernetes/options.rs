//! The server accepts the pods of every option; golden files cannot show what a server refuses.

use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{Api, PostParams};
use serde_json::json;
use warmproof::workload::Created;

use crate::cluster::{Cluster, WORKER, dispatch};

const PRIORITY_CLASS: &str = "warmproof-test";

/// All options at once, except those that exclude each other.
const OPTIONS: [(&str, &str); 30] = [
    ("KUBERNETES_WORKER_NODETYPE_LABEL", "v5"),
    ("KUBERNETES_IMAGE_PULL_SECRETS", "first,second"),
    ("KUBERNETES_EPHEMERAL_STORAGE_SIZE_LIMIT", "20Gi"),
    ("KUBERNETES_EPHEMERAL_STORAGE_SIZE_REQUEST", "1.5Gi"),
    ("KUBERNETES_STRIP_IMAGE_DIGEST", "true"),
    ("KUBERNETES_IMAGE_REGISTRY_REWRITE_FROM", "registry.internal.example"),
    ("KUBERNETES_IMAGE_REGISTRY_REWRITE_TO", "mirror.example/cache"),
    ("KUBERNETES_CPU_REQUEST_MIN_CORES", "0.1"),
    ("KUBERNETES_CPU_REQUEST_RATIO", "0.333"),
    ("KUBERNETES_CPU_REQUEST_RATIO_SMALL_1X", "0.77"),
    ("KUBERNETES_MEMORY_REQUEST_MIN_GB", "0.2"),
    ("KUBERNETES_MEMORY_REQUEST_RATIO", "0.7"),
    ("KUBERNETES_MEMORY_OVERHEAD_GB", "0.1"),
    ("KUBERNETES_SCHEDULER_NAME", "packing"),
    ("KUBERNETES_RUN_POD_PRIORITY_CLASS_NAME", PRIORITY_CLASS),
    ("KUBERNETES_RUNNER_SECURITY_CONTEXT", "restricted"),
    ("KUBERNETES_RUNNER_RUN_AS_USER", "4711"),
    ("TRIGGER_CHECKPOINT_URL", "https://checkpoints.example"),
    ("KUBERNETES_RUNNER_SECCOMP_PROFILE_RUNTIMES", "all"),
    ("KUBERNETES_POD_DNS_NDOTS_OVERRIDE_ENABLED", "true"),
    ("KUBERNETES_POD_DNS_NDOTS", "15"),
    ("KUBERNETES_LARGE_MACHINE_AFFINITY_ENABLED", "true"),
    ("KUBERNETES_SCHEDULED_RUN_AFFINITY_ENABLED", "true"),
    ("KUBERNETES_PROJECT_AFFINITY_ENABLED", "true"),
    ("KUBERNETES_RUNNER_TOLERATIONS", "dedicated=runs:NoSchedule,spot:NoExecute"),
    ("KUBERNETES_SCHEDULED_RUN_TOLERATIONS", "cron=:PreferNoSchedule"),
    (
        "KUBERNETES_ORG_PLACEMENT_OVERRIDES",
        r#"{"clx3q9tqs0001ml08d4kk9c7w": {"nodeSelector": {"own/pool": "own"}, "tolerations": "own:NoSchedule"}}"#,
    ),
    ("PLACEMENT_TAGS_ENABLED", "true"),
    ("TRIGGER_WARM_START_URL", "http://firestarter.example"),
    ("RUNNER_ADDITIONAL_ENV_VARS", "A=1,TRIGGER_SUPERVISOR_API_DOMAIN=own.example"),
];

#[tokio::test]
async fn the_server_takes_a_pod_with_every_option_for_every_kind_of_run() {
    let cluster = Cluster::new().await;
    let class = json!({"metadata": {"name": PRIORITY_CLASS}, "value": 1000});
    let class: PriorityClass = serde_json::from_value(class).expect("a class");
    let classes = Api::<PriorityClass>::all(cluster.admin());
    classes.create(&PostParams::default(), &class).await.expect("a class on the server");
    let workload = cluster.workload(WORKER, &OPTIONS);
    let large = ("/run/machine", r#"{"name": "large-2x", "cpu": 8, "memory": 16}"#);
    let micro = ("/run/machine", r#"{"name": "micro", "cpu": 0.25, "memory": 0.25}"#);
    let scheduled = ("/run/annotations/rootTriggerSource", "schedule");
    let private = ("/organization/hasPrivateLink", "true");
    let bun = ("/backgroundWorker/runtime", "bun");
    let kinds: [&[(&str, &str)]; 4] = [&[], &[large, scheduled], &[micro, private], &[bun, scheduled]];
    for (number, changes) in kinds.into_iter().enumerate() {
        let run = format!("run_a{number}");
        let create = dispatch(&[changes, &[("/run/friendlyId", run.as_str())]].concat());
        let workload_name = create.name.clone();
        assert_eq!(
            workload.create(create).await,
            Ok(Created::Created { workload: workload_name }),
            "{changes:?}"
        );
    }
    assert_eq!(cluster.selected("").await.len(), 4);
}

#[tokio::test]
async fn an_id_that_fits_no_label_still_makes_a_pod() {
    let cluster = Cluster::new().await;
    let snapshot = format!("snapshot_{}", "a".repeat(100));
    let create = dispatch(&[("/snapshot/friendlyId", &snapshot)]);
    cluster.workload(WORKER, &[]).create(create.clone()).await.expect("a pod");
    let pod = cluster.pods().get(&create.name).await.expect("the pod");
    assert_eq!(pod.metadata.annotations.expect("annotations")["warmproof/snapshot-id"], snapshot);
}

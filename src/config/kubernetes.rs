//! The kubernetes backend: where the cluster is, and what its pods are like (platform.md §5.5 and §6).

use std::path::PathBuf;

use super::reader::Reader;

pub mod names;
pub mod placement;
pub mod resources;

#[cfg(test)]
mod tests;

use placement::PlacementConfig;
use resources::ResourcesConfig;

/// Pods of one namespace of one cluster.
#[derive(Debug, Clone)]
pub struct KubernetesConfig {
    /// How the cluster is reached.
    pub access: Access,
    /// `KUBERNETES_NAMESPACE`: where pods are made, `default` by default.
    pub namespace: String,
    /// `KUBERNETES_WORKER_NODETYPE_LABEL`: pods go to nodes whose label `nodetype` has this value,
    /// `v4-worker` by default. An empty value lets them go anywhere; one that no node has leaves them pending
    /// for ever.
    pub nodetype: Option<String>,
    /// `KUBERNETES_SCHEDULER_NAME`: which scheduler places pods, the cluster's own if unset.
    pub scheduler_name: Option<String>,
    /// `KUBERNETES_RUN_POD_PRIORITY_CLASS_NAME`: their priority class; it must exist, or every create is
    /// refused.
    pub priority_class_name: Option<String>,
    /// `KUBERNETES_POD_DNS_NDOTS`, if `KUBERNETES_POD_DNS_NDOTS_OVERRIDE_ENABLED`: names with fewer dots are
    /// searched in the cluster first, 1 to 15; 2 by default.
    pub ndots: Option<u32>,
    /// Which image, and how it is pulled.
    pub image: ImageConfig,
    /// How much of a machine pods ask for.
    pub resources: ResourcesConfig,
    /// On which nodes they run.
    pub placement: PlacementConfig,
    /// What their processes may do.
    pub security: SecurityConfig,
}

/// How the cluster is reached. The files and variables behind it are read by the client at its first use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// `WARMPROOF_KUBECONFIG`: this file.
    File(PathBuf),
    /// `KUBERNETES_PORT` is set, as it is in every pod: the pod's own service account.
    InCluster,
    /// Otherwise: `KUBECONFIG`, or `~/.kube/config`.
    Kubeconfig,
}

/// Which image, and how it is pulled.
#[derive(Debug, Clone)]
pub struct ImageConfig {
    /// `KUBERNETES_IMAGE_PULL_SECRETS`: names of secrets, separated by commas.
    pub pull_secrets: Vec<String>,
    /// `KUBERNETES_STRIP_IMAGE_DIGEST`: go by the tag alone, false by default.
    pub strip_digest: bool,
    /// `KUBERNETES_IMAGE_REGISTRY_REWRITE_FROM` and `_TO`: images of the one registry are pulled from the
    /// other.
    pub rewrite: Option<RegistryRewrite>,
}

/// One registry in place of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryRewrite {
    /// What references start with, without the slash after it.
    pub from: String,
    /// What replaces it.
    pub to: String,
}

/// What the processes of a pod may do.
#[derive(Debug, Clone)]
pub struct SecurityConfig {
    /// `KUBERNETES_RUNNER_SECURITY_CONTEXT`: `off` by default.
    pub level: SecurityLevel,
    /// `KUBERNETES_RUNNER_RUN_AS_USER`: the user id at [`SecurityLevel::Restricted`], 1000 by default; bun's
    /// images have 1001, always. Wrong, and the runner cannot read its own files.
    pub run_as_user: i64,
    /// `KUBERNETES_RUNNER_SECCOMP_PROFILE_PATH`: a profile on the node, below the kubelet's own directory.
    ///
    /// Only where `TRIGGER_CHECKPOINT_URL` is set: it keeps runners from what cannot be checkpointed. A
    /// profile that a node lacks keeps pods from starting.
    pub seccomp_profile: Option<String>,
    /// `KUBERNETES_RUNNER_SECCOMP_PROFILE_RUNTIMES`: which runtimes get it, `node-24-plus` by default.
    pub seccomp_runtimes: SeccompRuntimes,
}

/// How much a runner's container is constrained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecurityLevel {
    /// The cluster's own default.
    Off,
    /// No new privileges, no capabilities.
    Baseline,
    /// The same, and not the user root.
    Restricted,
}

/// Which runtimes get the seccomp profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeccompRuntimes {
    /// None.
    None,
    /// Node 24 and newer.
    Node24Plus,
    /// All.
    All,
}

impl KubernetesConfig {
    /// Reads this concern; faults stay with the reader.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let ndots_set = reader.flag("KUBERNETES_POD_DNS_NDOTS_OVERRIDE_ENABLED", false);
        let ndots = reader.count("KUBERNETES_POD_DNS_NDOTS", 2, 1..=15);
        let checked = |reader: &mut Reader<'_>, variable| {
            reader.optional_text(variable).inspect(|name| check_name(reader, variable, name))
        };
        Self {
            access: Access::read(reader),
            namespace: read_namespace(reader),
            nodetype: read_nodetype(reader),
            scheduler_name: checked(reader, "KUBERNETES_SCHEDULER_NAME"),
            priority_class_name: checked(reader, "KUBERNETES_RUN_POD_PRIORITY_CLASS_NAME"),
            ndots: ndots_set.then_some(ndots),
            image: ImageConfig::read(reader),
            resources: ResourcesConfig::read(reader),
            placement: PlacementConfig::read(reader),
            security: SecurityConfig::read(reader),
        }
    }
}

impl Access {
    fn read(reader: &mut Reader<'_>) -> Self {
        let in_cluster = reader.optional_text("KUBERNETES_PORT").is_some();
        match reader.optional_text("WARMPROOF_KUBECONFIG") {
            Some(path) => Self::File(PathBuf::from(path)),
            None if in_cluster => Self::InCluster,
            None => Self::Kubeconfig,
        }
    }
}

impl ImageConfig {
    fn read(reader: &mut Reader<'_>) -> Self {
        let variable = "KUBERNETES_IMAGE_PULL_SECRETS";
        let text = reader.optional_text(variable).unwrap_or_default();
        let pull_secrets: Vec<String> = placement::entries(&text).map(str::to_owned).collect();
        for name in &pull_secrets {
            check_name(reader, variable, name);
        }
        let from = reader.optional_text("KUBERNETES_IMAGE_REGISTRY_REWRITE_FROM");
        let to = reader.optional_text("KUBERNETES_IMAGE_REGISTRY_REWRITE_TO");
        Self {
            pull_secrets,
            strip_digest: reader.flag("KUBERNETES_STRIP_IMAGE_DIGEST", false),
            // One without the other has no effect, as in the platform's supervisor.
            rewrite: from.zip(to).map(|(from, to)| RegistryRewrite { from, to }),
        }
    }
}

impl SecurityConfig {
    fn read(reader: &mut Reader<'_>) -> Self {
        let level = ["off", "baseline", "restricted"];
        let level = match reader.one_of("KUBERNETES_RUNNER_SECURITY_CONTEXT", "off", &level) {
            "baseline" => SecurityLevel::Baseline,
            "restricted" => SecurityLevel::Restricted,
            _ => SecurityLevel::Off,
        };
        // A restricted container must not run as root; the node would refuse it.
        let run_as_user = reader.whole("KUBERNETES_RUNNER_RUN_AS_USER", 1000, 1..=2_147_483_647);
        let variable = "KUBERNETES_RUNNER_SECCOMP_PROFILE_RUNTIMES";
        let runtimes = ["none", "node-24-plus", "all"];
        let seccomp_runtimes = match reader.one_of(variable, "node-24-plus", &runtimes) {
            "none" => SeccompRuntimes::None,
            "all" => SeccompRuntimes::All,
            _ => SeccompRuntimes::Node24Plus,
        };
        let variable = "KUBERNETES_RUNNER_SECCOMP_PROFILE_PATH";
        let path = reader.text_or(variable, "profiles/block-io-uring.json");
        if path.starts_with('/') || path.split('/').any(|part| part == "..") {
            reader.fault(variable, "points outside the kubelet's directory", "set it to a relative path");
        }
        let checkpoints = reader.optional_http_url("TRIGGER_CHECKPOINT_URL").is_some();
        Self {
            level,
            run_as_user: i64::try_from(run_as_user).unwrap_or(1000),
            seccomp_profile: checkpoints.then_some(path),
            seccomp_runtimes,
        }
    }
}

fn read_namespace(reader: &mut Reader<'_>) -> String {
    let namespace = reader.text_or("KUBERNETES_NAMESPACE", "default");
    if !names::is_namespace(&namespace) {
        let hint = "use lower-case letters, digits and `-` between them, up to 63";
        reader.fault("KUBERNETES_NAMESPACE", "is not a namespace", hint);
    }
    namespace
}

fn read_nodetype(reader: &mut Reader<'_>) -> Option<String> {
    let variable = "KUBERNETES_WORKER_NODETYPE_LABEL";
    let label = reader.text_or_empty(variable, "v4-worker").trim().to_owned();
    if !names::is_label_value(&label) {
        let hint = "use letters and digits with `-`, `_` and `.` between them, up to 63, or leave it empty";
        reader.fault(variable, "is not a label's value", hint);
    }
    (!label.is_empty()).then_some(label)
}

fn check_name(reader: &mut Reader<'_>, variable: &'static str, name: &str) {
    if !names::is_object_name(name) {
        let hint = "use lower-case letters and digits with `-` and `.` between them, up to 253";
        reader.fault(variable, "holds something that is not a name", hint);
    }
}

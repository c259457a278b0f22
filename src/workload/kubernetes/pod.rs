//! The pod of one cold start (platform.md §5.5). Pure: configuration and request in, pod out.
//!
//! It has the labels of the platform's supervisor and ours, so that people find it by run,
//! snapshot and verification: `kubectl get pods -l warmproof/run-id=run_…`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, LocalObjectReference, ObjectFieldSelector,
    Pod, PodDNSConfig, PodDNSConfigOption, PodSecurityContext, PodSpec, ResourceFieldSelector,
    SeccompProfile, SecurityContext,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::config::kubernetes::{KubernetesConfig, SeccompRuntimes, SecurityLevel, names};
use crate::config::runner::RunnerEnvConfig;
use crate::domain::dispatch::ColdStartRequest;
use crate::workload::runner_env::{Runner, RunnerHost, runner_env};
use crate::workload::{CreateError, CreateRequest, Order};

use super::placement;
use super::resources;

/// The dispatch that a pod was made for; decides whether a taken name is ours.
pub(super) const SNAPSHOT_VARIABLE: &str = "TRIGGER_SNAPSHOT_ID";

/// The one container's name.
const CONTAINER: &str = "run-controller";

/// Where the runner listens.
const CONTAINER_PORT: i32 = 8000;

/// How long a runner may continue its run after the request to stop: an hour.
const TERMINATION_GRACE_SECONDS: i64 = 60 * 60;

/// The user of bun's images; all other images use the configured one.
const BUN_USER: i64 = 1001;

/// The pod for this order.
///
/// # Errors
/// [`CreateError::Permanent`] if Kubernetes does not accept its name.
pub(super) fn pod(
    config: &KubernetesConfig,
    order: &Order<'_>,
    runner: &Runner<'_>,
    env: &RunnerEnvConfig,
) -> Result<Pod, CreateError> {
    let (create, request) = (runner.create, &runner.create.request);
    // The name also becomes part of a request's path, so it must not lead to another one.
    if !names::is_object_name(&create.name) {
        let reason = format!(
            "the workload's name is not one that Kubernetes takes (lower-case letters and digits, `-` between them, \
             up to {}): `{}`",
            names::NAME_BYTES_MAX,
            create.name
        );
        return Err(CreateError::Permanent { reason });
    }
    let (own_labels, own_annotations) = own_metadata(create);
    let mut labels = platform_labels(request);
    labels.extend(own_labels);
    let metadata = ObjectMeta {
        name: Some(create.name.clone()),
        namespace: Some(config.namespace.clone()),
        labels: Some(labels),
        annotations: some(own_annotations),
        ..ObjectMeta::default()
    };
    let spec = PodSpec {
        restart_policy: Some("Never".to_owned()),
        automount_service_account_token: Some(false),
        termination_grace_period_seconds: Some(TERMINATION_GRACE_SECONDS),
        image_pull_secrets: some(config.image.pull_secrets.iter().map(|name| secret(name)).collect()),
        scheduler_name: config.scheduler_name.clone(),
        priority_class_name: config.priority_class_name.clone(),
        node_selector: some(placement::node_selector(config, request)),
        affinity: placement::affinity(&config.placement, request),
        tolerations: some(placement::tolerations(&config.placement, request)),
        dns_config: config.ndots.map(dns),
        security_context: pod_security(config, request),
        containers: vec![container(config, order, runner, env)],
        ..PodSpec::default()
    };
    Ok(Pod { metadata, spec: Some(spec), status: None })
}

/// `None` instead of an empty list or map: the platform's supervisor leaves out such fields.
fn some<T: IntoIterator + Default + PartialEq>(items: T) -> Option<T> {
    (items != T::default()).then_some(items)
}

fn platform_labels(request: &ColdStartRequest) -> BTreeMap<String, String> {
    let organization = request.organization.id.as_str();
    let environment_type = match request.environment.kind.as_str() {
        "PRODUCTION" => Some("prod"),
        "STAGING" => Some("stg"),
        "DEVELOPMENT" => Some("dev"),
        "PREVIEW" => Some("preview"),
        _ => None,
    };
    let private = request.organization.has_private_link == Some(true);
    [
        ("env", Some(request.environment.id.as_str())),
        ("envtype", environment_type),
        ("org", Some(organization)),
        ("project", Some(&request.project.id)),
        ("machine", Some(&request.run.machine.name)),
        ("scheduled", Some(if placement::is_scheduled(request) { "true" } else { "false" })),
        ("app", Some("task-run")),
        ("app.kubernetes.io/part-of", Some("trigger-worker")),
        ("app.kubernetes.io/component", Some("create")),
        ("privatelink", private.then_some(organization)),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())))
    .collect()
}

/// Our own labels. A value that no label can hold becomes an annotation, which a selector cannot find.
fn own_metadata(create: &CreateRequest) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let request = &create.request;
    [
        ("warmproof/run-id", Some(request.run.friendly_id.to_string())),
        ("warmproof/snapshot-id", Some(request.snapshot.friendly_id.to_string())),
        ("warmproof/verification-id", create.verification_id.map(|id| id.to_string())),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key.to_owned(), value?)))
    .partition(|(_, value)| names::is_label_value(value))
}

fn secret(name: &str) -> LocalObjectReference {
    LocalObjectReference { name: name.to_owned() }
}

fn dns(ndots: u32) -> PodDNSConfig {
    let ndots = PodDNSConfigOption { name: Some("ndots".to_owned()), value: Some(ndots.to_string()) };
    PodDNSConfig { options: Some(vec![ndots]), ..PodDNSConfig::default() }
}

fn container(
    config: &KubernetesConfig,
    order: &Order<'_>,
    runner: &Runner<'_>,
    env: &RunnerEnvConfig,
) -> Container {
    let request = &runner.create.request;
    Container {
        name: CONTAINER.to_owned(),
        image: Some(image(config, order.image)),
        ports: Some(vec![ContainerPort { container_port: CONTAINER_PORT, ..ContainerPort::default() }]),
        env: Some(environment(runner, env)),
        resources: Some(resources::of(&config.resources, &request.run.machine)),
        security_context: container_security(config, request),
        ..Container::default()
    }
}

/// The image reference, without its digest and from another registry if configured so.
fn image(config: &KubernetesConfig, reference: &str) -> String {
    let reference = match reference.rsplit_once('@') {
        Some((tagged, _)) if config.image.strip_digest => tagged,
        Some(_) | None => reference,
    };
    let moved = config.image.rewrite.as_ref().and_then(|rewrite| {
        let rest = reference.strip_prefix(rewrite.from.as_str())?.strip_prefix('/')?;
        Some(format!("{}/{rest}", rewrite.to))
    });
    moved.unwrap_or_else(|| reference.to_owned())
}

/// The runner's environment, and variables that only the node knows. A configured variable of that name wins.
fn environment(runner: &Runner<'_>, env: &RunnerEnvConfig) -> Vec<EnvVar> {
    let known = runner_env(env, RunnerHost::Kubernetes, runner);
    let of_node = [
        ("TRIGGER_SUPERVISOR_API_DOMAIN", field("status.hostIP")),
        ("TRIGGER_WORKER_INSTANCE_NAME", field("spec.nodeName")),
        ("LIMITS_CPU", limit("limits.cpu")),
        ("LIMITS_MEMORY", limit("limits.memory")),
    ];
    let of_node = of_node.into_iter().filter(|(name, _)| known.iter().all(|(known, _)| known != name));
    let of_node: Vec<EnvVar> = of_node
        .map(|(name, source)| EnvVar { name: name.to_owned(), value_from: Some(source), value: None })
        .collect();
    let known = known.into_iter().map(|(name, value)| EnvVar { name, value: Some(value), value_from: None });
    known.chain(of_node).collect()
}

fn field(path: &str) -> EnvVarSource {
    let field = ObjectFieldSelector { field_path: path.to_owned(), api_version: None };
    EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }
}

fn limit(resource: &str) -> EnvVarSource {
    let resource =
        ResourceFieldSelector { resource: resource.to_owned(), ..ResourceFieldSelector::default() };
    EnvVarSource { resource_field_ref: Some(resource), ..EnvVarSource::default() }
}

fn container_security(config: &KubernetesConfig, request: &ColdStartRequest) -> Option<SecurityContext> {
    let baseline = SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    };
    let is_bun = request.background_worker.runtime.as_deref() == Some("bun");
    match config.security.level {
        SecurityLevel::Off => None,
        SecurityLevel::Baseline => Some(baseline),
        SecurityLevel::Restricted => Some(SecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(if is_bun { BUN_USER } else { config.security.run_as_user }),
            ..baseline
        }),
    }
}

fn pod_security(config: &KubernetesConfig, request: &ColdStartRequest) -> Option<PodSecurityContext> {
    let path = config.security.seccomp_profile.clone()?;
    let runtime = request.background_worker.runtime.as_deref().unwrap_or_default();
    let wanted = match config.security.seccomp_runtimes {
        SeccompRuntimes::None => false,
        SeccompRuntimes::Node24Plus => is_node_24_plus(runtime),
        SeccompRuntimes::All => true,
    };
    let profile = SeccompProfile { type_: "Localhost".to_owned(), localhost_profile: Some(path) };
    wanted.then(|| PodSecurityContext { seccomp_profile: Some(profile), ..PodSecurityContext::default() })
}

/// `node-24`, `node-26`, …, also with `experimental-` before it.
fn is_node_24_plus(runtime: &str) -> bool {
    let runtime = runtime.strip_prefix("experimental-").unwrap_or(runtime);
    let major = runtime.strip_prefix("node-").filter(|major| major.bytes().all(|byte| byte.is_ascii_digit()));
    major.and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= 24)
}

#[cfg(test)]
mod tests;

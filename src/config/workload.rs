//! Cold starts: which backend makes workloads, and what the runner in them gets.
//!
//! All names are those of the platform's supervisor, so that a worker beside a supervisor makes
//! the same workloads from the same environment (platform.md §5 and §6).

use std::time::Duration;

use secrecy::SecretString;

use super::docker::DockerConfig;
use super::kubernetes::KubernetesConfig;
use super::platform;
use super::reader::Reader;
use super::runner::RunnerEnvConfig;
use super::token::TokenConfig;
use super::webhook::WebhookConfig;

/// Everything a cold start needs besides the dispatched message.
#[derive(Debug, Clone)]
pub struct WorkloadConfig {
    /// What makes the workloads.
    pub backend: BackendConfig,
    /// How a workload proves its deployment.
    pub token: TokenConfig,
    /// The settings that every runner gets.
    pub runner: RunnerEnvConfig,
}

/// The backend that makes workloads, chosen as the platform's supervisor chooses (platform.md §5.1).
#[derive(Debug, Clone)]
pub enum BackendConfig {
    /// The Docker engine, if no other backend is chosen.
    Docker(DockerConfig),
    /// The compute gateway, chosen by `COMPUTE_GATEWAY_URL`.
    Gateway(GatewayConfig),
    /// A signed call to a receiver that starts the run; chosen by name only.
    Webhook(WebhookConfig),
    /// Pods of a Kubernetes cluster, chosen by `KUBERNETES_FORCE_ENABLED`.
    Kubernetes(Box<KubernetesConfig>),
}

/// The compute gateway.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// `COMPUTE_GATEWAY_URL`: the base, as written; a trailing slash stays and doubles, as in the supervisor.
    pub url: String,
    /// `COMPUTE_GATEWAY_AUTH_TOKEN`: sent as a bearer token when set.
    pub auth_token: Option<SecretString>,
    /// `COMPUTE_GATEWAY_TIMEOUT_MS`: longest a create may take, answer included; 30 s by default.
    ///
    /// Too low and creates that succeed count as uncertain; too high and a hanging gateway holds a
    /// fallback slot until the platform's redrive.
    pub timeout: Duration,
    /// `COMPUTE_SNAPSHOTS_ENABLED`: runners may be snapshotted, so they get the metadata URL; false by
    /// default.
    pub snapshots: bool,
}

impl WorkloadConfig {
    /// Reads this concern; faults stay with the reader.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        // The receiver of a webhook starts the runner and gives it its settings.
        let tells_runners = reader.optional_text("WARMPROOF_BACKEND").as_deref() != Some("webhook");
        let backend = BackendConfig::read(reader);
        let (token, runner) = if tells_runners {
            (TokenConfig::read(reader), RunnerEnvConfig::read(reader))
        } else {
            (Some(TokenConfig::Disabled), Some(RunnerEnvConfig::nothing()))
        };
        if let (Some(BackendConfig::Gateway(gateway)), Some(runner)) = (&backend, &runner) {
            gateway.check_runner(runner, reader);
        }
        Some(Self { backend: backend?, token: token?, runner: runner? })
    }
}

impl BackendConfig {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let kinds = ["docker", "kubernetes", "gateway", "webhook"];
        let gateway_set = reader.optional_text("COMPUTE_GATEWAY_URL").is_some();
        let forced = reader.flag("KUBERNETES_FORCE_ENABLED", false);
        // The supervisor's order of choice; `WARMPROOF_BACKEND` comes first.
        let chosen = match (gateway_set, forced) {
            (true, _) => "gateway",
            (false, true) => "kubernetes",
            (false, false) => "docker",
        };
        match reader.optional_one_of("WARMPROOF_BACKEND", &kinds).unwrap_or(chosen) {
            "kubernetes" => Some(Self::Kubernetes(Box::new(KubernetesConfig::read(reader)))),
            "gateway" => GatewayConfig::read(reader).map(Self::Gateway),
            "webhook" => WebhookConfig::read(reader).map(Self::Webhook),
            // The supervisor's own default.
            _ => DockerConfig::read(reader).map(Self::Docker),
        }
    }
}

impl GatewayConfig {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let url = reader.http_url("COMPUTE_GATEWAY_URL", "set it to the compute gateway's address");
        let auth_token = reader.optional_secret("COMPUTE_GATEWAY_AUTH_TOKEN");
        platform::check_header(reader, "COMPUTE_GATEWAY_AUTH_TOKEN", auth_token.as_ref());
        let timeout = reader.millis("COMPUTE_GATEWAY_TIMEOUT_MS", 30_000, 1..=600_000);
        let snapshots = reader.flag("COMPUTE_SNAPSHOTS_ENABLED", false);
        Some(Self { url: url?, auth_token, timeout, snapshots })
    }

    /// A machine of the gateway has no default way back to its supervisor, so both addresses must be given.
    fn check_runner(&self, runner: &RunnerEnvConfig, reader: &mut Reader<'_>) {
        if runner.api_domain.is_none() {
            let hint = "set it to the name under which machines reach the supervisor";
            let problem = "is not set, but `COMPUTE_GATEWAY_URL` is";
            reader.fault("TRIGGER_WORKLOAD_API_DOMAIN", problem, hint);
        }
        if self.snapshots && runner.metadata_url.is_none() {
            let hint = "set it to the metadata service's address, or switch snapshots off";
            let problem = "is not set, but `COMPUTE_SNAPSHOTS_ENABLED` is true";
            reader.fault("TRIGGER_METADATA_URL", problem, hint);
        }
    }
}

//! The environment of a runner, for every backend in one place (platform.md §5.3).
//!
//! A variable that a backend fills from its own sources, such as a pod's field
//! references, is absent here; the backend adds it.

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::config::runner::RunnerEnvConfig;

use super::CreateRequest;

/// Where the runner will live, as far as its environment depends on it.
#[derive(Debug, Clone, Copy)]
pub enum RunnerHost<'a> {
    /// A container, which reaches the host by this name.
    Docker {
        /// `localhost`, or `host.docker.internal` where containers have their own network.
        host: &'a str,
    },
    /// A pod; its own field references supply node and host address.
    Kubernetes,
    /// A machine of the compute gateway.
    Gateway {
        /// Whether machines may be snapshotted; only then do they need the metadata URL.
        snapshots: bool,
    },
}

/// One runner to start.
#[derive(Debug, Clone, Copy)]
pub struct Runner<'a> {
    /// The request for it.
    pub create: &'a CreateRequest,
    /// The deployment's friendly id.
    pub deployment: &'a str,
    /// `TRIGGER_DEPLOYMENT_ID`: the signed token, or the friendly id.
    pub deployment_id: &'a SecretString,
}

/// Name and value of each variable, no name twice. Holds secrets: never print it.
#[must_use]
pub fn runner_env(
    config: &RunnerEnvConfig,
    engine: RunnerHost<'_>,
    runner: &Runner<'_>,
) -> Vec<(String, String)> {
    let mut env = Env(Vec::new());
    env.run(runner);
    env.supervisor(config, engine);
    env.behaviour(config, engine);
    // Last, so that they can override.
    for (name, value) in &config.additional {
        env.set(name, value.expose_secret());
    }
    env.0
}

struct Env(Vec<(String, String)>);

impl Env {
    fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.retain(|(earlier, _)| earlier != name);
        self.0.push((name.to_owned(), value.into()));
    }

    /// Which run to start, and under which ids.
    fn run(&mut self, runner: &Runner<'_>) {
        let request = &runner.create.request;
        self.set("TRIGGER_DEQUEUED_AT_MS", request.dequeued_at.timestamp_millis().to_string());
        self.set("TRIGGER_POD_SCHEDULED_AT_MS", runner.create.pod_scheduled_at_ms.to_string());
        self.set("TRIGGER_ENV_ID", &request.environment.id);
        self.set("TRIGGER_DEPLOYMENT_ID", runner.deployment_id.expose_secret());
        self.set("TRIGGER_DEPLOYMENT_FRIENDLY_ID", runner.deployment);
        self.set("TRIGGER_DEPLOYMENT_VERSION", &request.background_worker.version);
        self.set("TRIGGER_RUN_ID", request.run.friendly_id.as_str());
        self.set("TRIGGER_SNAPSHOT_ID", request.snapshot.friendly_id.as_str());
        self.set("TRIGGER_RUNNER_ID", &runner.create.name);
        self.set("TRIGGER_MACHINE_CPU", request.run.machine.cpu.to_string());
        self.set("TRIGGER_MACHINE_MEMORY", request.run.machine.memory.to_string());
    }

    /// The supervisor's address and name.
    fn supervisor(&mut self, config: &RunnerEnvConfig, engine: RunnerHost<'_>) {
        self.set("TRIGGER_SUPERVISOR_API_PROTOCOL", config.api_protocol.to_string());
        self.set("TRIGGER_SUPERVISOR_API_PORT", config.api_port.to_string());
        let domain_default = match engine {
            RunnerHost::Docker { host } => Some(host),
            RunnerHost::Kubernetes => None,
            RunnerHost::Gateway { .. } => Some(""),
        };
        if let Some(domain) = config.api_domain.as_deref().or(domain_default) {
            self.set("TRIGGER_SUPERVISOR_API_DOMAIN", domain);
        }
        match engine {
            RunnerHost::Docker { .. } | RunnerHost::Gateway { .. } => {
                self.set("TRIGGER_WORKER_INSTANCE_NAME", &config.instance_name);
            }
            RunnerHost::Kubernetes => {}
        }
    }

    /// What the runner does besides executing the run.
    fn behaviour(&mut self, config: &RunnerEnvConfig, engine: RunnerHost<'_>) {
        self.set("OTEL_EXPORTER_OTLP_ENDPOINT", &config.otel_endpoint);
        self.set("TRIGGER_SEND_RUN_DEBUG_LOGS", config.send_run_debug_logs.to_string());
        match engine {
            RunnerHost::Docker { .. } | RunnerHost::Gateway { .. } => {
                self.set("PRETTY_LOGS", config.pretty_logs.to_string());
            }
            RunnerHost::Kubernetes => {}
        }
        if let Some(url) = &config.warm_start_url {
            let url = match engine {
                RunnerHost::Docker { host } => from_container(url, host),
                RunnerHost::Kubernetes | RunnerHost::Gateway { .. } => url.clone(),
            };
            self.set("TRIGGER_WARM_START_URL", url);
        }
        let metadata_wanted = match engine {
            RunnerHost::Docker { .. } | RunnerHost::Kubernetes => true,
            RunnerHost::Gateway { snapshots } => snapshots,
        };
        if let Some(url) = config.metadata_url.as_ref().filter(|_| metadata_wanted) {
            self.set("TRIGGER_METADATA_URL", url);
        }
        if let Some(seconds) = config.heartbeat_seconds {
            self.set("TRIGGER_HEARTBEAT_INTERVAL_SECONDS", seconds.to_string());
        }
        if let Some(seconds) = config.snapshot_poll_seconds {
            self.set("TRIGGER_SNAPSHOT_POLL_INTERVAL_SECONDS", seconds.to_string());
        }
    }
}

/// The address that a container must use: its own `localhost` is not the host's.
fn from_container(url: &str, host: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else { return url.to_owned() };
    if parsed.host_str() == Some("localhost") && parsed.set_host(Some(host)).is_err() {
        return url.to_owned();
    }
    parsed.to_string()
}

#[cfg(test)]
mod tests;

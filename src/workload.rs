//! Cold starts: asks a backend for one workload and says what came of it.
//!
//! It does not decide whether to start anything, does not retry and keeps no
//! state: a create is one request, and its error says what the next one may do.
//! A name contains the snapshot, so only one dispatch uses it. A name that is
//! taken therefore comes from our own earlier request and counts as success.
//! No error text holds a secret or the body of an answer.

use crate::config::docker::DockerConfig;
use crate::config::kubernetes::KubernetesConfig;
use crate::config::runner::RunnerEnvConfig;
use crate::config::workload::{self, WorkloadConfig};
use crate::domain::dispatch::ColdStartRequest;
use crate::domain::ids::{SnapshotId, VerificationId};
use crate::transport::TransportError;

mod answer;
mod correlation;
#[cfg(feature = "docker")]
mod docker;
mod gateway;
#[cfg(feature = "kubernetes")]
mod kubernetes;
#[cfg(not(all(feature = "docker", feature = "kubernetes")))]
mod missing;
pub mod runner_env;
mod token;
mod webhook;

#[cfg(feature = "docker")]
use docker::Docker;
use gateway::Gateway;
#[cfg(feature = "kubernetes")]
use kubernetes::Kubernetes;
#[cfg(not(feature = "docker"))]
use missing::Missing as Docker;
#[cfg(not(feature = "kubernetes"))]
use missing::Missing as Kubernetes;
use runner_env::Runner;
use token::DeploymentId;
use webhook::Webhook;

/// Makes workloads with one backend.
#[derive(Debug, Clone)]
pub struct Workload {
    backend: Backend,
    deployment_id: DeploymentId,
    runner: RunnerEnvConfig,
}

#[derive(Debug, Clone)]
enum Backend {
    Docker(Docker),
    Gateway(Gateway),
    Webhook(Webhook),
    Kubernetes(Kubernetes),
}

/// One request for a workload.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// The workload's name and the runner's id: [`ColdStartRequest::workload_name`], or its [`next_name`].
    pub name: String,
    /// The verification that asks, if there is one. The workload keeps it, so that people can find it.
    pub verification_id: Option<VerificationId>,
    /// The parts of the dispatched message that a cold start reads.
    pub request: ColdStartRequest,
    /// The same message byte for byte, for backends that pass the dispatch on.
    pub message: String,
    /// The supervisor's timings, unchanged, for backends that pass the dispatch on.
    pub timings: Option<String>,
    /// When this request is made, in milliseconds since the epoch; runners compute their start time from it.
    pub pod_scheduled_at_ms: i64,
    /// Correlates the backend's logs with the wide event.
    pub request_id: Option<String>,
    /// The W3C trace context to continue.
    pub traceparent: Option<String>,
}

/// The workload exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// This request made it.
    Created {
        /// Its name.
        workload: String,
    },
    /// An earlier request of the same dispatch had made it.
    Existed {
        /// Its name.
        workload: String,
    },
}

/// We do not know of a workload; says what the next request may do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// The same request would fail again.
    #[error("{reason}")]
    Permanent {
        /// Why.
        reason: String,
    },
    /// Nothing was made; another request may succeed.
    #[error("{reason}")]
    Transient {
        /// Why.
        reason: String,
        /// The failed request may hold its name: use [`next_name`]. Otherwise keep the name, so that the
        /// next request finds a workload that was made after all and does not make a second one.
        name_may_be_taken: bool,
    },
    /// A workload may be starting: probe before the next request, and keep the same name.
    #[error("{reason}")]
    Uncertain {
        /// Why.
        reason: String,
    },
}

/// Why a backend is not usable; holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);

/// Why a backend could not be set up. Configuration that `config` has checked does not lead here.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The backend's address is not valid.
    #[error("could not use the backend's address: {0}")]
    Address(url::ParseError),
    /// This build does not have the backend.
    #[error(
        "this program was built without the cargo feature `{feature}`, which the pool's backend needs: use a build with it"
    )]
    NotBuilt {
        /// The cargo feature of the package `warmproof`.
        feature: &'static str,
    },
    /// The backend's token does not fit a header.
    #[error("could not use the backend's token: it holds characters other than printable ASCII")]
    AuthToken,
    /// The HTTP client could not be built.
    #[error("could not build the backend's client: {problem}")]
    Client {
        /// The cause.
        problem: String,
    },
    /// A webhook's key is not valid.
    #[error("could not use the webhook's key: it is not `whsec_` followed by base64")]
    Key,
}

impl From<TransportError> for BuildError {
    fn from(error: TransportError) -> Self {
        Self::Client { problem: error.to_string() }
    }
}

impl Workload {
    /// Sets up the configured backend, without connecting to anything.
    ///
    /// # Errors
    /// [`BuildError`], if the configuration does not come from `config`.
    pub fn new(config: &WorkloadConfig) -> Result<Self, BuildError> {
        let backend = match &config.backend {
            workload::BackendConfig::Docker(docker) => Backend::Docker(new_docker(docker)?),
            workload::BackendConfig::Gateway(gateway) => Backend::Gateway(Gateway::new(gateway)?),
            workload::BackendConfig::Webhook(webhook) => Backend::Webhook(Webhook::new(webhook)?),
            workload::BackendConfig::Kubernetes(kubernetes) => {
                Backend::Kubernetes(new_kubernetes(kubernetes)?)
            }
        };
        let deployment_id = DeploymentId::new(&config.token);
        Ok(Self { backend, deployment_id, runner: config.runner.clone() })
    }

    /// Prepares what a create needs, such as an image; this may take minutes. It makes no workload and may be
    /// repeated. When it took long, probe again before the create.
    ///
    /// # Errors
    /// [`CreateError`]; no create was requested.
    pub async fn prepare(&self, create: &CreateRequest) -> Result<(), CreateError> {
        let order = Order::check(create)?;
        match &self.backend {
            Backend::Docker(docker) => docker.prepare(&order).await,
            // The node pulls a pod's image.
            Backend::Gateway(_) | Backend::Kubernetes(_) | Backend::Webhook(_) => Ok(()),
        }
    }

    /// Removes what earlier requests under this name made and never started, once the run no longer needs it.
    ///
    /// # Errors
    /// Why it may still be there.
    pub async fn discard(&self, name: &str, snapshot_id: &SnapshotId) -> Result<(), BackendError> {
        match &self.backend {
            Backend::Docker(docker) => docker.discard(name, snapshot_id).await,
            // These backends start each workload they make.
            Backend::Gateway(_) | Backend::Kubernetes(_) | Backend::Webhook(_) => Ok(()),
        }
    }

    /// Removes what any worker made minutes ago and never started; returns how many.
    ///
    /// [`Self::discard`] misses some, such as the container of a worker that died after its last probe.
    ///
    /// # Errors
    /// Why some may still be there.
    pub async fn reap(&self) -> Result<usize, BackendError> {
        match &self.backend {
            Backend::Docker(docker) => docker.reap().await,
            // These backends start each workload they make.
            Backend::Gateway(_) | Backend::Kubernetes(_) | Backend::Webhook(_) => Ok(0),
        }
    }

    /// Checks that the backend answers and would accept our requests, as far as possible without a create.
    ///
    /// # Errors
    /// What is wrong, as text for people.
    pub async fn check(&self) -> Result<(), BackendError> {
        match &self.backend {
            Backend::Docker(docker) => docker.check().await,
            Backend::Kubernetes(kubernetes) => kubernetes.check().await,
            Backend::Gateway(_) | Backend::Webhook(_) => Ok(()),
        }
    }

    /// The backend's name: `docker`, `kubernetes`, `gateway` or `webhook`.
    pub fn backend(&self) -> &'static str {
        match &self.backend {
            Backend::Docker(_) => "docker",
            Backend::Gateway(_) => "gateway",
            Backend::Webhook(_) => "webhook",
            Backend::Kubernetes(_) => "kubernetes",
        }
    }

    /// Requests one workload, once.
    ///
    /// # Errors
    /// [`CreateError`] says what the next request may do.
    pub async fn create(&self, create: CreateRequest) -> Result<Created, CreateError> {
        let order = Order::check(&create)?;
        let deployment_id = self.deployment_id.value(&create.request, order.deployment).map_err(|error| {
            CreateError::Permanent { reason: format!("could not sign the deployment token: {error}") }
        })?;
        let runner = Runner { create: &create, deployment: order.deployment, deployment_id: &deployment_id };
        match &self.backend {
            Backend::Docker(docker) => Box::pin(docker.create(&order, &runner, &self.runner)).await,
            Backend::Gateway(gateway) => gateway.create(&order, &runner, &self.runner).await,
            Backend::Kubernetes(kubernetes) => kubernetes.create(&order, &runner, &self.runner).await,
            Backend::Webhook(webhook) => webhook.create(&create).await,
        }
    }
}

#[cfg(feature = "docker")]
fn new_docker(config: &DockerConfig) -> Result<Docker, BuildError> {
    Docker::new(config)
}

#[cfg(not(feature = "docker"))]
fn new_docker(_: &DockerConfig) -> Result<Docker, BuildError> {
    Err(BuildError::NotBuilt { feature: "docker" })
}

#[cfg(feature = "kubernetes")]
#[expect(clippy::unnecessary_wraps, reason = "fails in a build without `kubernetes`")]
fn new_kubernetes(config: &KubernetesConfig) -> Result<Kubernetes, BuildError> {
    Ok(Kubernetes::new(config))
}

#[cfg(not(feature = "kubernetes"))]
fn new_kubernetes(_: &KubernetesConfig) -> Result<Kubernetes, BuildError> {
    Err(BuildError::NotBuilt { feature: "kubernetes" })
}

/// The name for the `request_number`th request of one dispatch: the base first, then with `-r2`, `-r3`, …
///
/// Only after [`CreateError::Transient`] with `name_may_be_taken`. The platform's supervisor counts the same
/// way (platform.md §5.6).
#[must_use]
pub fn next_name(base: &str, request_number: u32) -> String {
    match request_number {
        0 | 1 => base.to_owned(),
        number => format!("{base}-r{number}"),
    }
}

/// A request that has all that every workload needs.
struct Order<'a> {
    image: &'a str,
    deployment: &'a str,
}

impl<'a> Order<'a> {
    /// The preconditions of the platform's supervisor, in its order and words (platform.md §5.1).
    fn check(create: &'a CreateRequest) -> Result<Self, CreateError> {
        let permanent = |reason: &str| CreateError::Permanent { reason: reason.to_owned() };
        let request = &create.request;
        // `null` counts as absent, as in the platform's supervisor.
        if request.checkpoint.as_ref().is_some_and(|checkpoint| !checkpoint.is_null()) {
            return Err(permanent("the run resumes from a checkpoint, which a cold start would lose"));
        }
        let present = |text: &'a Option<String>| text.as_deref().filter(|text| !text.is_empty());
        let deployment =
            present(&request.deployment.friendly_id).ok_or_else(|| permanent("Deployment is missing"))?;
        let image = present(&request.image).ok_or_else(|| permanent("Image is missing"))?;
        Ok(Self { image, deployment })
    }
}

#[cfg(test)]
mod tests;

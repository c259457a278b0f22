//! Cold starts: asks a backend for one workload and says what came of it.
//!
//! It does not decide whether to start anything, does not retry and does not
//! remember: a create is one request, and its error says what the next one may
//! do. A name is asked for by one dispatch only, because it carries the snapshot,
//! so a name that is taken is our own earlier request and counts as success.
//! No error text holds a secret or the body of an answer.

use crate::config::runner::RunnerEnvConfig;
use crate::config::workload::{self, WorkloadConfig};
use crate::domain::dispatch::ColdStartRequest;
use crate::domain::ids::{SnapshotId, VerificationId};
use crate::transport::TransportError;

mod answer;
mod correlation;
mod docker;
mod gateway;
mod hs256;
mod kubernetes;
pub mod runner_env;
mod token;
mod webhook;

use docker::Docker;
use gateway::Gateway;
use kubernetes::Kubernetes;
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
    /// The workload's name, [`ColdStartRequest::workload_name`] or that with [`next_name`]; the runner's id too.
    pub name: String,
    /// Which verification asks, if one does; stays on the workload for people who look.
    pub verification_id: Option<VerificationId>,
    /// The dispatched message, as far as a cold start reads it.
    pub request: ColdStartRequest,
    /// The same message as it came, byte for byte, for backends that pass the dispatch on.
    pub message: String,
    /// The supervisor's timings as they came, for backends that pass the dispatch on.
    pub timings: Option<String>,
    /// When the workload is asked for, in milliseconds since the epoch; runners report their start time by it.
    pub pod_scheduled_at_ms: i64,
    /// Correlates the backend's logs with the wide event.
    pub request_id: Option<String>,
    /// W3C trace context to go on with.
    pub traceparent: Option<String>,
}

/// A workload is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// This request made it.
    Created {
        /// Its name.
        workload: String,
    },
    /// It was there: an earlier request of the same dispatch made it.
    Existed {
        /// Its name.
        workload: String,
    },
}

/// No workload is known to be there, and what may be done next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// Asking again would fail in the same way.
    #[error("{reason}")]
    Permanent {
        /// Why.
        reason: String,
    },
    /// Nothing was made; asking again may help.
    #[error("{reason}")]
    Transient {
        /// Why.
        reason: String,
        /// The failed request may hold its name: ask with [`next_name`]. Otherwise keep the name, so that
        /// a workload that was made after all is met instead of doubled.
        name_may_be_taken: bool,
    },
    /// A workload may be on its way: probe before asking again, and then with the same name.
    #[error("{reason}")]
    Uncertain {
        /// Why.
        reason: String,
    },
}

/// A backend that cannot be used as it should be; says why without naming a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);

/// Why a backend could not be set up; checked configuration does not lead here.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The backend's address is none.
    #[error("could not use the backend's address: {0}")]
    Address(url::ParseError),
    /// The backend's token does not fit a header.
    #[error("could not use the backend's token: it holds something else than printable ASCII")]
    AuthToken,
    /// The HTTP client could not be built.
    #[error("could not build the backend's client: {problem}")]
    Client {
        /// What was refused.
        problem: String,
    },
    /// A webhook's key is none.
    #[error("could not use the webhook's key: it is not `whsec_` and base64")]
    Key,
}

impl From<TransportError> for BuildError {
    fn from(error: TransportError) -> Self {
        Self::Client { problem: error.to_string() }
    }
}

impl Workload {
    /// Sets the configured backend up; connects to nothing.
    ///
    /// # Errors
    /// [`BuildError`], where the configuration was not read by `config`.
    pub fn new(config: &WorkloadConfig) -> Result<Self, BuildError> {
        let backend = match &config.backend {
            workload::BackendConfig::Docker(docker) => Backend::Docker(Docker::new(docker)),
            workload::BackendConfig::Gateway(gateway) => Backend::Gateway(Gateway::new(gateway)?),
            workload::BackendConfig::Webhook(webhook) => Backend::Webhook(Webhook::new(webhook)?),
            workload::BackendConfig::Kubernetes(kubernetes) => {
                Backend::Kubernetes(Kubernetes::new(kubernetes))
            }
        };
        let deployment_id = DeploymentId::new(&config.token);
        Ok(Self { backend, deployment_id, runner: config.runner.clone() })
    }

    /// Gets ready what a create needs and may take minutes, such as an image. It makes no workload and may be
    /// repeated; look again before the create when it took long.
    ///
    /// # Errors
    /// [`CreateError`]; no create was requested.
    pub async fn prepare(&self, create: &CreateRequest) -> Result<(), CreateError> {
        let order = Order::check(create)?;
        match &self.backend {
            Backend::Docker(docker) => docker.prepare(&order).await,
            // A pod's image is pulled by its node.
            Backend::Gateway(_) | Backend::Kubernetes(_) | Backend::Webhook(_) => Ok(()),
        }
    }

    /// Removes what requests under this name left behind without ever starting it: the run needs it no more.
    ///
    /// # Errors
    /// Why it may still be there.
    pub async fn discard(&self, name: &str, snapshot_id: &SnapshotId) -> Result<(), BackendError> {
        match &self.backend {
            Backend::Docker(docker) => docker.discard(name, snapshot_id).await,
            // What they make they start.
            Backend::Gateway(_) | Backend::Kubernetes(_) | Backend::Webhook(_) => Ok(()),
        }
    }

    /// Removes what requests of any worker left behind without ever starting it, minutes ago; answers how many.
    ///
    /// For what [`Self::discard`] never hears of, such as the container of a worker that died after its last look.
    ///
    /// # Errors
    /// Why some may still be there.
    pub async fn reap(&self) -> Result<usize, BackendError> {
        match &self.backend {
            Backend::Docker(docker) => docker.reap().await,
            // What they make they start.
            Backend::Gateway(_) | Backend::Kubernetes(_) | Backend::Webhook(_) => Ok(0),
        }
    }

    /// Whether the backend answers and would take our requests, as far as it can be asked without a create.
    ///
    /// # Errors
    /// What is wrong, for people.
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

    /// Asks for one workload, once.
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

/// The name for the `request_number`th request of one dispatch: the base first, then with `-r2`, `-r3`, …
///
/// Only after [`CreateError::Transient`] with `name_may_be_taken`; upstream counts the same way (contract §5.6).
#[must_use]
pub fn next_name(base: &str, request_number: u32) -> String {
    match request_number {
        0 | 1 => base.to_owned(),
        number => format!("{base}-r{number}"),
    }
}

/// A request with what no workload can do without.
struct Order<'a> {
    image: &'a str,
    deployment: &'a str,
}

impl<'a> Order<'a> {
    /// Upstream's preconditions, in its order and words (contract §5.1).
    fn check(create: &'a CreateRequest) -> Result<Self, CreateError> {
        let permanent = |reason: &str| CreateError::Permanent { reason: reason.to_owned() };
        let request = &create.request;
        // `null` is none, as it is for the supervisor.
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

//! The Docker engine: one container per dispatch (platform.md §5.4).
//!
//! A container has the name of its dispatch, and the engine allows each name once,
//! so one of several creates wins. After a failed create the backend looks up the
//! name before it decides: it accepts a living container of this dispatch, starts
//! one that was never started, and replaces one that has ended. Images are pulled
//! beforehand, never by a create.

use std::sync::Arc;
use std::time::Duration;

use bollard::query_parameters::RemoveContainerOptionsBuilder;
use secrecy::ExposeSecret;
use tokio::time::Instant;

use crate::config::docker::DockerConfig;
use crate::config::runner::RunnerEnvConfig;
use crate::domain::ids::SnapshotId;

use super::runner_env::{Runner, RunnerHost, runner_env};
use super::{BackendError, BuildError, CreateError, Created, Order};

mod container;
mod credentials;
#[cfg(feature = "ecr")]
mod ecr;
mod engine;
mod image;
mod make;
mod registry;
mod wording;

use container::Holder;
use engine::{DockerEngine, EngineError};
use image::Images;
use make::Making;

/// The name by which a container reaches programs that listen on its host's `localhost`.
const HOST: &str = if cfg!(any(target_os = "macos", windows)) { "host.docker.internal" } else { "localhost" };

/// A container that was never started and is older than this has been abandoned.
const ABANDONED_AFTER: Duration = Duration::from_mins(5);

/// A configured engine. Clones share its connection and its pulls.
#[derive(Debug, Clone)]
pub(super) struct Docker {
    engine: DockerEngine,
    images: Images,
    config: Arc<DockerConfig>,
}

impl Docker {
    /// Connects to nothing.
    pub(super) fn new(config: &DockerConfig) -> Result<Self, BuildError> {
        let engine = DockerEngine::new(config);
        let images = Images::new(&engine, config)?;
        Ok(Self { images, engine, config: Arc::new(config.clone()) })
    }

    /// Pulls the image unless it is there.
    pub(super) async fn prepare(&self, order: &Order<'_>) -> Result<(), CreateError> {
        let image = image::reference(order.image, self.config.strip_image_digest)?;
        self.images.ensure(image).await
    }

    pub(super) async fn create(
        &self,
        order: &Order<'_>,
        runner: &Runner<'_>,
        config: &RunnerEnvConfig,
    ) -> Result<Created, CreateError> {
        let image = image::reference(order.image, self.config.strip_image_digest)?;
        let env = runner_env(config, RunnerHost::Docker { host: HOST }, runner);
        let secrets: Vec<&str> = config
            .additional
            .iter()
            .map(|(_, value)| value)
            .chain([runner.deployment_id].into_iter().filter(|id| id.expose_secret() != runner.deployment))
            .map(ExposeSecret::expose_secret)
            .collect();
        let making = Making {
            engine: &self.engine,
            name: container::name(&runner.create.name)?,
            snapshot_id: &runner.create.request.snapshot.friendly_id,
            platform: self.config.platform.as_deref(),
            body: container::body(&self.config, runner.create, image, env),
            networks: &self.config.networks[1..],
            secrets: &secrets,
            began: Instant::now(),
        };
        making.make().await
    }

    /// Removes the dispatch's container if it was never started; a started one belongs to its runner.
    pub(super) async fn discard(&self, name: &str, snapshot_id: &SnapshotId) -> Result<(), BackendError> {
        let failed = |error: EngineError| BackendError(format!("could not discard `{name}`: {error}"));
        let name = container::name(name).map_err(|error| BackendError(error.to_string()))?;
        match self.engine.holder_of(name, snapshot_id).await.map_err(failed)? {
            Holder::NeverStarted { id } => {
                remove_unless_running(&self.engine, &id).await.map(drop).map_err(failed)
            }
            Holder::Free | Holder::Foreign | Holder::Alive | Holder::Ended { .. } | Holder::Leaving => Ok(()),
        }
    }

    /// Removes all our containers that were made a while ago and never started; returns how many.
    pub(super) async fn reap(&self) -> Result<usize, BackendError> {
        let failed = |error: EngineError| BackendError(format!("could not reap containers: {error}"));
        let mut reaped = 0;
        for id in self.engine.abandoned(ABANDONED_AFTER).await.map_err(failed)? {
            if remove_unless_running(&self.engine, &id).await.map_err(failed)? {
                reaped += 1;
            }
        }
        Ok(reaped)
    }

    /// Whether the engine answers.
    pub(super) async fn check(&self) -> Result<(), BackendError> {
        let pinged = self.engine.call(|docker| async move { docker.ping().await }).await;
        pinged.map(drop).map_err(|error| BackendError(error.to_string()))
    }
}

/// Removes a container unless it runs; returns whether this call removed it.
///
/// Without `force` the engine refuses to remove a running container, so an earlier start is safe.
async fn remove_unless_running(engine: &DockerEngine, id: &str) -> Result<bool, EngineError> {
    let options = RemoveContainerOptionsBuilder::default().v(true).build();
    match engine.call(|docker| async move { docker.remove_container(id, Some(options)).await }).await {
        Ok(()) => Ok(true),
        // It is gone, is being removed, or runs by now.
        Err(EngineError::Refused { status: 404 | 409, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;

//! One engine: connects at the first call and limits the wait for each answer.

use std::sync::Arc;
use std::time::Duration;

use bollard::API_DEFAULT_VERSION;
use bollard::ClientVersion;
use bollard::errors::Error;
use bollard::models::EndpointSettings;
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder};
use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::OnceCell;

use crate::config::docker::{ApiVersion, DockerConfig, DockerHost};
use crate::domain::ids::SnapshotId;

use super::container::{self, Holder, SNAPSHOT_LABEL};

/// The engine's address and, after the first contact, its client.
#[derive(Debug, Clone)]
pub(super) struct DockerEngine {
    host: DockerHost,
    api_version: Option<ApiVersion>,
    timeout: Duration,
    pull_timeout: Duration,
    client: Arc<OnceCell<bollard::Docker>>,
}

/// Why there is no usable answer. It holds the engine's own words: hide secrets before you report it.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum EngineError {
    /// No request was sent.
    #[error("the engine cannot be reached: {reason}")]
    Unreached { reason: String },
    /// The engine refused.
    #[error("the engine answered {status}: {message}")]
    Refused { status: u16, message: String },
    /// The request was sent, and the engine may have received it.
    #[error("{reason}")]
    Unanswered { reason: String },
}

impl DockerEngine {
    pub(super) fn new(config: &DockerConfig) -> Self {
        Self {
            host: config.host.clone(),
            api_version: config.api_version,
            timeout: config.timeout,
            pull_timeout: config.pull_timeout,
            client: Arc::default(),
        }
    }

    /// One request; its whole answer must arrive in time.
    pub(super) async fn call<T, F>(&self, ask: impl FnOnce(bollard::Docker) -> F) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let client = self.client().await?.clone();
        // The library's futures are large; without the box, each caller's future would be, too.
        bounded(self.timeout, Box::pin(ask(client))).await
    }

    /// The client, after the version of the API was negotiated.
    pub(super) async fn client(&self) -> Result<&bollard::Docker, EngineError> {
        self.client.get_or_try_init(|| bounded(self.timeout, Box::pin(self.connect()))).await
    }

    async fn connect(&self) -> Result<bollard::Docker, Error> {
        // Each call has a limit of its own below this one.
        let seconds = self.pull_timeout.max(self.timeout).as_secs() + 1;
        let docker = match &self.host {
            DockerHost::Unix(path) => bollard::Docker::connect_with_unix(path, seconds, API_DEFAULT_VERSION)?,
            DockerHost::Tcp(address) => {
                bollard::Docker::connect_with_http(address, seconds, API_DEFAULT_VERSION)?
            }
        };
        let version = match self.api_version {
            Some(ApiVersion { major, minor }) => ClientVersion { major_version: major, minor_version: minor },
            None => docker.clone().negotiate_version().await?.client_version(),
        };
        Ok(with_version(docker, version))
    }

    /// The holder of a container's name.
    pub(super) async fn holder_of(&self, name: &str, snapshot: &SnapshotId) -> Result<Holder, EngineError> {
        let inspect = |docker: bollard::Docker| async move {
            docker.inspect_container(name, None::<InspectContainerOptions>).await
        };
        match self.call(inspect).await {
            Ok(inspected) => Ok(container::holder(inspected, snapshot)),
            Err(EngineError::Refused { status: 404, .. }) => Ok(Holder::Free),
            Err(error) => Err(error),
        }
    }

    /// Whether a container is in a network, named or by its id.
    pub(super) async fn is_connected(&self, container: &str, network: &str) -> Result<bool, EngineError> {
        let inspect = |docker: bollard::Docker| async move {
            docker.inspect_container(container, None::<InspectContainerOptions>).await
        };
        let networks = self.call(inspect).await?.network_settings.and_then(|settings| settings.networks);
        let is_it = |(name, endpoint): (String, EndpointSettings)| {
            name == network || endpoint.network_id.as_deref() == Some(network)
        };
        Ok(networks.unwrap_or_default().into_iter().any(is_it))
    }

    /// The engine's time: its containers' times come from its clock.
    pub(super) async fn now(&self) -> Result<DateTime<Utc>, EngineError> {
        let info = self.call(|docker| async move { docker.info().await }).await?;
        let now = info.system_time.as_deref().and_then(container::instant);
        now.ok_or_else(|| EngineError::Unanswered { reason: "the engine reports no time".to_owned() })
    }

    /// Our containers that were made before this instant and never started.
    pub(super) async fn abandoned(&self, age: Duration) -> Result<Vec<String>, EngineError> {
        let filters = [("label", vec![SNAPSHOT_LABEL]), ("status", vec!["created"])].into_iter().collect();
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let found = self.call(|docker| async move { docker.list_containers(Some(options)).await }).await?;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let before = self.now().await? - TimeDelta::from_std(age).unwrap_or(TimeDelta::MAX);
        let old = found.into_iter().filter(|found| found.created.is_some_and(|at| at < before.timestamp()));
        Ok(old.filter_map(|found| found.id).collect())
    }
}

/// Puts the version into each path, where the library leaves it out.
fn with_version(docker: bollard::Docker, version: ClientVersion) -> bollard::Docker {
    let prefix = format!("/v{version}");
    docker.with_request_modifier(move |mut request| {
        let uri = request.uri();
        if let (Some(scheme), Some(host), Some(path)) =
            (uri.scheme_str(), uri.authority(), uri.path_and_query())
            && !path.as_str().starts_with(&prefix)
            && let Ok(versioned) = format!("{scheme}://{host}{prefix}{path}").parse()
        {
            *request.uri_mut() = versioned;
        }
        request
    })
}

/// Waits for an answer, with a limit.
pub(super) async fn bounded<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, EngineError> {
    if let Ok(answer) = tokio::time::timeout(limit, answer).await {
        return answer.map_err(EngineError::from);
    }
    let reason = format!("the engine did not answer within {} ms", limit.as_millis());
    Err(EngineError::Unanswered { reason })
}

impl From<Error> for EngineError {
    fn from(error: Error) -> Self {
        if let Error::DockerResponseServerError { status_code, message } = error {
            return Self::Refused { status: status_code, message };
        }
        let unreached = matches!(&error, Error::SocketNotFoundError(_))
            || matches!(&error, Error::HyperLegacyError { err } if err.is_connect());
        let reason = chain(&error);
        if unreached { Self::Unreached { reason } } else { Self::Unanswered { reason } }
    }
}

/// An error and its causes, without repeating a cause that the error already contains.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    text
}

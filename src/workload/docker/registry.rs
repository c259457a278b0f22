//! The credentials for pulling images.

use crate::config::docker::{DockerConfig, RegistryConfig};

use super::credentials::Credentials;
use super::ecr::Ecr;

/// Where credentials come from. Every pull sends them, to any registry, as in the platform's supervisor.
#[derive(Debug, Clone)]
pub(super) enum Registry {
    Anonymous,
    Static(Credentials),
    Ecr(Ecr),
}

impl Registry {
    pub(super) fn new(config: &DockerConfig) -> Self {
        match &config.registry {
            RegistryConfig::Anonymous => Self::Anonymous,
            RegistryConfig::Static { username, password, url } => Self::Static(Credentials {
                username: username.clone(),
                password: password.clone(),
                server: Some(url.clone()),
            }),
            RegistryConfig::Ecr => Self::Ecr(Ecr::from_environment(config.timeout)),
        }
    }

    /// The current credentials, or why there are none.
    pub(super) async fn credentials(&self) -> Result<Option<Credentials>, String> {
        match self {
            Self::Anonymous => Ok(None),
            Self::Static(credentials) => Ok(Some(credentials.clone())),
            Self::Ecr(ecr) => ecr.credentials().await.map(Some),
        }
    }

    /// A registry refused them: the next call fetches new ones.
    pub(super) async fn refused(&self) {
        match self {
            Self::Anonymous | Self::Static(_) => {}
            Self::Ecr(ecr) => ecr.forget().await,
        }
    }
}

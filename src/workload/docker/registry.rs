//! The credentials for pulling images.

#![cfg_attr(not(feature = "ecr"), expect(clippy::unused_async, reason = "only ECR has to be asked"))]

use crate::config::docker::{DockerConfig, RegistryConfig};

use super::credentials::Credentials;
#[cfg(feature = "ecr")]
use super::ecr::Ecr;
use crate::workload::BuildError;

/// Where credentials come from. Every pull sends them, to any registry, as in the platform's supervisor.
#[derive(Debug, Clone)]
pub(super) enum Registry {
    Anonymous,
    Static(Credentials),
    #[cfg(feature = "ecr")]
    Ecr(Ecr),
}

impl Registry {
    #[cfg_attr(feature = "ecr", expect(clippy::unnecessary_wraps, reason = "fails in a build without `ecr`"))]
    pub(super) fn new(config: &DockerConfig) -> Result<Self, BuildError> {
        Ok(match &config.registry {
            RegistryConfig::Anonymous => Self::Anonymous,
            RegistryConfig::Static { username, password, url } => Self::Static(Credentials {
                username: username.clone(),
                password: password.clone(),
                server: Some(url.clone()),
            }),
            #[cfg(feature = "ecr")]
            RegistryConfig::Ecr => Self::Ecr(Ecr::from_environment(config.timeout)),
            #[cfg(not(feature = "ecr"))]
            RegistryConfig::Ecr => return Err(BuildError::NotBuilt { feature: "ecr" }),
        })
    }

    /// The current credentials, or why there are none.
    pub(super) async fn credentials(&self) -> Result<Option<Credentials>, String> {
        match self {
            Self::Anonymous => Ok(None),
            Self::Static(credentials) => Ok(Some(credentials.clone())),
            #[cfg(feature = "ecr")]
            Self::Ecr(ecr) => ecr.credentials().await.map(Some),
        }
    }

    /// A registry refused them: the next call fetches new ones.
    pub(super) async fn refused(&self) {
        match self {
            Self::Anonymous | Self::Static(_) => {}
            #[cfg(feature = "ecr")]
            Self::Ecr(ecr) => ecr.forget().await,
        }
    }
}

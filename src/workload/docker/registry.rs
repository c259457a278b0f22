//! As whom images are pulled.

use bollard::auth::DockerCredentials;
use secrecy::{ExposeSecret, SecretString};

use crate::config::docker::{DockerConfig, RegistryConfig};

use super::ecr::Ecr;

/// Where credentials come from. They go with every pull, whatever registry it is from, as upstream's do.
#[derive(Debug, Clone)]
pub(super) enum Registry {
    Anonymous,
    Static(Credentials),
    Ecr(Ecr),
}

/// What a registry wants to know.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    pub(super) username: String,
    pub(super) password: SecretString,
    /// The registry's address, if it is known.
    pub(super) server: Option<String>,
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

    /// The credentials of now, or why there are none.
    pub(super) async fn credentials(&self) -> Result<Option<Credentials>, String> {
        match self {
            Self::Anonymous => Ok(None),
            Self::Static(credentials) => Ok(Some(credentials.clone())),
            Self::Ecr(ecr) => ecr.credentials().await.map(Some),
        }
    }

    /// A registry would not take them: the next ones are asked for anew.
    pub(super) async fn refused(&self) {
        match self {
            Self::Anonymous | Self::Static(_) => {}
            Self::Ecr(ecr) => ecr.forget().await,
        }
    }
}

impl Credentials {
    /// What must not appear in an error text.
    pub(super) fn secret(&self) -> &str {
        self.password.expose_secret()
    }

    pub(super) fn for_engine(&self) -> DockerCredentials {
        DockerCredentials {
            username: Some(self.username.clone()),
            password: Some(self.password.expose_secret().to_owned()),
            serveraddress: self.server.clone(),
            ..DockerCredentials::default()
        }
    }
}

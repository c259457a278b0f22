//! Credentials of one registry.

use bollard::auth::DockerCredentials;
use secrecy::{ExposeSecret, SecretString};

/// What a registry requires.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    pub(super) username: String,
    pub(super) password: SecretString,
    /// The registry's address, if it is known.
    pub(super) server: Option<String>,
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

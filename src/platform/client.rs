//! One platform, one worker group's credentials, and the requests made with them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use uuid::Uuid;

use super::wire;
use crate::config::platform::PlatformConfig;
use crate::transport::{self, TransportError};

/// Talks to one platform. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Arc<str>,
    pub(super) probe_timeout: Duration,
}

/// Why a client could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A credential holds bytes that no HTTP header can carry.
    #[error("`{variable}` holds characters that an HTTP header cannot carry")]
    Header {
        /// The variable it is configured with.
        variable: &'static str,
    },
    /// The base URL is neither `http` nor `https`.
    #[error("`TRIGGER_API_URL` must start with `http://` or `https://`")]
    Scheme,
    /// TLS or the HTTP client could not be set up.
    #[error("{problem}")]
    Transport {
        /// What was refused.
        problem: String,
    },
}

impl From<TransportError> for ClientError {
    fn from(error: TransportError) -> Self {
        Self::Transport { problem: error.to_string() }
    }
}

impl Client {
    /// Builds a client; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError`] names the variable that is at fault.
    pub fn new(config: &PlatformConfig) -> Result<Self, ClientError> {
        let scheme = config.api_url.scheme();
        if !matches!(scheme, "http" | "https") {
            return Err(ClientError::Scheme);
        }
        let http = transport::http_client(scheme, credentials(config)?)?;
        let url = config.api_url.as_str();
        let base = format!("{}{}", url.strip_suffix('/').unwrap_or(url), wire::BASE_PATH);
        Ok(Self { http, base: base.into(), probe_timeout: config.probe_timeout })
    }

    /// A plain HTTP client with the same rules and no credentials, for what is not the worker API.
    ///
    /// # Errors
    /// [`ClientError::Transport`].
    pub fn without_credentials() -> Result<reqwest::Client, ClientError> {
        Ok(transport::http_client("http", HeaderMap::new())?)
    }

    /// A request below the base path, with the fresh key that each call carries.
    pub(super) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.base))
            .header(wire::IDEMPOTENCY_KEY_HEADER, Uuid::new_v4().to_string())
    }
}

/// Names nothing but the type: base URLs may hold credentials, headers do.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("probe_timeout", &self.probe_timeout).finish_non_exhaustive()
    }
}

/// The headers of every call (platform.md §1.1); empty values are left out.
fn credentials(config: &PlatformConfig) -> Result<HeaderMap, ClientError> {
    let mut headers = HeaderMap::new();
    let token = config.worker_token.expose_secret();
    let secret = config.managed_secret.expose_secret();
    let mut add = |name: HeaderName, value: &str, variable, sensitive| {
        let mut value = HeaderValue::from_str(value).map_err(|_| ClientError::Header { variable })?;
        value.set_sensitive(sensitive);
        headers.insert(name, value);
        Ok::<(), ClientError>(())
    };
    if !token.is_empty() {
        add(AUTHORIZATION, &format!("Bearer {token}"), "TRIGGER_WORKER_TOKEN", true)?;
    }
    if !config.instance_name.is_empty() {
        let name = HeaderName::from_static(wire::INSTANCE_NAME_HEADER);
        add(name, &config.instance_name, "TRIGGER_WORKER_INSTANCE_NAME", false)?;
    }
    if !secret.is_empty() {
        let name = HeaderName::from_static(wire::MANAGED_SECRET_HEADER);
        add(name, secret, "MANAGED_WORKER_SECRET", true)?;
    }
    Ok(headers)
}

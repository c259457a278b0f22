//! Tokens of Amazon's container registry, fetched when needed and kept for hours (platform.md §5.4).
//!
//! The AWS libraries find region, endpoint and credentials in their own variables,
//! files and services.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, ConfigLoader};
use aws_sdk_ecr::error::ProvideErrorMetadata;
use aws_sdk_ecr::types::AuthorizationData;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;

use super::credentials::Credentials;
use super::engine::chain;

/// A token is not used in its last minutes, so that a pull does not outlive it.
const PARTING: Duration = Duration::from_mins(10);
/// How long a token lasts that names no end.
const LIFETIME_DEFAULT: Duration = Duration::from_hours(12);

/// The registry's token service. Clones share the token.
#[derive(Clone)]
pub(super) struct Ecr {
    settings: Settings,
    client: Arc<OnceCell<aws_sdk_ecr::Client>>,
    token: Arc<Mutex<Option<Token>>>,
    timeout: Duration,
}

/// Where the AWS libraries begin their search.
type Settings = Arc<dyn Fn() -> ConfigLoader + Send + Sync>;

struct Token {
    credentials: Credentials,
    until: Instant,
}

impl fmt::Debug for Ecr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ecr").finish_non_exhaustive()
    }
}

impl Ecr {
    /// Reads nothing yet.
    pub(super) fn from_environment(timeout: Duration) -> Self {
        Self::new(Arc::new(|| aws_config::defaults(BehaviorVersion::latest())), timeout)
    }

    fn new(settings: Settings, timeout: Duration) -> Self {
        Self { settings, client: Arc::default(), token: Arc::default(), timeout }
    }

    /// A token's user and password. Concurrent callers share one request.
    pub(super) async fn credentials(&self) -> Result<Credentials, String> {
        let mut token = self.token.lock().await;
        if let Some(token) = token.as_ref().filter(|token| Instant::now() < token.until) {
            return Ok(token.credentials.clone());
        }
        let fetched = tokio::time::timeout(self.timeout, self.fetch()).await;
        let fetched =
            fetched.unwrap_or_else(|_| Err(format!("no answer within {} ms", self.timeout.as_millis())));
        let fresh = fetched.map_err(|reason| format!("could not get a token for ECR: {reason}"))?;
        Ok(token.insert(fresh).credentials.clone())
    }

    /// Makes the next caller fetch a new token.
    pub(super) async fn forget(&self) {
        *self.token.lock().await = None;
    }

    async fn fetch(&self) -> Result<Token, String> {
        let client = self.client.get_or_init(|| client(&self.settings)).await;
        let answer = client.get_authorization_token().send().await.map_err(|error| {
            let code = error.code().map(str::to_owned);
            code.unwrap_or_else(|| chain(&error))
        })?;
        let data = answer.authorization_data.and_then(|data| data.into_iter().next());
        let data = data.ok_or("the answer holds no token")?;
        let until = Instant::now() + kept_for(&data, now());
        Ok(Token { credentials: read(&data)?, until })
    }
}

async fn client(settings: &Settings) -> aws_sdk_ecr::Client {
    // The same cryptography as in the rest of this program.
    let http =
        aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    aws_sdk_ecr::Client::new(&settings().http_client(http).load().await)
}

/// A token is `user:password` in base64.
fn read(data: &AuthorizationData) -> Result<Credentials, String> {
    let text = data.authorization_token().ok_or("the answer holds no token")?;
    let plain = STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let (username, password) =
        plain.as_deref().and_then(|plain| plain.split_once(':')).ok_or("the token cannot be read")?;
    Ok(Credentials {
        username: username.to_owned(),
        password: SecretString::from(password),
        server: data.proxy_endpoint().map(str::to_owned),
    })
}

fn kept_for(data: &AuthorizationData, now: SystemTime) -> Duration {
    let expires_at = data.expires_at().and_then(|at| SystemTime::try_from(*at).ok());
    let lifetime = expires_at.map_or(LIFETIME_DEFAULT, |at| at.duration_since(now).unwrap_or_default());
    lifetime.saturating_sub(PARTING)
}

#[expect(clippy::disallowed_methods, reason = "a token's end is an instant of the wall clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests;

//! HTTP transport: how clients are built, bounded bodies, plain error texts.
//!
//! Every HTTP client of Warmproof is built here, so that all use the same TLS settings.
//! No error from this file holds a URL or a header, so that no log line and no stored
//! error can hold a credential.

pub(crate) mod server;

use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderMap;
use rustls::crypto::ring;
use rustls_platform_verifier::BuilderVerifierExt;

/// Idle connections are closed before a load balancer or NAT forgets them silently;
/// a forgotten one costs a probe its whole timeout.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const USER_AGENT: &str = concat!("warmproof/", env!("CARGO_PKG_VERSION"));
/// Most causes of an error that its text shows. Deeper causes do not help a reader.
const CAUSES_MAX: usize = 4;

/// Why no HTTP client could be built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    #[error("could not set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("could not build the HTTP client: {0}")]
    Build(String),
}

/// Why a body could not be read.
pub(crate) enum BodyError {
    TooLarge,
    Transport(String),
}

/// A client with our rules and these headers on every request.
pub(crate) fn http_client(scheme: &str, headers: HeaderMap) -> Result<reqwest::Client, TransportError> {
    build(builder(scheme)?.default_headers(headers))
}

/// The start of every client: no redirect, no retry, no proxy, connections kept alive.
///
/// A proxy in the environment is not used: only `config` reads the environment, and a proxy that only some
/// clients used would make only those fail. Start-up logs a warning if a proxy is set.
///
/// A redirect would send credentials to an address that no operator configured. The caller decides
/// about retries, because only the caller knows what the first request may have done.
///
/// The crypto provider is passed with the TLS settings instead of installed
/// for the process: a library must not decide that for the program it is part of.
/// Roots are the operating system's; plain HTTP loads none, so that it works on
/// machines that have none.
pub(crate) fn builder(scheme: &str) -> Result<reqwest::ClientBuilder, TransportError> {
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls(scheme)?)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .user_agent(USER_AGENT)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT))
}

/// A blocking client for threads of other libraries, with the same rules. Do not build it on a runtime's
/// thread.
#[cfg(feature = "otlp")]
pub(crate) fn blocking_client(
    scheme: &str,
    timeout: Duration,
) -> Result<reqwest::blocking::Client, TransportError> {
    reqwest::blocking::Client::builder()
        .tls_backend_preconfigured(tls(scheme)?)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .user_agent(USER_AGENT)
        .timeout(timeout)
        .build()
        .map_err(|error| TransportError::Build(describe(error)))
}

fn tls(scheme: &str) -> Result<rustls::ClientConfig, rustls::Error> {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    let mut tls = if scheme == "https" {
        builder.with_platform_verifier()?.with_no_client_auth()
    } else {
        builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

/// Builds the client from a [`builder`].
pub(crate) fn build(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, TransportError> {
    builder.build().map_err(|error| TransportError::Build(describe(error)))
}

/// Reads a body chunk by chunk and stops at the limit, even if the headers declare a shorter body.
pub(crate) async fn read_body(
    mut response: reqwest::Response,
    limit_bytes: usize,
) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| BodyError::Transport(describe(error)))? {
        if body.len() + chunk.len() > limit_bytes {
            return Err(BodyError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The error and its causes on one line, without the URL: it may hold credentials.
pub(crate) fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    for _ in 0..CAUSES_MAX {
        let Some(inner) = cause else { break };
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {inner_text}");
        }
        cause = inner.source();
    }
    text
}

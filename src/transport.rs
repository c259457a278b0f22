//! How bytes travel: the HTTP client's construction, bounded bodies, plain error texts.
//!
//! Whoever talks HTTP to the outside begins here, so that all have the same TLS.
//! Nothing that leaves this file carries a URL or a header, so that no log line
//! and no stored error can carry a credential.

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
/// Most causes of an error that are told; the chain below adds nothing a reader needs.
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
/// A proxy that the environment names is not used: only `config` reads the environment, and a proxy that only some
/// clients went through would fail them alone. Start-up says so where one is named.
///
/// A redirect would carry credentials to an address nobody configured, and whether
/// to ask again is for somebody to decide who knows what the first request may have done.
///
/// The crypto provider is handed over with the TLS settings instead of installed
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

/// A client for threads of somebody else's, with the same rules. Not to be built on a runtime's thread.
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

/// Ends what [`builder`] began.
pub(crate) fn build(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, TransportError> {
    builder.build().map_err(|error| TransportError::Build(describe(error)))
}

/// Reads a body chunk by chunk and stops at the limit, whatever the headers promised.
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

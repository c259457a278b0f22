//! One request to the API server and its answer, with a limit on every wait.
//!
//! This module reads bodies itself. The client would log each body that it cannot
//! parse, and a pod's answer holds the runner's secrets.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body as ReplyBody, to_bytes};
use axum::http;
use bytes::Bytes;
use hyper_util::client::legacy;
use k8s_openapi::jiff::Timestamp;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use reqwest::StatusCode;
use tokio::sync::Mutex;

use crate::config::kubernetes::Access;

/// Longest wait for a connection. Nothing was sent before it opens, so it is safe to give up early.
const TIMEOUT_CONNECT: Duration = Duration::from_secs(10);

/// Longest a write may take, answer included; the API server's own webhooks may take 30 s.
const TIMEOUT_WRITE: Duration = Duration::from_secs(30);

/// Longest a read may take.
const TIMEOUT_READ: Duration = Duration::from_secs(10);

/// Most bytes read of an answer; etcd keeps no object larger than 1.5 MiB.
const BODY_BYTES_MAX: usize = 4 << 20;

/// The configured API server. The client is made at its first use, and again after its credentials expired.
#[derive(Clone)]
pub(super) struct Connection {
    access: Access,
    client: Arc<Mutex<Option<Client>>>,
    timeouts: Timeouts,
}

/// The longest each kind of request may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) read: Duration,
    pub(super) write: Duration,
}

/// What a request does; decides how long to wait for it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// It changes nothing.
    Read,
    /// It may change something, even if no answer arrives.
    Write,
}

/// The part of an answer that arrived.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    /// `None` if the body broke off or was too long.
    pub(super) body: Option<Bytes>,
}

/// No answer.
pub(super) enum Failure {
    /// Nothing was sent.
    NotSent {
        /// Why.
        reason: String,
    },
    /// The API server may have received the request.
    Unanswered {
        /// Why.
        reason: String,
    },
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("access", &self.access).finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(access: Access) -> Self {
        let timeouts = Timeouts { read: TIMEOUT_READ, write: TIMEOUT_WRITE };
        Self { access, client: Arc::default(), timeouts }
    }

    /// A connection over a test's own client.
    #[cfg(test)]
    pub(super) fn of(client: Client, timeouts: Timeouts) -> Self {
        let client = Arc::new(Mutex::new(Some(client)));
        Self { access: Access::InCluster, client, timeouts }
    }

    /// Sends one request, once.
    pub(super) async fn ask(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
        purpose: Purpose,
    ) -> Result<Reply, Failure> {
        let timeout = match purpose {
            Purpose::Read => self.timeouts.read,
            Purpose::Write => self.timeouts.write,
        };
        let not_sent = |reason: String| Failure::NotSent { reason };
        let request = request.map_err(|error| not_sent(format!("could not form the request: {error}")))?;
        let client = self.client().await.map_err(not_sent)?;
        let answer = async {
            let response = client.send(request.map(Body::from)).await.map_err(|error| failure(&error))?;
            let (parts, body) = response.into_parts();
            let body = to_bytes(ReplyBody::new(body), BODY_BYTES_MAX).await.ok();
            Ok(Reply { status: parts.status, body })
        };
        let reply = tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| {
            let reason = format!("the Kubernetes API did not answer within {} ms", timeout.as_millis());
            Err(Failure::Unanswered { reason })
        })?;
        if reply.status == StatusCode::UNAUTHORIZED {
            // The file may hold other credentials by now; the next request reads it again.
            *self.client.lock().await = None;
        }
        Ok(reply)
    }

    async fn client(&self) -> Result<Client, String> {
        let mut kept = self.client.lock().await;
        let ended = |until: &Timestamp| *until <= Timestamp::now();
        if let Some(client) = kept.as_ref().filter(|client| !client.valid_until().as_ref().is_some_and(ended))
        {
            return Ok(client.clone());
        }
        let client = connect(&self.access).await?;
        Ok(kept.insert(client).clone())
    }
}

/// Makes a client from the kubeconfig or the service account; sends nothing.
async fn connect(access: &Access) -> Result<Client, String> {
    let failed = |error: &dyn std::error::Error| format!("could not set up the Kubernetes client: {error}");
    // The client takes its cryptography from the process; keep the choice of an embedding program.
    let _theirs_if_taken = rustls::crypto::ring::default_provider().install_default();
    let options = KubeConfigOptions::default();
    let mut config = match access {
        Access::File(path) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(|error| of_kubeconfig(&error))?;
            Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .map_err(|error| of_kubeconfig(&error))?
        }
        Access::InCluster => Config::incluster().map_err(|error| failed(&error))?,
        Access::Kubeconfig => {
            Config::from_kubeconfig(&options).await.map_err(|error| of_kubeconfig(&error))?
        }
    };
    // The client must not repeat a create by itself: the caller decides whether to ask again.
    config.default_retry = false;
    // The environment's proxy is for the internet, not for the cluster; the platform's supervisor uses none.
    config.proxy_url = None;
    config.connect_timeout = Some(TIMEOUT_CONNECT);
    // Our own timeouts end each request. These close a dead connection, which later requests would
    // otherwise get.
    config.read_timeout = Some(TIMEOUT_WRITE);
    config.write_timeout = Some(TIMEOUT_WRITE);
    config.reset_reader_on_write = true;
    // A kubeconfig may name a program that supplies credentials, and the client waits for it.
    let client = tokio::task::spawn_blocking(move || Client::try_from(config)).await;
    client.map_err(|error| failed(&error))?.map_err(|error| {
        // The program's output may hold the credentials.
        if matches!(error, kube::Error::Auth(_)) { CREDENTIALS.to_owned() } else { failed(&error) }
    })
}

/// The fault of a kubeconfig. The parser's own text repeats the lines around it, which may hold credentials.
fn of_kubeconfig(error: &KubeconfigError) -> String {
    let what = "could not set up the Kubernetes client";
    if let KubeconfigError::Parse(_) = error {
        return format!(
            "{what}: the kubeconfig is not valid YAML of its kind; check it with `kubectl config view`"
        );
    }
    format!("{what}: {error}")
}

const CREDENTIALS: &str = "could not get credentials for the Kubernetes API: check the kubeconfig's user or the service account's token";

fn failure(error: &kube::Error) -> Failure {
    if let kube::Error::Auth(_) = error {
        return Failure::NotSent { reason: CREDENTIALS.to_owned() };
    }
    let reason = format!("could not reach the Kubernetes API: {}", chain(error));
    let kube::Error::Service(inner) = error else { return Failure::Unanswered { reason } };
    match inner.downcast_ref::<legacy::Error>() {
        Some(error) if error.is_connect() => Failure::NotSent { reason },
        Some(_) | None => Failure::Unanswered { reason },
    }
}

/// The causes of an error; its own text names only the place in the client.
fn chain(error: &kube::Error) -> String {
    let mut text = String::new();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    if text.is_empty() { error.to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_fault_of_a_kubeconfig_repeats_none_of_its_lines() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("kubeconfig");
        for broken in ["users: [{name: a, user: {token: sesame", "token: sesame\n  b: [", "users: sesame\n"] {
            std::fs::write(&path, broken).expect("a file");
            let Err(error) = connect(&Access::File(path.clone())).await else { panic!("{broken} is valid") };
            assert!(error.contains("the kubeconfig") && !error.contains("sesame"), "{error}");
        }
    }
}

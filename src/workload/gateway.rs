//! The compute gateway: one `POST /api/instances` per create (contract §5.6).
//!
//! The gateway cannot be asked whether a name exists, so whatever may have
//! happened unseen is reported as uncertain and left to a probe.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use url::Url;

use crate::config::runner::RunnerEnvConfig;
use crate::config::workload::GatewayConfig;
use crate::domain::ids::VerificationId;

use super::answer::{self, Answer};
use super::runner_env::{Engine, Runner, runner_env};
use super::{BuildError, CreateError, CreateRequest, Created, Order};

/// Longest wait for a connection. Until it stands nothing was sent, so this error is harmless and may come early.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest answer read, in bytes; an instance is a few hundred.
const BODY_BYTES_MAX: usize = 64 << 10;

/// A gateway, ready to be asked.
#[derive(Debug, Clone)]
pub(super) struct Gateway {
    client: reqwest::Client,
    instances: Url,
    authorization: Option<HeaderValue>,
    auth_token: Option<SecretString>,
    timeout: Duration,
    snapshots: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    name: &'a str,
    image: &'a str,
    env: BTreeMap<&'a str, &'a str>,
    cpu: serde_json::Value,
    memory_gb: serde_json::Value,
    metadata: Metadata<'a>,
    labels: Labels<'a>,
}

/// Upstream's seven, and two of ours so that a machine can be found by what asked for it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    run_id: &'a str,
    env_id: &'a str,
    env_type: &'a str,
    org_id: &'a str,
    project_id: &'a str,
    deployment_version: &'a str,
    machine: &'a str,
    snapshot_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    verification_id: Option<VerificationId>,
}

#[derive(Serialize)]
struct Labels<'a> {
    org: &'a str,
}

impl Gateway {
    pub(super) fn new(config: &GatewayConfig) -> Result<Self, BuildError> {
        // The base is used as it was written, trailing slash included, as upstream does.
        let instances = Url::parse(&format!("{}/api/instances", config.url)).map_err(BuildError::Address)?;
        let authorization = config.auth_token.as_ref().map(bearer).transpose()?;
        // The client takes its cryptography from the process; an embedder's choice stays.
        let _theirs_if_taken = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            // A create is not idempotent: whether and under which name to ask again is the caller's decision.
            .retry(reqwest::retry::never())
            // A redirect would send the token and the runner's secrets to an address nobody configured.
            .redirect(reqwest::redirect::Policy::none())
            // Upstream knows no proxy, and only `config` reads the environment.
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(BuildError::Client)?;
        let auth_token = config.auth_token.clone();
        let (timeout, snapshots) = (config.timeout, config.snapshots);
        Ok(Self { client, instances, authorization, auth_token, timeout, snapshots })
    }

    pub(super) async fn create(
        &self,
        order: &Order<'_>,
        runner: &Runner<'_>,
        config: &RunnerEnvConfig,
    ) -> Result<Created, CreateError> {
        let env = runner_env(config, Engine::Gateway { snapshots: self.snapshots }, runner);
        let request = self
            .client
            .post(self.instances.clone())
            .timeout(self.timeout)
            .headers(self.headers(runner.create))
            .json(&body(order, runner, &env));
        let mut response = request.send().await.map_err(|error| unanswered(error, self.timeout))?;
        let body = read_body(&mut response).await;
        let secrets: Vec<&str> = self
            .auth_token
            .iter()
            .chain(config.additional.iter().map(|(_, value)| value))
            .chain([runner.deployment_id].into_iter().filter(|id| id.expose_secret() != runner.deployment))
            .map(ExposeSecret::expose_secret)
            .collect();
        let answer = Answer { status: response.status(), body: body.as_deref(), secrets: &secrets };
        answer::judge(&answer, &runner.create.name)
    }

    /// Authorization and correlation; a trace header that fits none is not worth a failed create.
    fn headers(&self, create: &CreateRequest) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let baggage = create.request_id.as_ref().map(|_| {
            let (run, snapshot) = (&create.request.run.friendly_id, &create.request.snapshot.friendly_id);
            format!("run_id={run},snapshot_id={snapshot}")
        });
        for (name, value) in [
            (HeaderName::from_static("x-request-id"), create.request_id.as_ref()),
            (HeaderName::from_static("traceparent"), create.traceparent.as_ref()),
            (HeaderName::from_static("baggage"), baggage.as_ref()),
        ] {
            if let Some(Ok(value)) = value.map(|value| HeaderValue::from_str(value)) {
                headers.insert(name, value);
            }
        }
        headers
    }
}

fn bearer(token: &SecretString) -> Result<HeaderValue, BuildError> {
    let header = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()));
    let mut header = header.map_err(|_| BuildError::AuthToken)?;
    header.set_sensitive(true);
    Ok(header)
}

fn body<'a>(order: &Order<'a>, runner: &Runner<'a>, env: &'a [(String, String)]) -> Body<'a> {
    let request = &runner.create.request;
    Body {
        name: &runner.create.name,
        // The gateway resolves images by tag; upstream sends it no digest either.
        image: order.image.split('@').next().unwrap_or(order.image),
        env: env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        cpu: json_number(request.run.machine.cpu),
        memory_gb: json_number(request.run.machine.memory),
        metadata: Metadata {
            run_id: request.run.friendly_id.as_str(),
            env_id: &request.environment.id,
            env_type: &request.environment.kind,
            org_id: &request.organization.id,
            project_id: &request.project.id,
            deployment_version: &request.background_worker.version,
            machine: &request.run.machine.name,
            snapshot_id: request.snapshot.friendly_id.as_str(),
            verification_id: runner.create.verification_id,
        },
        labels: Labels { org: &request.organization.id },
    }
}

/// A number as JavaScript writes it: `4`, not `4.0`.
fn json_number(value: f64) -> serde_json::Value {
    serde_json::from_str(&value.to_string()).unwrap_or(serde_json::Value::Null)
}

/// The request failed before any answer.
fn unanswered(error: reqwest::Error, timeout: Duration) -> CreateError {
    if error.is_timeout() && !error.is_connect() {
        let reason = format!("the gateway did not answer within {} ms", timeout.as_millis());
        return CreateError::Uncertain { reason };
    }
    let reason = format!("could not reach the gateway: {}", chain(error));
    // A connection that broke after the request was sent may have been heard. The same name makes the next
    // request meet that workload.
    CreateError::Transient { reason, name_may_be_taken: false }
}

/// An error and its causes, without the address: it is configuration, not news.
fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// The whole body, or `None` if it broke off or is too long to be an instance.
async fn read_body(response: &mut reqwest::Response) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        body.extend_from_slice(&chunk);
        if body.len() > BODY_BYTES_MAX {
            return None;
        }
    }
    Some(body)
}

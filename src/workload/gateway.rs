//! The compute gateway: one `POST /api/instances` per create (platform.md §5.6).
//!
//! The gateway has no route to ask whether a name exists. A create that may have
//! happened is therefore reported as uncertain, and a probe decides.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use url::Url;

use crate::config::runner::RunnerEnvConfig;
use crate::config::workload::GatewayConfig;
use crate::domain::ids::VerificationId;
use crate::transport;

use super::answer::{self, Answer};
use super::runner_env::{Runner, RunnerHost, runner_env};
use super::{BuildError, CreateError, CreateRequest, Created, Order, correlation};

/// Longest wait for a connection. Nothing was sent before it opens, so it is safe to give up early.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes read of an answer; an instance has a few hundred.
const BODY_BYTES_MAX: usize = 64 << 10;

/// A configured gateway.
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

/// The seven of the platform's supervisor, and two of ours, so that a machine can be traced to its request.
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
        // The base is used as written, trailing slash included, as the platform's supervisor does.
        let instances = Url::parse(&format!("{}/api/instances", config.url)).map_err(BuildError::Address)?;
        let authorization = config.auth_token.as_ref().map(bearer).transpose()?;
        let client = transport::builder(instances.scheme())?.connect_timeout(CONNECT_TIMEOUT);
        let client = transport::build(client)?;
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
        let env = runner_env(config, RunnerHost::Gateway { snapshots: self.snapshots }, runner);
        let request = self
            .client
            .post(self.instances.clone())
            .timeout(self.timeout)
            .headers(self.headers(runner.create))
            .json(&body(order, runner, &env));
        let response = request.send().await.map_err(|error| unanswered(error, self.timeout))?;
        let status = response.status();
        // A body that broke off or is too long to be an instance counts as absent.
        let body = transport::read_body(response, BODY_BYTES_MAX).await.ok();
        let secrets: Vec<&str> = self
            .auth_token
            .iter()
            .chain(config.additional.iter().map(|(_, value)| value))
            .chain([runner.deployment_id].into_iter().filter(|id| id.expose_secret() != runner.deployment))
            .map(ExposeSecret::expose_secret)
            .collect();
        let answer = Answer { status, body: body.as_deref(), secrets: &secrets };
        answer::judge(&answer, &runner.create.name)
    }

    fn headers(&self, create: &CreateRequest) -> HeaderMap {
        let mut headers = correlation::headers(create);
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
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
        // The gateway resolves images by tag; the platform's supervisor sends no digest either.
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
///
/// The platform's supervisor retries after each network failure and never after a timeout. Warmproof probes
/// before the next request in both cases, so only one difference matters: after an open connection the
/// request may have been sent, and then the last probe must not be skipped.
fn unanswered(error: reqwest::Error, timeout: Duration) -> CreateError {
    if error.is_connect() {
        let reason = format!("could not reach the gateway: {}", transport::describe(error));
        return CreateError::Transient { reason, name_may_be_taken: false };
    }
    let reason = if error.is_timeout() {
        format!("the gateway did not answer within {} ms", timeout.as_millis())
    } else {
        format!("the connection to the gateway broke: {}", transport::describe(error))
    };
    CreateError::Uncertain { reason }
}

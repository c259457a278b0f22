//! The calls beside the probe: what a supervisor and a runner send to the platform.
//!
//! Each is one request. The product itself only probes; these serve `doctor`, the
//! demo's supervisor and the simulated runners.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::client::Client;
use super::probe::schema_problem;
use super::wire;
use crate::domain::ids::{RunId, SnapshotId};
use crate::transport::{self, BodyError};

/// How long one call may take. Above the 15 s that the platform waits for a run's lock (platform.md §3.2).
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a dequeue may take. Well above the 10 s that the platform blocks on an empty queue.
const DEQUEUE_TIMEOUT: Duration = Duration::from_secs(25);
/// Most of an answer that is read: messages carry waitpoints with their outputs.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most of the platform's own message that is repeated.
const MESSAGE_CHARS_MAX: usize = 200;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The platform refused.
    #[error("the platform answered {status}: {message}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// Its `error`, shortened; empty if there is none.
        message: String,
    },
    /// No whole answer came.
    #[error("connection: {problem}")]
    Transport {
        /// What the transport said, without URL and headers.
        problem: String,
    },
    /// No whole answer came in time. The platform may have acted.
    #[error("no answer within {} ms", after.as_millis())]
    Timeout {
        /// The timeout that passed.
        after: Duration,
    },
    /// A success that cannot be read.
    #[error("the platform's answer cannot be read: {problem}")]
    BadBody {
        /// The field; never the body.
        problem: String,
    },
}

impl Client {
    /// Says hello; answers the worker group that the token belongs to.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn connect(&self) -> Result<wire::WorkerGroup, CallError> {
        let mut metadata = serde_json::Map::new();
        metadata.insert("workerVersion".to_owned(), env!("CARGO_PKG_VERSION").into());
        let request = self.request(Method::POST, "/connect").json(&wire::ConnectRequest { metadata });
        let answer: wire::ConnectAnswer = send(request, CALL_TIMEOUT).await?;
        Ok(answer.worker_group)
    }

    /// Takes the next run off the queue, as the raw message. Blocks while the queue is empty.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn dequeue(&self) -> Result<Vec<Box<RawValue>>, CallError> {
        let body = wire::DequeueRequest { max_run_count: Some(1.0), ..Default::default() };
        send(self.request(Method::POST, "/dequeue").json(&body), DEQUEUE_TIMEOUT).await
    }

    /// Reports the worker alive, with the constants that the real supervisor sends.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn heartbeat(&self) -> Result<(), CallError> {
        let half = wire::Usage { used: 0.5, available: 0.5 };
        let body = wire::HeartbeatRequest { cpu: half, memory: half, tasks: Vec::new() };
        let _: wire::OkAnswer =
            send(self.request(Method::POST, "/heartbeat").json(&body), CALL_TIMEOUT).await?;
        Ok(())
    }

    /// Starts an attempt of the run at this snapshot; at most one caller wins (platform.md §3.2).
    ///
    /// # Errors
    /// [`CallError`]; status 409 means that another snapshot is the latest.
    pub async fn start_attempt(
        &self,
        run: &RunId,
        snapshot: &SnapshotId,
        is_warm_start: bool,
    ) -> Result<wire::StartAttemptAnswer, CallError> {
        let body = wire::StartAttemptRequest { is_warm_start: Some(is_warm_start) };
        self.send_text(&format!("/runs/{run}/snapshots/{snapshot}/attempts/start"), &body).await
    }

    /// Ends the attempt that this snapshot belongs to.
    ///
    /// # Errors
    /// [`CallError`]; status 400 means that another snapshot is the latest.
    pub async fn complete_attempt(
        &self,
        run: &RunId,
        snapshot: &SnapshotId,
        completion: wire::Completion,
    ) -> Result<wire::CompletionResult, CallError> {
        let body = wire::CompleteAttemptRequest { completion };
        let path = format!("/runs/{run}/snapshots/{snapshot}/attempts/complete");
        let answer: wire::CompleteAttemptAnswer = self.send_text(&path, &body).await?;
        Ok(answer.result)
    }

    /// Sends JSON under the content type that the platform's own client uses here (platform.md §1.1).
    async fn send_text<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, CallError> {
        let body = serde_json::to_string(body)
            .map_err(|error| CallError::BadBody { problem: format!("request: {error}") })?;
        let request =
            self.request(Method::POST, path).header(CONTENT_TYPE, wire::TEXT_CONTENT_TYPE).body(body);
        send(request, CALL_TIMEOUT).await
    }
}

async fn send<T: DeserializeOwned>(
    request: reqwest::RequestBuilder,
    after: Duration,
) -> Result<T, CallError> {
    tokio::time::timeout(after, exchange(request)).await.unwrap_or(Err(CallError::Timeout { after }))
}

async fn exchange<T: DeserializeOwned>(request: reqwest::RequestBuilder) -> Result<T, CallError> {
    let response =
        request.send().await.map_err(|error| CallError::Transport { problem: transport::describe(error) })?;
    let status = response.status();
    let body = transport::read_body(response, BODY_BYTES_MAX).await.map_err(|error| match error {
        BodyError::TooLarge => CallError::BadBody { problem: format!("longer than {BODY_BYTES_MAX} bytes") },
        BodyError::Transport(problem) => CallError::Transport { problem },
    })?;
    if !status.is_success() {
        return Err(CallError::Status { status: status.as_u16(), message: short_message(&body) });
    }
    let mut json = serde_json::Deserializer::from_slice(&body);
    serde_path_to_error::deserialize(&mut json)
        .map_err(|error| CallError::BadBody { problem: schema_problem(&error) })
}

/// The `error` of a refusal, bounded and printable: it ends in logs.
fn short_message(body: &[u8]) -> String {
    serde_json::from_slice::<wire::ErrorAnswer>(body)
        .map(|answer| answer.error.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect())
        .unwrap_or_default()
}

//! Takes HTTP calls and lets the test answer each of them, when and how it likes.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::gateway::http_client;
use super::platform::{Dispatched, Platform};
use super::wait::within;

/// Takes the place of a gateway or of a webhook's receiver.
pub struct Receiver {
    pub base_url: String,
    calls: mpsc::UnboundedReceiver<Call>,
}

/// One call, unanswered as long as it is kept.
#[derive(Debug)]
pub struct Call {
    pub headers: HeaderMap,
    pub body: Bytes,
    answer: oneshot::Sender<StatusCode>,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base_url = format!("http://{}", listener.local_addr().expect("an address"));
        let (sender, calls) = mpsc::unbounded_channel();
        let app = Router::new().fallback(take).with_state(sender);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { base_url, calls }
    }

    /// Waits for the next call.
    pub async fn call(&mut self) -> Call {
        within("a call comes", self.calls.recv()).await.expect("the receiver runs")
    }

    /// Whether all calls so far were taken.
    pub fn is_quiet(&self) -> bool {
        self.calls.is_empty()
    }
}

impl Call {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a call says JSON")
    }

    pub fn answer(self, status: u16) {
        // A caller that has left does not get the answer.
        let _ = self.answer.send(StatusCode::from_u16(status).expect("a status"));
    }
}

async fn take(
    State(calls): State<mpsc::UnboundedSender<Call>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, &'static str) {
    let (answer, answered) = oneshot::channel();
    calls.send(Call { headers, body, answer }).expect("the test listens");
    (answered.await.expect("the test answers or keeps the call"), r#"{"id":"instance-1"}"#)
}

/// Starts a run cold on the simulated platform, as the receiver of a call would, and waits until it is executed.
pub async fn start_cold(platform: &Platform, dispatched: &Dispatched, name: &str) {
    let body = json!({
        "name": name,
        "image": "image",
        "env": { "TRIGGER_RUN_ID": dispatched.run, "TRIGGER_SNAPSHOT_ID": dispatched.snapshot },
    });
    let url = format!("{}/api/instances", platform.simulator.base_url());
    let made = http_client().post(url).json(&body).send().await.expect("an answer");
    assert_eq!(made.status().as_u16(), 201);
    platform.executed(dispatched).await;
}

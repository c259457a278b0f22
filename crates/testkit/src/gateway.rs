//! A gateway in front of the simulator's that writes down what it is asked for.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;
use warmproof::platform::Client;

#[derive(Clone)]
pub struct RecordingGateway {
    pub base_url: String,
    behind: String,
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl RecordingGateway {
    pub async fn before(behind: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base_url = format!("http://{}", listener.local_addr().expect("an address"));
        let gateway = Self { base_url, behind: behind.to_owned(), bodies: Arc::default() };
        let app = Router::new().route("/api/instances", post(create)).with_state(gateway.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        gateway
    }

    /// The requests so far.
    pub fn bodies(&self) -> Vec<Value> {
        self.bodies.lock().expect("no panic").clone()
    }
}

async fn create(State(gateway): State<RecordingGateway>, body: Bytes) -> (StatusCode, Bytes) {
    let asked = serde_json::from_slice(&body).expect("a create is JSON");
    gateway.bodies.lock().expect("no panic").push(asked);
    let url = format!("{}/api/instances", gateway.behind);
    let answer = http_client().post(url).body(body).send().await.expect("an answer");
    (answer.status(), answer.bytes().await.expect("a body"))
}

pub fn http_client() -> reqwest::Client {
    Client::without_credentials().expect("a client")
}

//! The API on a loopback port over a database of its own, and real HTTP to talk to it.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use reqwest::{Method, StatusCode};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use warmproof::config::api::{ApiConfig, LISTEN_DEFAULT};
use warmproof::store::Store;

use super::db::{Db, db};
use super::dispatch::{DELAY, message};

pub const TOKEN: &str = "planted-api-token-7c1f";

pub struct Api {
    pub db: Db,
    pub url: String,
    http: reqwest::Client,
    _stop: DropGuard,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The problem body, checked for its shape.
    pub fn problem(&self) -> Value {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        assert!(!self.header("x-request-id").is_empty(), "{self:?}");
        let problem = self.json();
        assert!(problem["type"].as_str().is_some_and(|kind| kind.starts_with("urn:warmproof:")), "{problem}");
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
        assert_eq!(problem["status"], self.status.as_u16(), "{problem}");
        problem
    }

    /// The fields a 422 names, in its order.
    pub fn fields(&self) -> Vec<String> {
        let problem = self.problem();
        assert_eq!(self.status, 422, "{problem}");
        let errors = problem["errors"].as_array().unwrap_or_else(|| panic!("no errors: {problem}"));
        errors.iter().map(|error| error["field"].as_str().expect("a field").to_owned()).collect()
    }
}

/// Limits as they are by default.
pub fn config() -> ApiConfig {
    ApiConfig {
        listen: LISTEN_DEFAULT,
        token: Some(SecretString::from(TOKEN)),
        body_bytes_max: 4 << 20,
        batch_max: 1000,
        request_timeout: Duration::from_secs(15),
    }
}

pub async fn api() -> Api {
    let db = db().await;
    let store = db.callers();
    serve(db, store, config()).await
}

/// Serves on a store that may differ from the one of `db`.
pub async fn serve(db: Db, store: Store, config: ApiConfig) -> Api {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let stop = CancellationToken::new();
    tokio::spawn(warmproof::api::serve(listener, store, config, DELAY, stop.clone()));
    let http = warmproof::platform::Client::without_credentials().expect("a client");
    Api { db, url, http, _stop: stop.drop_guard() }
}

impl Api {
    /// A request as a caller with the token sends it.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.url))
            .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
    }

    /// A request without a token.
    pub fn anonymous(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        send(self.request(Method::POST, path).header(CONTENT_TYPE, "application/json").body(body)).await
    }

    pub async fn schedule(&self, body: &Value) -> Answer {
        self.post("/v1/verifications", body.to_string()).await
    }

    pub async fn cancel(&self, body: &Value) -> Answer {
        self.post("/v1/cancellations", body.to_string()).await
    }

    /// Everything a request could have written.
    pub async fn rows(&self) -> i64 {
        self.db
            .value(
                "select (select count(*) from pending) + (select count(*) from outcome)
                   + (select count(*) from outcome_count) + (select count(*) from pool)",
            )
            .await
    }
}

pub async fn send(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    Answer { status, headers, text: response.text().await.expect("a body") }
}

/// The body that a supervisor sends after a hit, `age` after its dequeue.
pub fn hit_aged(run: &str, snapshot: &str, age: chrono::TimeDelta) -> Value {
    let message = message(run, snapshot, chrono::Utc::now() - age);
    json!({ "dequeued_message": serde_json::from_str::<Value>(message.get()).expect("JSON") })
}

pub fn hit(run: &str, snapshot: &str) -> Value {
    hit_aged(run, snapshot, chrono::TimeDelta::zero())
}

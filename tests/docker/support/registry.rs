//! A registry with one image in it, that can refuse, hang and break off.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use futures_util::stream;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::engine::context;

/// The user and password that a registry with `NeedsPassword` accepts, `puller:sesame-sesame` in base64.
const BASIC: &str = "Basic cHVsbGVyOnNlc2FtZS1zZXNhbWU=";
pub const USERNAME: &str = "puller";
pub const PASSWORD: &str = "sesame-sesame";

/// The fault of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// Nothing without a password.
    NeedsPassword,
    /// The configuration, which comes when the progress has begun, is a 500.
    BlobFails,
    /// The configuration breaks off.
    BlobBreaks,
    /// The configuration comes once the gate is opened.
    BlobWaits,
}

#[derive(Clone)]
pub struct Registry {
    address: String,
    repository: String,
    trouble: Trouble,
    pub gate: Arc<Semaphore>,
    seen: Arc<Mutex<Vec<String>>>,
    layer: Arc<Vec<u8>>,
    config: Arc<String>,
}

impl Registry {
    /// One image, distinguished from others by its repository.
    pub async fn with(repository: &str, trouble: Trouble) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let layer = context();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": { "Cmd": ["/runner"], "Env": [format!("REPOSITORY={repository}")] },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        });
        let registry = Self {
            address: listener.local_addr().expect("an address").to_string(),
            repository: repository.to_owned(),
            trouble,
            gate: Arc::new(Semaphore::new(0)),
            seen: Arc::default(),
            layer: Arc::new(layer),
            config: Arc::new(config.to_string()),
        };
        let app = Router::new().fallback(answer).with_state(registry.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        registry
    }

    pub fn image(&self) -> String {
        format!("{}/{}:1", self.address, self.repository)
    }

    /// Where a token for it is given, too.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How often the configuration was asked for: once in each pull.
    pub fn pulls(&self) -> usize {
        let config = digest(self.config.as_bytes());
        self.seen.lock().expect("no panic").iter().filter(|path| path.ends_with(&config)).count()
    }

    fn manifest(&self) -> String {
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": self.config.len(),
                "digest": digest(self.config.as_bytes()),
            },
            "layers": [{
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "size": self.layer.len(),
                "digest": digest(&self.layer),
            }],
        })
        .to_string()
    }

    async fn config(&self) -> Response {
        match self.trouble {
            Trouble::None | Trouble::NeedsPassword => self.config.as_str().to_owned().into_response(),
            Trouble::BlobFails => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            Trouble::BlobBreaks => {
                let half = self.config.as_bytes()[..20].to_vec();
                let parts = [Ok(half), Err(std::io::Error::other("broken off"))];
                let length = [(header::CONTENT_LENGTH, self.config.len())];
                (length, Body::from_stream(stream::iter(parts))).into_response()
            }
            Trouble::BlobWaits => {
                let _open = self.gate.acquire().await;
                self.config.as_str().to_owned().into_response()
            }
        }
    }
}

async fn answer(State(registry): State<Registry>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let path = uri.path().to_owned();
    if method == Method::GET {
        registry.seen.lock().expect("no panic").push(path.clone());
    }
    if headers.contains_key("x-amz-target") {
        return ecr();
    }
    let authorized = headers.get(header::AUTHORIZATION).is_some_and(|value| value == BASIC);
    if registry.trouble == Trouble::NeedsPassword && !authorized {
        let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"registry\"")];
        let body = json!({ "errors": [{ "code": "UNAUTHORIZED", "message": "authentication required" }] });
        return (StatusCode::UNAUTHORIZED, challenge, Json(body)).into_response();
    }
    let Some(rest) = path.strip_prefix(&format!("/v2/{}/", registry.repository)) else {
        return if path == "/v2/" { "{}".into_response() } else { unknown() };
    };
    let manifest = registry.manifest();
    match rest.rsplit('/').next().unwrap_or_default() {
        // Asked for by its tag first, then by its digest.
        reference if reference == "1" || reference == digest(manifest.as_bytes()) => {
            let kind = "application/vnd.docker.distribution.manifest.v2+json".to_owned();
            let headers = [("content-type", kind), ("docker-content-digest", digest(manifest.as_bytes()))];
            (headers, manifest).into_response()
        }
        blob if blob == digest(registry.config.as_bytes()) => registry.config().await,
        blob if blob == digest(&registry.layer) => registry.layer.as_ref().clone().into_response(),
        _ => unknown(),
    }
}

/// The token service of Amazon's registry, which knows the same user.
fn ecr() -> Response {
    let token = BASIC.trim_start_matches("Basic ");
    let body = json!({ "authorizationData": [{ "authorizationToken": token }] });
    ([(header::CONTENT_TYPE, "application/x-amz-json-1.1")], body.to_string()).into_response()
}

fn unknown() -> Response {
    let body = json!({ "errors": [{ "code": "MANIFEST_UNKNOWN", "message": "manifest unknown" }] });
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |hex, byte| format!("{hex}{byte:02x}"))
}

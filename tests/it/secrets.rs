//! Secrets of every backend, planted and then searched for in all that is reported and stored.

use std::io::Write as _;

use axum::Router;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::json;
use sqlx::AssertSqlSafe;
use tokio::net::TcpListener;

use warmproof::domain::outcome::{FallbackResult, OutcomeKind};

use warmproof_testkit::process::Program;
use warmproof_testkit::stage::Stage;

/// Every secret holds it, and nothing else does.
const PLANTED: &str = "p1anted5ecret";

/// A gateway or receiver that refuses, and repeats the request in its refusal.
async fn parrot() -> String {
    serve(Router::new().fallback(async |headers: HeaderMap, body: String| {
        let reported: Vec<String> = headers.values().map(|value| format!("{value:?}")).collect();
        let error = format!("{} {body}", reported.join(" "));
        (StatusCode::BAD_REQUEST, axum::Json(json!({ "error": error })))
    }))
    .await
}

/// An API server that refuses pods, in its own form, and repeats what it finds wrong with them.
async fn parrot_of_a_cluster() -> String {
    serve(Router::new().fallback(async |body: String| {
        let message = &body[body.find("API_KEY").unwrap_or_default()..];
        let status = json!({
            "kind": "Status", "status": "Failure", "code": 422, "reason": "Invalid", "message": message,
        });
        (StatusCode::UNPROCESSABLE_ENTITY, axum::Json(status))
    }))
    .await
}

/// An engine without the image, whose registry repeats the credentials it refuses: in an answer, or in the
/// middle of the progress.
async fn parrot_of_an_engine(in_the_progress: bool) -> String {
    let app = Router::new().fallback(async move |method: Method, uri: Uri, headers: HeaderMap| {
        if method == Method::GET || !uri.path().ends_with("/images/create") {
            return (StatusCode::NOT_FOUND, json!({ "message": "no such image" }).to_string());
        }
        let reported = URL_SAFE.decode(headers["x-registry-auth"].as_bytes()).expect("credentials");
        let reported = format!("the registry refused {}", String::from_utf8(reported).expect("a text"));
        if in_the_progress {
            let error = json!({ "errorDetail": { "message": reported }, "error": reported });
            return (StatusCode::OK, format!("{}\n{error}\n", json!({ "status": "Pulling" })));
        }
        (StatusCode::INTERNAL_SERVER_ERROR, json!({ "message": reported }).to_string())
    });
    serve(app).await.replace("http://", "tcp://")
}

async fn serve(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// The planted text in plain form, and in base64 for each position it may have in the encoded text.
fn spellings() -> Vec<String> {
    let encoded = [STANDARD, URL_SAFE].into_iter().flat_map(|alphabet| {
        (0..3).map(move |before| {
            let plain = format!("{}{PLANTED}", &"xx"[..before]);
            // Cut off the letters at either end that also encode neighbouring text.
            alphabet.encode(&plain)[(before * 8).div_ceil(6)..plain.len() * 8 / 6].to_owned()
        })
    });
    encoded.chain([PLANTED.to_owned()]).collect()
}

/// Panics if a text holds a secret, and shows where.
fn assert_hidden(place: &str, text: &str) {
    for spelling in spellings() {
        if let Some(at) = text.find(&spelling) {
            let from = text.floor_char_boundary(at.saturating_sub(300));
            panic!("a secret is {place}: {}", &text[from..text.floor_char_boundary(at + 60)]);
        }
    }
}

/// All rows of all our tables, as text.
async fn kept(stage: &Stage) -> String {
    let tables: Vec<String> =
        sqlx::query_scalar("select tablename::text from pg_tables where schemaname = 'warmproof'")
            .fetch_all(stage.db.pool())
            .await
            .unwrap();
    assert!(tables.len() > 10, "{tables:?}");
    let mut kept = String::new();
    for table in tables {
        let sql = format!("select coalesce(string_agg(t::text, ' '), '') from warmproof.\"{table}\" t");
        kept +=
            &sqlx::query_scalar::<_, String>(AssertSqlSafe(sql)).fetch_one(stage.db.pool()).await.unwrap();
    }
    kept
}

/// Has a loss fail with this worker, then searches logs, rows and outcome for the secrets.
async fn nothing_shows(stage: &Stage, program: Program, expected: &str) {
    let mut worker = program
        .env("WARMPROOF_LOG", "trace")
        .env("WARMPROOF_CREATE_BACKOFF_BASE_MS", 10)
        .env("WARMPROOF_CREATE_BACKOFF_MAX_MS", 10)
        .env("RUNNER_ADDITIONAL_ENV_VARS", format!("API_KEY={PLANTED}-runner"))
        .env("WORKLOAD_TOKEN_ENFORCEMENT", "enforce")
        .env("WORKLOAD_TOKEN_SECRET", format!("{PLANTED}-signing"))
        .may_warn(&[
            "a backend cannot be used",
            "leftovers of the backend",
            "could not be prepared",
            "a create failed",
        ])
        .start();
    let lost = stage.hit().await;
    let outcome = stage.outcome(&lost.run).await;
    assert_eq!(outcome.fallback_result.map(FallbackResult::as_str), Some("failed"), "{outcome:?}");
    let error = outcome.error.clone().unwrap_or_default();
    assert!(error.contains(expected), "the loss did not reach the refusal with the secret: {error}");
    assert_eq!(worker.terminate().await, Some(0));
    let reported = format!("{}\n{}", worker.stdout().join("\n"), worker.stderr().join("\n"));
    assert!(
        reported.contains("worker started") && reported.contains("wide_event"),
        "there is something to search"
    );
    assert_hidden("reported", &reported);
    assert_hidden("stored", &kept(stage).await);
    assert_hidden("recorded", &format!("{outcome:?}"));
}

#[tokio::test]
async fn the_gateways_secrets_never_show() {
    let stage = Stage::set().await;
    let worker = stage
        .worker("a")
        .env("COMPUTE_GATEWAY_URL", parrot().await)
        .env("COMPUTE_GATEWAY_AUTH_TOKEN", format!("{PLANTED}-gateway"));
    nothing_shows(&stage, worker, "the gateway answered 400").await;
}

#[tokio::test]
async fn the_webhooks_secrets_never_show() {
    let stage = Stage::set().await;
    // The key as it is configured; a planted part of it is base64 itself.
    let key = format!("whsec_{PLANTED}AAAAAAAAAAAAAAAAAAA");
    let worker = stage
        .worker("a")
        .env("WARMPROOF_BACKEND", "webhook")
        .env("WARMPROOF_WEBHOOK_URL", format!("{}/start?token={PLANTED}", parrot().await))
        .env("WARMPROOF_WEBHOOK_SCHEMES", "http")
        .env("WARMPROOF_WEBHOOK_HOSTS", "127.0.0.1")
        .env("WARMPROOF_WEBHOOK_SECRET", key);
    nothing_shows(&stage, worker, "400").await;
}

#[tokio::test]
async fn the_registrys_password_never_shows() {
    for in_the_progress in [false, true] {
        let stage = Stage::set().await;
        let worker = stage
            .worker("a")
            .env("WARMPROOF_BACKEND", "docker")
            .env("DOCKER_HOST", parrot_of_an_engine(in_the_progress).await)
            .env("DOCKER_API_VERSION", "1.41")
            .env("DOCKER_REGISTRY_USERNAME", "puller")
            .env("DOCKER_REGISTRY_PASSWORD", format!("{PLANTED}-registry"))
            .env("DOCKER_REGISTRY_URL", "registry.example");
        nothing_shows(&stage, worker, r#"the registry refused {"username":"puller","password":"[hidden]""#)
            .await;
    }
}

#[tokio::test]
async fn the_clusters_token_never_shows() {
    let stage = Stage::set().await;
    let mut kubeconfig = tempfile::NamedTempFile::new().unwrap();
    let server = parrot_of_a_cluster().await;
    write!(
        kubeconfig,
        "{{\"apiVersion\": \"v1\", \"kind\": \"Config\", \"current-context\": \"c\",
           \"contexts\": [{{\"name\": \"c\", \"context\": {{\"cluster\": \"c\", \"user\": \"u\"}}}}],
           \"clusters\": [{{\"name\": \"c\", \"cluster\": {{\"server\": \"{server}\"}}}}],
           \"users\": [{{\"name\": \"u\", \"user\": {{\"token\": \"{PLANTED}-cluster\"}}}}]}}"
    )
    .unwrap();
    let worker = stage
        .worker("a")
        .env("WARMPROOF_BACKEND", "kubernetes")
        .env("WARMPROOF_KUBECONFIG", kubeconfig.path().display());
    nothing_shows(&stage, worker, r#"422 Invalid: API_KEY","value":"[hidden]""#).await;
}

#[tokio::test]
async fn the_platforms_credentials_never_show() {
    let stage = Stage::set().await;
    let worker = stage
        .worker("a")
        .env("TRIGGER_API_URL", parrot().await)
        .env("TRIGGER_WORKER_TOKEN", format!("tr_wgt_{PLANTED}"))
        .env("MANAGED_WORKER_SECRET", format!("{PLANTED}-managed"))
        .env("WARMPROOF_PROBE_ATTEMPTS", 1)
        .env("WARMPROOF_LOG", "trace");
    let mut worker = worker.may_warn(&["probes failed"]).start();
    let hit = stage.hit().await;
    let outcome = stage.outcome(&hit.run).await;
    assert_eq!(outcome.outcome, OutcomeKind::ProbeError);
    assert_eq!(worker.terminate().await, Some(0));
    let reported = format!("{:?}{:?}", worker.stdout(), worker.stderr());
    assert!(
        reported.contains("worker started") && reported.contains("probe_error"),
        "there is something to search"
    );
    assert_hidden("reported", &reported);
    assert_hidden("stored", &kept(&stage).await);
    assert_hidden("recorded", &format!("{outcome:?}"));
}

//! Secrets of every backend, planted and looked for in all that is told and kept.

use std::io::Write as _;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use sqlx::AssertSqlSafe;
use tokio::net::TcpListener;

use crate::support::process::Program;
use crate::support::stage::Stage;

/// Every secret holds it, and nothing else does.
const PLANTED: &str = "p1anted5ecret";

/// A gateway or receiver that repeats all it was told, refusing.
async fn parrot() -> String {
    let app = Router::new().fallback(async |headers: HeaderMap, body: String| {
        let told: Vec<String> = headers.values().map(|value| format!("{value:?}")).collect();
        let error = format!("{} {body}", told.join(" "));
        (StatusCode::BAD_REQUEST, axum::Json(serde_json::json!({ "error": error })))
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// Everything that stands in any table of ours, as text.
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

/// Has a loss fail with this worker, then looks everywhere.
async fn nothing_shows(stage: &Stage, program: Program, expected: &str) {
    let mut worker = program
        .env("WARMPROOF_LOG", "trace")
        .env("WARMPROOF_CREATE_BACKOFF_BASE_MS", 10)
        .env("WARMPROOF_CREATE_BACKOFF_MAX_MS", 10)
        .env("RUNNER_ADDITIONAL_ENV_VARS", format!("API_KEY={PLANTED}-runner"))
        .env("WORKLOAD_TOKEN_ENFORCEMENT", "enforce")
        .env("WORKLOAD_TOKEN_SECRET", format!("{PLANTED}-signing"))
        .start();
    let lost = stage.hit().await;
    let outcome = stage.outcome(&lost.run).await;
    assert_eq!(outcome.fallback_result.as_deref(), Some("failed"), "{outcome:?}");
    let error = outcome.error.clone().unwrap_or_default();
    assert!(error.contains(expected), "the secret's way was taken: {error}");
    assert_eq!(worker.terminate().await, Some(0));
    let told = format!("{}\n{}", worker.stdout().join("\n"), worker.stderr().join("\n"));
    assert!(
        told.contains("worker started") && told.contains("wide_event"),
        "there is something to look through"
    );
    for (place, text) in [("told", told), ("kept", kept(stage).await), ("recorded", format!("{outcome:?}"))] {
        if let Some(at) = text.find(PLANTED) {
            let from = text.floor_char_boundary(at.saturating_sub(300));
            panic!("a secret is {place}: {}", &text[from..text.floor_char_boundary(at + 60)]);
        }
    }
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
    let stage = Stage::set().await;
    let worker = stage
        .worker("a")
        .env("WARMPROOF_BACKEND", "docker")
        .env("DOCKER_HOST", parrot().await.replace("http://", "tcp://"))
        .env("DOCKER_API_VERSION", "1.41")
        .env("DOCKER_REGISTRY_USERNAME", "puller")
        .env("DOCKER_REGISTRY_PASSWORD", format!("{PLANTED}-registry"))
        .env("DOCKER_REGISTRY_URL", "registry.example");
    nothing_shows(&stage, worker, "image").await;
}

#[tokio::test]
async fn the_clusters_token_never_shows() {
    let stage = Stage::set().await;
    let mut kubeconfig = tempfile::NamedTempFile::new().unwrap();
    let server = parrot().await;
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
    nothing_shows(&stage, worker, "400").await;
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
    let mut worker = worker.start();
    let hit = stage.hit().await;
    let outcome = stage.outcome(&hit.run).await;
    assert_eq!(outcome.outcome, "probe_error");
    assert_eq!(worker.terminate().await, Some(0));
    let told = format!("{:?}{:?}{outcome:?}{}", worker.stdout(), worker.stderr(), kept(&stage).await);
    assert!(!told.contains(PLANTED));
}

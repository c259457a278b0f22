use std::sync::Mutex as Notes;

use aws_config::Region;
use aws_sdk_ecr::config::Credentials as AwsCredentials;
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;

/// A token service that gives these answers in turn and records the requests.
async fn service(answers: Vec<(u16, Value)>) -> (Ecr, Arc<Notes<Vec<String>>>) {
    let seen = Arc::new(Notes::new(Vec::new()));
    let (notes, answers) = (Arc::clone(&seen), Arc::new(Notes::new(answers.into_iter())));
    let app = Router::new().fallback(move |headers: HeaderMap| {
        let target = headers.get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
        notes.lock().expect("no panic").push(target.to_owned());
        let (status, answer) = answers.lock().expect("no panic").next().expect("an answer is left");
        let status = StatusCode::from_u16(status).expect("a status");
        async move { (status, [("content-type", "application/x-amz-json-1.1")], answer.to_string()) }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let settings = move || {
        aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .credentials_provider(AwsCredentials::new("AKIAEXAMPLE", "hidden", None, None, "test"))
            .endpoint_url(&url)
    };
    (Ecr::new(Arc::new(settings), Duration::from_secs(20)), seen)
}

fn token(plain: &str, expires_at: Option<f64>) -> Value {
    let mut data =
        json!({ "authorizationToken": STANDARD.encode(plain), "proxyEndpoint": "https://1.dkr.ecr" });
    if let Some(at) = expires_at {
        data["expiresAt"] = json!(at);
    }
    json!({ "authorizationData": [data] })
}

fn epoch_seconds() -> f64 {
    now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

#[tokio::test]
async fn a_token_is_fetched_once_and_kept() {
    let (ecr, seen) = service(vec![(200, token("AWS:pass:word", None))]).await;
    for _ in 0..3 {
        let credentials = ecr.credentials().await.expect("a token");
        assert_eq!((credentials.username.as_str(), credentials.secret()), ("AWS", "pass:word"));
        assert_eq!(credentials.server.as_deref(), Some("https://1.dkr.ecr"));
    }
    let seen = seen.lock().expect("no panic").clone();
    assert_eq!(seen, ["AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"]);
}

#[tokio::test]
async fn a_token_in_its_last_minutes_or_refused_is_fetched_anew() {
    let soon = Some(epoch_seconds() + 300.0);
    let answers = vec![(200, token("AWS:a", soon)), (200, token("AWS:b", None)), (200, token("AWS:c", None))];
    let (ecr, _) = service(answers).await;
    let password = async || ecr.credentials().await.expect("a token").password.expose_secret().to_owned();
    assert_eq!(password().await, "a");
    assert_eq!(password().await, "b", "five minutes are too few");
    assert_eq!(password().await, "b");
    ecr.forget().await;
    assert_eq!(password().await, "c");
}

#[tokio::test]
async fn a_refusal_is_reported_by_its_code_and_a_broken_token_is_not_printed() {
    let refusal = json!({ "__type": "AccessDeniedException", "message": "hidden is not allowed" });
    let broken = json!({ "authorizationData": [{ "authorizationToken": "hidden!" }] });
    let none = json!({ "authorizationData": [] });
    let (ecr, _) = service(vec![(400, refusal), (200, broken), (200, none)]).await;
    for expected in ["AccessDeniedException", "the token cannot be read", "the answer holds no token"] {
        let error = ecr.credentials().await.expect_err("no token");
        assert_eq!(error, format!("could not get a token for ECR: {expected}"));
    }
}

#[test]
fn a_token_is_kept_until_ten_minutes_before_its_end() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_hours(1000);
    let ends_in = |seconds: i64| {
        let at = aws_sdk_ecr::primitives::DateTime::from_secs(3600 * 1000 + seconds);
        AuthorizationData::builder().expires_at(at).build()
    };
    assert_eq!(kept_for(&ends_in(3600), now), Duration::from_mins(50));
    assert_eq!(kept_for(&ends_in(599), now), Duration::ZERO);
    assert_eq!(kept_for(&ends_in(-5), now), Duration::ZERO);
    let unknown = AuthorizationData::builder().build();
    assert_eq!(kept_for(&unknown, now), Duration::from_hours(12) - Duration::from_mins(10));
}

//! Limits, tokens, paths and methods, and the shape of refusals.

use reqwest::Method;
use reqwest::header::AUTHORIZATION;
use serde_json::{Value, json};

use warmproof_testkit::api::{TOKEN, api, config, hit, send, serve};
use warmproof_testkit::db::db;

#[tokio::test]
async fn a_body_of_five_megabytes_is_too_large() {
    let api = api().await;
    let before = api.rows().await;
    let mut body = hit("run_a", "snapshot_a");
    body["timings"] = json!("x".repeat(5 << 20));
    let body = body.to_string();
    for path in ["/v1/verifications", "/v1/cancellations"] {
        let answer = api.post(path, body.clone()).await;
        assert_eq!(answer.status, 413);
        let problem = answer.problem();
        assert_eq!(problem["type"], "urn:warmproof:too-large");
        assert!(problem["detail"].as_str().unwrap().contains("4194304"), "{problem}");
    }
    assert_eq!(api.rows().await, before);
}

#[tokio::test]
async fn a_batch_of_ten_thousand_is_too_large() {
    let api = api().await;
    let before = api.rows().await;
    let cancels: Vec<Value> =
        (0..10_000).map(|n| json!({"run_id": format!("run_{n}"), "reason": "miss"})).collect();
    let answer = api.cancel(&json!(cancels)).await;
    assert_eq!(answer.status, 413);
    let detail = answer.problem()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("10000") && detail.contains("1000 at a time"), "{detail}");
    // The count comes before the content: what the elements hold does not matter any more.
    let answer = api.schedule(&json!(vec![json!({}); 10_000])).await;
    assert_eq!(answer.status, 413);
    assert_eq!(api.rows().await, before);
}

#[tokio::test]
async fn the_largest_batch_allowed_is_taken_whole() {
    let db = db().await;
    let store = db.store.clone();
    let mut config = config();
    config.batch_max = 50;
    let api = serve(db, store, config).await;
    let hits: Vec<Value> = (0..50).map(|n| hit(&format!("run_{n}"), "snapshot_a")).collect();
    let answer = api.schedule(&json!(hits)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.json().as_array().unwrap().len(), 50);
    assert_eq!(api.db.value::<i64>("select count(*) from pending").await, 50);
    let one_more: Vec<Value> = (0..51).map(|n| hit(&format!("run_{n}"), "snapshot_a")).collect();
    assert_eq!(api.schedule(&json!(one_more)).await.status, 413);
}

#[tokio::test]
async fn without_the_token_nothing_is_done() {
    let api = api().await;
    let before = api.rows().await;
    let body = hit("run_a", "snapshot_a").to_string();
    let wrong = [
        None,
        Some(String::new()),
        Some("Bearer".to_owned()),
        Some("Bearer ".to_owned()),
        Some("Bearer wrong-token-of-some-length".to_owned()),
        Some(format!("Basic {TOKEN}")),
        Some(TOKEN.to_owned()),
        Some(format!("Bearer {TOKEN}x")),
        Some(format!("Bearer {}", &TOKEN[1..])),
    ];
    for value in wrong {
        for (method, path) in [
            (Method::POST, "/v1/verifications"),
            (Method::POST, "/v1/cancellations"),
            (Method::GET, "/v1/runs/run_a"),
            (Method::GET, "/v1/verifications/0199a1b2-0000-7000-8000-000000000000"),
        ] {
            let mut request = api.anonymous(method, path).body(body.clone());
            if let Some(value) = &value {
                request = request.header(AUTHORIZATION, value);
            }
            let answer = send(request).await;
            assert_eq!(answer.status, 401, "{value:?}");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
            assert_eq!(answer.problem()["type"], "urn:warmproof:unauthorized");
            assert!(!answer.text.contains(TOKEN), "{answer:?}");
        }
    }
    assert_eq!(api.rows().await, before);
    let other_case = api.anonymous(Method::POST, "/v1/verifications").body(body);
    let answer = send(other_case.header(AUTHORIZATION, format!("bEARER   {TOKEN}"))).await;
    assert_eq!(answer.status, 201, "the scheme's case does not matter");
}

#[tokio::test]
async fn another_method_is_a_405_that_names_the_allowed_ones() {
    let api = api().await;
    for (method, path, allowed) in [
        (Method::GET, "/v1/verifications", "POST"),
        (Method::PUT, "/v1/verifications", "POST"),
        (Method::DELETE, "/v1/cancellations", "POST"),
        (Method::POST, "/v1/runs/run_a", "GET,HEAD"),
        (Method::PATCH, "/v1/verifications/x", "GET,HEAD"),
        (Method::POST, "/healthz", "GET,HEAD"),
    ] {
        let answer = send(api.request(method.clone(), path)).await;
        assert_eq!(answer.status, 405, "{method} {path}");
        assert_eq!(answer.header("allow"), allowed, "{method} {path}");
        assert_eq!(answer.problem()["type"], "urn:warmproof:method-not-allowed");
    }
}

#[tokio::test]
async fn another_path_is_a_404() {
    let api = api().await;
    for path in ["/", "/v1", "/v1/verification", "/v2/verifications", "/v1/runs", "/v1/runs/", "/%00"] {
        let answer = api.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.problem()["type"], "urn:warmproof:not-found", "{path}");
    }
}

#[tokio::test]
async fn every_answer_carries_the_callers_request_id_or_a_new_one() {
    let api = api().await;
    for (method, path, status) in [
        (Method::POST, "/v1/verifications", 400),
        (Method::GET, "/v1/runs/run_none", 404),
        (Method::GET, "/v1/verifications", 405),
        (Method::GET, "/nowhere", 404),
        (Method::GET, "/healthz", 200),
    ] {
        let request = api.request(method.clone(), path).header("x-request-id", "mine-42");
        let answer = send(request).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-request-id")), (status, "mine-42"), "{path}");
        let fresh = send(api.request(method, path)).await;
        assert!(fresh.header("x-request-id").parse::<uuid::Uuid>().is_ok(), "{fresh:?}");
    }
    let refused = send(api.anonymous(Method::GET, "/v1/runs/run_a").header("x-request-id", "mine-43")).await;
    assert_eq!((refused.status.as_u16(), refused.header("x-request-id")), (401, "mine-43"));
}

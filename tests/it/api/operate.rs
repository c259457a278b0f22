//! Tokens with scopes, and the operators' part of the API.

use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Value, json};
use warmproof::store::audit::Actor;
use warmproof::store::token::Scope;

use warmproof_testkit::api::{Answer, Api, api, hit, send};

/// A token of these scopes, made as the command makes one.
async fn token(api: &Api, name: &str, scopes: &[Scope]) -> String {
    let token = format!("wp_{name}-0123456789abcdef");
    let secret = SecretString::from(token.clone());
    assert!(api.db.store.create_token(name, scopes, &secret, &Actor("test".to_owned())).await.unwrap());
    token
}

async fn call(api: &Api, token: &str, method: Method, path: &str, body: Value) -> Answer {
    let request = api.anonymous(method.clone(), path).bearer_auth(token);
    send(if method == Method::GET { request } else { request.body(body.to_string()) }).await
}

#[tokio::test]
async fn a_token_may_do_what_its_scopes_say_and_no_more() {
    let api = api().await;
    let tokens = [
        token(&api, "schedules", &[Scope::Schedule]).await,
        token(&api, "reads", &[Scope::Read]).await,
        token(&api, "operates", &[Scope::Operate]).await,
    ];
    let cancel = |reason: &str| json!({"run_id": "run_none", "reason": reason});
    let calls = [
        (Method::POST, "/v1/verifications", hit("run_a", "snapshot_1"), [201, 403, 403]),
        (Method::POST, "/v1/cancellations", cancel("connected"), [200, 403, 403]),
        (Method::GET, "/v1/pending", Value::Null, [403, 200, 403]),
        (Method::GET, "/v1/runs/run_a", Value::Null, [403, 200, 403]),
        (Method::GET, "/v1/pools", Value::Null, [403, 200, 403]),
        (Method::GET, "/v1/workers", Value::Null, [403, 200, 403]),
        (Method::GET, "/v1/audit", Value::Null, [403, 200, 403]),
        (Method::PATCH, "/v1/pools/default", json!({"shadow": false}), [403, 403, 200]),
        (Method::POST, "/v1/runs/run_a/probe-now", Value::Null, [403, 403, 200]),
        (Method::POST, "/v1/pending/cancel", json!({"filter": {"pool": "none"}}), [403, 403, 200]),
    ];
    for (method, path, body, expected) in calls {
        for (token, status) in tokens.iter().zip(expected) {
            let answer = call(&api, token, method.clone(), path, body.clone()).await;
            assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
            if status == 403 {
                assert_eq!(answer.problem()["type"], "urn:warmproof:forbidden");
            }
        }
        assert_eq!(call(&api, "wp_nobodys", method, path, body).await.status, 401);
    }
    let operator = call(&api, &tokens[0], Method::POST, "/v1/cancellations", cancel("operator")).await;
    assert_eq!(operator.status, 403, "only an operator may cancel as an operator");
}

#[tokio::test]
async fn a_revoked_token_is_good_for_a_few_seconds_at_most() {
    let api = api().await;
    let token = token(&api, "brief", &[Scope::Read]).await;
    assert_eq!(call(&api, &token, Method::GET, "/v1/workers", Value::Null).await.status, 200);
    assert!(api.db.store.revoke_token("brief", &Actor("test".to_owned())).await.unwrap());
    warmproof_testkit::wait::until("the token is refused", async || {
        let answer = call(&api, &token, Method::GET, "/v1/workers", Value::Null).await;
        (answer.status == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn pending_is_paged_without_losing_or_repeating_any() {
    let api = api().await;
    let hits: Vec<Value> = (0..7).map(|n| hit(&format!("run_{n}"), "snapshot_1")).collect();
    assert_eq!(api.schedule(&Value::from(hits)).await.status, 201);
    // Rows of one batch share their instant: the run tells them apart.
    let (mut seen, mut path) = (Vec::new(), "/v1/pending?limit=3".to_owned());
    loop {
        let page = api.get(&path).await.json();
        let rows = page["pending"].as_array().unwrap();
        seen.extend(rows.iter().map(|row| row["run_id"].as_str().unwrap().to_owned()));
        assert!(rows.iter().all(|row| row.get("message").is_none()));
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/pending?limit=3&after={next}"),
            None => break,
        }
    }
    seen.sort();
    assert_eq!(seen, (0..7).map(|n| format!("run_{n}")).collect::<Vec<_>>());
    for bad in ["limit=0", "limit=501", "after=x", "after=1.x", "status=odd", "colour=red"] {
        assert_eq!(api.get(&format!("/v1/pending?{bad}")).await.status, 422, "{bad}");
    }
}

#[tokio::test]
async fn a_filter_is_counted_before_it_is_cancelled_and_must_name_something() {
    let api = api().await;
    let hits: Vec<Value> = (0..5).map(|n| hit(&format!("run_{n}"), "snapshot_1")).collect();
    api.schedule(&Value::from(hits)).await;
    let post = async |body: Value| api.post("/v1/pending/cancel", body.to_string()).await;
    assert_eq!(post(json!({"filter": {}})).await.fields(), ["/filter"]);
    assert_eq!(post(json!({"filter": {"pool": 1}})).await.fields(), ["/filter/pool"]);
    let filter = json!({"pool": "default"});
    assert_eq!(post(json!({"filter": filter, "preview": true})).await.json(), json!({"matching": 5}));
    assert_eq!(post(json!({"filter": filter})).await.json(), json!({"cancelled": 5, "busy": 0}));
    let audited = api.get("/v1/audit").await.json();
    assert_eq!(audited[0]["action"], "cancel.filter");
    assert_eq!(audited[0]["actor"], "environment");
    assert_eq!(audited[0]["detail"], json!({"filter": filter, "cancelled": 5, "busy": 0}));
    api.db.assert_conserved().await;
}

#[tokio::test]
async fn a_pool_is_changed_whole_or_not_at_all() {
    let api = api().await;
    let patch = async |body: Value| {
        send(api.request(Method::PATCH, "/v1/pools/default").body(body.to_string())).await
    };
    let changed = patch(json!({"cap": 10, "cap_window_ms": 500, "delay_ms": 2000, "paused": true})).await;
    assert_eq!(changed.status, 200);
    assert_eq!(patch(json!({"cap": null})).await.json()["cap"], Value::Null, "null removes a setting");
    let now = patch(json!({})).await.json();
    assert_eq!((&now["delay_ms"], &now["paused"]), (&json!(2000), &json!(true)), "absent leaves it");
    let bad = patch(json!({"paused": false, "delay_ms": 5, "cap": -1})).await;
    assert_eq!(bad.fields(), ["/delay_ms", "/cap"]);
    assert_eq!(patch(json!({"colour": 1})).await.fields(), ["/colour"]);
    let paused: bool = api.db.value("select paused from pool").await;
    assert!(paused, "nothing of a bad change was written");
    let unknown = send(api.request(Method::PATCH, "/v1/pools/none").body("{}")).await;
    assert_eq!(unknown.status, 404);
}

#[tokio::test]
async fn an_operator_can_ask_for_a_probe_now() {
    let api = api().await;
    api.schedule(&hit("run_a", "snapshot_1")).await;
    let answer = api.post("/v1/runs/run_a/probe-now", "").await.json();
    assert_eq!(answer, json!({"run_id": "run_a", "probes_now": true, "early": "observe"}));
    let moved: bool =
        api.db.value("select probe_at <= clock_timestamp() and due_at > probe_at from pending").await;
    assert!(moved, "`due_at` never changes");
    let none = api.post("/v1/runs/run_z/probe-now", "").await.json();
    assert_eq!(none["probes_now"], false);
}

#[tokio::test]
async fn a_report_over_no_possible_time_is_refused_by_its_field() {
    let api = api().await;
    for since in [
        "0000-12-31T23:59:59Z",
        "-0001-01-01T00:00:00Z",
        "%2B10000-01-01T00:00:00Z",
        "%2B262142-12-31T00:00:00Z",
    ] {
        let refused = api.get(&format!("/v1/reports/silent-loss?since={since}")).await;
        assert_eq!((refused.status.as_u16(), refused.fields()), (422, vec!["since".to_owned()]), "{since}");
    }
    for since in ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"] {
        assert_eq!(api.get(&format!("/v1/reports/silent-loss?since={since}")).await.status, 200, "{since}");
    }
}

#[tokio::test]
async fn answers_are_kept_by_no_cache_and_a_callers_id_is_short_and_printable() {
    let api = api().await;
    let ask = async |id: &str| send(api.request(Method::GET, "/v1/pools").header("x-request-id", id)).await;
    let answer = ask(&"a".repeat(500)).await;
    assert_eq!(answer.header("x-request-id"), "a".repeat(128));
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(ask("req-1\u{a0}hidden").await.header("x-request-id"), "req-1");
    let problem = api.get("/v1/none").await;
    assert_eq!(problem.header("x-content-type-options"), "nosniff");
}

//! Tokens and payloads appear in no log line and in no answer.

use reqwest::Method;
use reqwest::header::AUTHORIZATION;
use serde_json::json;

use warmproof_testkit::api::{TOKEN, config, hit, send, serve};
use warmproof_testkit::db::db;
use warmproof_testkit::logs::captured_at;

const WRONG: &str = "planted-wrong-token-91ab";
const PAYLOAD: &str = "planted-payload-33d0";

// On one thread, so that the subscriber of this test sees the server's tasks too.
#[tokio::test]
async fn tokens_and_payloads_are_neither_logged_nor_answered() {
    let (logs, _guard) = captured_at("trace");
    let db = db().await;
    let store = db.callers();
    let api = serve(db, store.clone(), config()).await;
    let mut body = hit("run_a", "snapshot_a");
    body["dequeued_message"]["secretNote"] = json!(PAYLOAD);
    body["timings"] = json!({"note": PAYLOAD});
    let mut answers = vec![api.schedule(&body).await, api.schedule(&body).await];
    answers.push(api.get("/v1/runs/run_a").await);
    answers.push(api.cancel(&json!({"run_id": "run_a", "reason": "miss"})).await);
    answers.push(api.post("/v1/verifications", "{").await);
    answers.push(api.get("/nowhere").await);
    let wrong = api.anonymous(Method::GET, "/v1/runs/run_a").header(AUTHORIZATION, format!("Bearer {WRONG}"));
    answers.push(send(wrong).await);
    store.close().await;
    answers.push(api.schedule(&body).await);
    answers.push(send(api.anonymous(Method::GET, "/readyz")).await);

    let log = logs.text();
    assert!(log.contains("a request failed on the database"), "nothing was captured: {log}");
    for planted in [TOKEN, WRONG] {
        assert!(!log.contains(planted), "`{planted}` is in the log: {log}");
    }
    // At debug and above no payload is logged either; at trace a database driver logs its statements.
    assert!(!log.contains(PAYLOAD), "the payload is in the log: {log}");
    for answer in answers {
        for planted in [TOKEN, WRONG, PAYLOAD] {
            assert!(!answer.text.contains(planted), "`{planted}` in {answer:?}");
            assert!(!format!("{:?}", answer.headers).contains(planted), "`{planted}` in {answer:?}");
        }
    }
}

//! `POST /v1/verifications`: a caller schedules the verification of hits.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use warmproof::store::fall_back::Fenced;

use warmproof_testkit::api::{api, hit, hit_aged};
use warmproof_testkit::dispatch::{claim, everything};
use warmproof_testkit::dispatch::{claimed, settlement, started};

const FRESH: &str = include_str!("../../fixtures/dequeued-message.fresh.json");

#[tokio::test]
async fn a_hit_is_created_with_an_id_and_an_instant() {
    let api = api().await;
    let before: DateTime<Utc> = api.db.store.clock().await.unwrap();
    let answer = api.schedule(&hit("run_a", "snapshot_a")).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/json");
    let answer = answer.json();
    assert_eq!(answer["result"], "created");
    assert_eq!(answer["run_id"], "run_a");
    let id: Uuid = answer["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(id.get_version_num(), 7);
    let due_at = answer["due_at"].as_str().unwrap();
    assert!(due_at.ends_with('Z'), "{due_at}");
    let due_at = DateTime::parse_from_rfc3339(due_at).unwrap().to_utc();
    let delay = due_at - before;
    assert!(delay >= TimeDelta::seconds(10) && delay < TimeDelta::seconds(15), "{delay}");
    let stored: DateTime<Utc> = api.db.value("select due_at from pending").await;
    assert_eq!(due_at, stored);
    api.db.assert_conserved().await;
}

#[tokio::test]
async fn what_a_request_says_beside_the_message_is_kept() {
    let api = api().await;
    let mut body = hit("run_a", "snapshot_a");
    body["delay_ms"] = json!(1000);
    body["supervisor"] = json!("supervisor-ä/1");
    body["region"] = json!("eu-central-1");
    body["intent"] = json!("dispatch");
    body["pool"] = json!("default");
    assert_eq!(api.schedule(&body).await.status, 201);
    let kept: bool = api
        .db
        .value(
            "select due_at - scheduled_at = interval '1 second' and supervisor = 'supervisor-ä/1'
               and region = 'eu-central-1' and intent = 'dispatch' and deployment_version = '20260821.3'
               and traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' from pending",
        )
        .await;
    assert!(kept);
    let explicit_nulls = r#", "delay_ms": null, "pool": null, "supervisor": null, "region": null}"#;
    let text = hit("run_b", "snapshot_b").to_string();
    let text = format!("{}{explicit_nulls}", text.strip_suffix('}').unwrap());
    assert_eq!(api.post("/v1/verifications", text).await.status, 201, "null is the same as absent");
}

#[tokio::test]
async fn each_result_has_its_own_name() {
    let api = api().await;
    let ago = TimeDelta::seconds;
    let first = api.schedule(&hit_aged("run_a", "snapshot_b", ago(5))).await.json();
    assert_eq!(first["result"], "created");
    let again = api.schedule(&hit_aged("run_a", "snapshot_b", ago(5))).await;
    assert_eq!(again.status, 201);
    assert_eq!(again.json()["result"], "duplicate");
    assert_eq!(again.json()["due_at"], first["due_at"], "a duplicate keeps its instant");
    let older = api.schedule(&hit_aged("run_a", "snapshot_a", ago(9))).await.json();
    assert_eq!((&older["result"], &older["id"]), (&json!("outdated"), &first["id"]));
    let newer = api.schedule(&hit_aged("run_a", "snapshot_c", ago(1))).await.json();
    assert_eq!(newer["result"], "superseded");
    assert_ne!(newer["id"], first["id"]);
    api.db.assert_conserved().await;
}

#[tokio::test]
async fn what_has_ended_is_not_revived() {
    let api = api().await;
    let claim = claimed(&api.db.store, "run_a", "snapshot_a").await;
    let _ = api.db.store.settle(&[settlement(&claim, started())]).await.unwrap();
    let late = api.schedule(&hit_aged("run_a", "snapshot_a", TimeDelta::seconds(3))).await.json();
    assert_eq!((&late["result"], &late["id"]), (&json!("duplicate"), &json!(claim.key.id.to_string())));
}

#[tokio::test]
async fn an_array_is_answered_in_its_order_and_with_207_when_results_differ() {
    let api = api().await;
    let same = api.schedule(&json!([hit("run_a", "snapshot_a"), hit("run_b", "snapshot_b")])).await;
    assert_eq!(same.status, 201);
    let mixed = json!([
        hit("run_c", "snapshot_c"),
        hit_aged("run_a", "snapshot_a", TimeDelta::seconds(2)),
        hit("run_d", "snapshot_d"),
        hit("run_d", "snapshot_d"),
    ]);
    let answer = api.schedule(&mixed).await;
    assert_eq!(answer.status, 207, "{answer:?}");
    let reported: Vec<(String, String)> =
        answer.json().as_array().unwrap().iter().map(run_and_result).collect();
    let expected =
        [("run_c", "created"), ("run_a", "duplicate"), ("run_d", "created"), ("run_d", "duplicate")];
    assert_eq!(reported, expected.map(|(run, result)| (run.to_owned(), result.to_owned())));
    let one = api.schedule(&json!([hit("run_e", "snapshot_e")])).await;
    assert!(one.json().is_array(), "an array of one is answered with an array");
    api.db.assert_conserved().await;
}

fn run_and_result(answer: &Value) -> (String, String) {
    let text = |key: &str| answer[key].as_str().expect("a text").to_owned();
    (text("run_id"), text("result"))
}

#[tokio::test]
async fn a_dispatch_from_the_future_is_refused_by_its_field() {
    let api = api().await;
    let ahead = hit_aged("run_a", "snapshot_1", chrono::TimeDelta::seconds(-90));
    assert_eq!(api.schedule(&ahead).await.fields(), ["/dequeued_message/dequeuedAt"]);
    let array = json!([hit("run_b", "snapshot_1"), ahead]);
    assert_eq!(api.schedule(&array).await.fields(), ["/1/dequeued_message/dequeuedAt"]);
}

#[tokio::test]
async fn an_empty_array_asks_for_nothing_and_gets_it() {
    let api = api().await;
    let before = api.rows().await;
    let scheduled = api.post("/v1/verifications", " [ ] ").await;
    assert_eq!((scheduled.status.as_u16(), scheduled.text.as_str()), (201, "[]"));
    let cancelled = api.post("/v1/cancellations", "[]").await;
    assert_eq!((cancelled.status.as_u16(), cancelled.text.as_str()), (200, "[]"));
    assert_eq!(api.rows().await, before);
}

#[tokio::test]
async fn the_message_and_the_timings_are_kept_byte_for_byte() {
    let api = api().await;
    // White space, order of keys, escapes, a NUL, a lone surrogate and a number beyond a double.
    let odd =
        "{\r\n\t \"zz\" :\"a\\u0000b \\u00e9 \\uD83D\\uDE00 é 😀 \\/ \\ud800\", \"aa\":  1e400,\"aa\":-0.0 ,";
    let message = FRESH.trim().replacen('{', odd, 1);
    let timings = "{ \"dequeue\" : 1.50,\n \"note\":\"\\u0000\" }";
    let body =
        format!("  {{\"timings\":\n {timings} , \"dequeued_message\" : {message}  , \"intent\":\"hit\"}}\n");
    let answer = api.post("/v1/verifications", body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let claim = claim(&api.db.store, everything("default", 1)).await.pop().expect("the verification");
    let Fenced::Ours(stored) = api.db.store.message(&claim.key).await.expect("the message") else {
        panic!("stale");
    };
    assert_eq!(stored.message, message);
    assert_eq!(stored.timings.as_deref(), Some(timings));
}

#[tokio::test]
async fn a_pool_made_meanwhile_is_known_at_once() {
    let api = api().await;
    let mut body = hit("run_a", "snapshot_a");
    assert_eq!(api.schedule(&body).await.status, 201);
    body["pool"] = json!("blue / eu");
    let before = api.rows().await;
    assert_eq!(api.schedule(&body).await.fields(), ["/pool"]);
    assert_eq!(api.rows().await, before);
    api.db.run("insert into pool (name, delay_ms) values ('blue / eu', 2000)").await;
    let mut other = hit("run_b", "snapshot_b");
    other["pool"] = json!("blue / eu");
    assert_eq!(api.schedule(&other).await.status, 201);
    let delay: bool = api
        .db
        .value("select due_at - scheduled_at = interval '2 seconds' from pending where run_id = 'run_b'")
        .await;
    assert!(delay, "a pool's own delay counts before the default");
}

#[tokio::test]
async fn a_pool_removed_by_hand_is_refused_once_the_list_of_pools_is_read_again() {
    let api = api().await;
    api.db.run("insert into pool (name) values ('gone')").await;
    let mut of_gone = hit("run_a", "snapshot_a");
    of_gone["pool"] = json!("gone");
    assert_eq!(api.schedule(&of_gone).await.status, 201);
    api.db.run("delete from pool where name = 'gone'").await;
    let mut second = hit("run_b", "snapshot_b");
    second["pool"] = json!("gone");
    // The list of pools is a moment old, so the first element is written before the second is refused.
    let batch = json!([hit("run_c", "snapshot_c"), second]);
    let answer = api.schedule(&batch).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.problem()["type"], "urn:warmproof:conflict");
    assert_eq!(api.schedule(&batch).await.fields(), ["/1/pool"], "the list is read again");
    api.db.assert_conserved().await;
}

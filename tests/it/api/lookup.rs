//! `GET /v1/verifications/{id}` and `GET /v1/runs/{run}`: a verification, and its outcome.

use chrono::TimeDelta;
use serde_json::json;

use warmproof_testkit::api::{api, hit, hit_aged};
use warmproof_testkit::dispatch::{claim, everything, settlement, started};

#[tokio::test]
async fn a_verification_is_shown_in_each_of_its_states() {
    let api = api().await;
    let scheduled = api.schedule(&hit("run_a", "snapshot_a")).await.json();
    let path = format!("/v1/verifications/{}", scheduled["id"].as_str().unwrap());

    let pending = api.get(&path).await;
    assert_eq!(pending.status, 200);
    let pending = pending.json();
    assert_eq!((&pending["state"], &pending["id"]), (&json!("pending"), &scheduled["id"]));
    assert_eq!(pending["due_at"], scheduled["due_at"]);
    assert_eq!(pending["probe_at"], scheduled["due_at"]);
    assert!(pending.get("message").is_none(), "payloads are never shown");

    let claimed = claim(&api.db.store, everything("default", 9)).await.remove(0);
    let shown = api.get(&path).await.json();
    assert_eq!((&shown["state"], &shown["worker"]), (&json!("claimed"), &json!("worker-of-the-test")));
    assert!(shown["lease_expires_at"].as_str().is_some_and(|instant| instant.ends_with('Z')));
    assert!(shown.get("fence").is_none(), "the fence is never shown");

    let _ = api.db.store.settle(&[settlement(&claimed, started())]).await.unwrap();
    let settled = api.get(&path).await.json();
    assert_eq!((&settled["state"], &settled["outcome"]), (&json!("settled"), &json!("delivered")));
    assert_eq!((&settled["reason"], &settled["id"]), (&json!("started"), &scheduled["id"]));
}

#[tokio::test]
async fn a_runs_history_has_the_pending_one_first_and_then_the_newest() {
    let api = api().await;
    let mut ids = Vec::new();
    for (snapshot, age) in [("snapshot_a", 9), ("snapshot_b", 6), ("snapshot_c", 3)] {
        let answer = api.schedule(&hit_aged("run_a", snapshot, TimeDelta::seconds(age))).await.json();
        ids.insert(0, answer["id"].clone());
    }
    let answer = api.get("/v1/runs/run_a").await;
    assert_eq!(answer.status, 200);
    let history = answer.json();
    assert_eq!(history["run_id"], "run_a");
    let reported: Vec<_> = history["verifications"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["id"].clone(), one["state"].clone()))
        .collect();
    let states = ["pending", "settled", "settled"].map(|state| json!(state));
    assert_eq!(reported, ids.into_iter().zip(states).collect::<Vec<_>>());
    assert_eq!(history["verifications"][1]["outcome"], "superseded");
}

#[tokio::test]
async fn a_runs_history_tells_whether_its_fallback_helped() {
    let api = api().await;
    let scheduled = api.schedule(&hit("run_a", "snapshot_a")).await.json();
    let claimed = claim(&api.db.store, everything("default", 9)).await.remove(0);
    let _ = api.db.store.settle(&[settlement(&claimed, started())]).await.unwrap();
    assert_eq!(api.get("/v1/runs/run_a").await.json()["follow_ups"], json!([]));
    api.db
        .run(
            "insert into follow_up (verification_id, run_id, snapshot_id, pool, dequeued_at, settled_at, probe_at,
               probed_at, result, late)
             select id, run_id, snapshot_id, pool, dequeued_at, settled_at, now(), now(), 'not_started', false from outcome",
        )
        .await;
    let follow_ups = api.get("/v1/runs/run_a").await.json()["follow_ups"].take();
    assert_eq!(follow_ups.as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&follow_ups[0]["verification_id"], &follow_ups[0]["result"]),
        (&scheduled["id"], &json!("not_started"))
    );
}

#[tokio::test]
async fn what_is_not_there_is_a_404_and_what_is_no_id_a_422() {
    let api = api().await;
    for path in ["/v1/runs/run_none", "/v1/verifications/0199a1b2-0000-7000-8000-000000000000"] {
        let answer = api.get(path).await;
        assert_eq!(answer.status, 404);
        assert_eq!(answer.problem()["type"], "urn:warmproof:not-found");
    }
    for bad in ["run_a-b", "run_a_b", "snapshot_a", "run_", "run_%00", "run_%C3%A4"] {
        assert_eq!(api.get(&format!("/v1/runs/{bad}")).await.fields(), ["run"], "{bad}");
    }
    for bad in ["7", "not-a-uuid", "%00"] {
        assert_eq!(api.get(&format!("/v1/verifications/{bad}")).await.fields(), ["id"], "{bad}");
    }
    assert_eq!(api.get("/v1/runs/run_%FF").await.fields(), ["run"], "a path that is not UTF-8");
    assert_eq!(api.get("/v1/verifications/%FF").await.fields(), ["id"]);
}

//! `POST /v1/cancellations`: a caller cancels verifications.

use std::time::Duration;

use serde_json::json;
use warmproof::store::fall_back::{Fenced, Permit};

use warmproof_testkit::api::{api, hit};
use warmproof_testkit::dispatch::claimed;

#[tokio::test]
async fn a_cancel_ends_what_is_pending_and_says_which() {
    let api = api().await;
    for reason in ["connected", "miss", "operator"] {
        let scheduled = api.schedule(&hit("run_a", &format!("snapshot_{reason}"))).await.json();
        let answer = api.cancel(&json!({"run_id": "run_a", "reason": reason})).await;
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.json(),
            json!({"run_id": "run_a", "result": "cancelled", "id": scheduled["id"]}),
            "{reason}"
        );
        let stored: String =
            api.db.value("select reason from outcome order by settled_at desc limit 1").await;
        assert_eq!(stored, reason);
    }
    api.db.assert_conserved().await;
}

#[tokio::test]
async fn a_cancel_for_another_snapshot_touches_nothing() {
    let api = api().await;
    assert_eq!(api.schedule(&hit("run_a", "snapshot_new")).await.status, 201);
    let guarded = |snapshot| json!({"run_id": "run_a", "snapshot_id": snapshot, "reason": "connected"});
    let answer = api.cancel(&guarded("snapshot_old")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!({"run_id": "run_a", "result": "not_found"}));
    assert_eq!(api.db.value::<i64>("select count(*) from pending").await, 1);
    assert_eq!(api.cancel(&guarded("snapshot_new")).await.json()["result"], "cancelled");
}

#[tokio::test]
async fn a_cancel_after_the_permit_comes_too_late_and_is_noted() {
    let api = api().await;
    let claim = claimed(&api.db.store, "run_a", "snapshot_a").await;
    assert!(matches!(api.db.store.mark_lost(&claim.key, 1).await.unwrap(), Fenced::Ours(_)));
    let permit = api.db.store.permit_create(&claim.key, Duration::from_secs(1)).await.unwrap();
    assert_eq!(permit, Fenced::Ours(Permit::Granted));
    let answer = api.cancel(&json!({"run_id": "run_a", "reason": "connected"})).await;
    assert_eq!(answer.status, 200);
    let expected = json!({"run_id": "run_a", "result": "too_late", "id": claim.key.id.to_string()});
    assert_eq!(answer.json(), expected);
    assert!(api.db.value::<bool>("select connected_at is not null from pending").await);
}

#[tokio::test]
async fn an_array_is_answered_in_its_order_and_with_207_when_results_differ() {
    let api = api().await;
    for run in ["run_a", "run_b"] {
        assert_eq!(api.schedule(&hit(run, "snapshot_x")).await.status, 201);
    }
    let of = |run: &str| json!({"run_id": run, "reason": "miss"});
    let answer = api.cancel(&json!([of("run_a"), of("run_none"), of("run_b"), of("run_a")])).await;
    assert_eq!(answer.status, 207, "{answer:?}");
    let results: Vec<String> = answer
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|one| format!("{} {}", one["run_id"].as_str().unwrap(), one["result"].as_str().unwrap()))
        .collect();
    assert_eq!(results, ["run_a cancelled", "run_none not_found", "run_b cancelled", "run_a not_found"]);
    let none = api.cancel(&json!([of("run_a"), of("run_b")])).await;
    assert_eq!(none.status, 200, "all results agree");
    api.db.assert_conserved().await;
}

#[tokio::test]
async fn a_bad_cancel_names_its_field_and_ends_nothing() {
    let api = api().await;
    assert_eq!(api.schedule(&hit("run_a", "snapshot_a")).await.status, 201);
    let before = api.rows().await;
    let cases = [
        (json!({"run_id": "run_a"}), "/reason"),
        (json!({"run_id": "run_a", "reason": "bored"}), "/reason"),
        (json!({"run_id": "run_a", "reason": "miss\0"}), "/reason"),
        (json!({"reason": "miss"}), "/run_id"),
        (json!({"run_id": "run_a-b", "reason": "miss"}), "/run_id"),
        (json!({"run_id": "run_a_b", "reason": "miss"}), "/run_id"),
        (json!({"run_id": "run_a\0", "reason": "miss"}), "/run_id"),
        (json!({"run_id": 7, "reason": "miss"}), "/run_id"),
        (json!({"run_id": "run_a", "snapshot_id": "run_a", "reason": "miss"}), "/snapshot_id"),
        (json!({"run_id": "run_a", "snapshotId": "snapshot_b", "reason": "miss"}), "/snapshotId"),
    ];
    for (body, field) in cases {
        assert_eq!(api.cancel(&body).await.fields(), [field], "{body}");
        let good = json!({"run_id": "run_a", "reason": "miss"});
        let batch = json!([good, good, good, body, good]);
        assert_eq!(api.cancel(&batch).await.fields(), [format!("/3{field}")], "{batch}");
    }
    assert_eq!(api.rows().await, before);
    assert_eq!(api.db.value::<i64>("select count(*) from pending").await, 1);
}

//! A caller's open transaction on one run costs the calls for that run, and no other.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{PgConnection, Postgres, Transaction};
use warmproof::domain::ids::PoolName;

use warmproof_testkit::api::{Api, api, hit, send};
use warmproof_testkit::dispatch::{fresh, schedule};

/// Runs in one array, and how many of them a caller's transaction holds.
const MANY: usize = 60;
const HELD: usize = 20;

async fn hold(caller: &mut PgConnection, runs: &[String]) {
    sqlx::query("select from pending where run_id = any ($1) for update")
        .bind(runs)
        .execute(caller)
        .await
        .unwrap();
}

/// An API with some pending runs, and a transaction that holds the first of them.
async fn held() -> (Api, Vec<String>, Transaction<'static, Postgres>) {
    let api = api().await;
    let runs: Vec<String> = (0..MANY).map(|n| format!("run_{n}")).collect();
    for run in &runs {
        let _ = schedule(&api.db.store, fresh(run, "snapshot_1")).await;
    }
    let mut caller = api.db.pool().begin().await.unwrap();
    hold(&mut caller, &runs[..HELD]).await;
    (api, runs, caller)
}

fn results(answer: &Value) -> Vec<(&str, bool)> {
    let elements = answer.as_array().unwrap().iter();
    elements.map(|one| (one["result"].as_str().unwrap(), one["id"].is_string())).collect()
}

#[tokio::test]
async fn in_an_array_only_what_is_held_is_busy() {
    let (api, runs, caller) = held().await;
    let array: Vec<Value> = runs.iter().map(|run| hit(run, "snapshot_2")).collect();
    let answer = api.post("/v1/verifications", json!(array).to_string()).await;
    assert_eq!(answer.status, 207, "{answer:?}");
    for (n, result) in results(&answer.json()).into_iter().enumerate() {
        let expected = if n < HELD { ("busy", false) } else { ("superseded", true) };
        assert_eq!(result, expected, "run_{n}");
    }
    let array: Vec<Value> = runs.iter().map(|run| json!({"run_id": run, "reason": "miss"})).collect();
    let answer = api.cancel(&json!(array)).await;
    assert_eq!(answer.status, 207, "{answer:?}");
    for (n, result) in results(&answer.json()).into_iter().enumerate() {
        let expected = if n < HELD { ("busy", false) } else { ("cancelled", true) };
        assert_eq!(result, expected, "run_{n}");
    }
    caller.rollback().await.unwrap();
    assert_eq!(
        api.db.value::<i64>("select count(*) from pending where snapshot_id = 'snapshot_1'").await,
        20
    );
    let all_held = json!([{"run_id": "run_0", "reason": "miss"}]);
    let mut caller = api.db.pool().begin().await.unwrap();
    hold(&mut caller, &runs[..1]).await;
    assert_eq!(api.cancel(&all_held).await.status, 207, "one that is busy is no success");
    caller.rollback().await.unwrap();
    api.db.assert_conserved().await;
}

#[tokio::test]
async fn a_single_call_is_refused_as_busy_and_may_be_repeated() {
    let (api, _, caller) = held().await;
    // More than may wait beside the lanes at a time: all are answered.
    let schedules = (0..HELD).map(|n| {
        let body = hit(&format!("run_{n}"), "snapshot_2").to_string();
        api.post("/v1/verifications", body)
    });
    for answer in futures_util::future::join_all(schedules).await {
        assert_eq!(answer.status, 409, "{answer:?}");
        assert_eq!(answer.json()["type"], "urn:warmproof:busy");
    }
    let cancel = json!({"run_id": "run_0", "reason": "connected"});
    let answer = api.cancel(&cancel).await;
    assert_eq!(answer.status, 409, "{answer:?}");
    assert_eq!(api.schedule(&hit("run_other", "snapshot_1")).await.status, 201, "others go on");
    caller.rollback().await.unwrap();
    let again = api.schedule(&hit("run_0", "snapshot_2")).await;
    assert_eq!(again.status, 201);
    assert_eq!(again.json()["result"], "superseded");
    assert_eq!(api.cancel(&cancel).await.json()["result"], "cancelled");
    api.db.assert_conserved().await;
}

#[tokio::test]
async fn a_run_that_another_transaction_has_just_inserted_is_busy_too() {
    let api = api().await;
    let mut caller = api.db.pool().begin().await.unwrap();
    let new = fresh("run_a", "snapshot_1");
    let delay = std::time::Duration::from_secs(10);
    let _ = api.db.store.schedule_in(&mut caller, &new, delay).await.unwrap().unwrap();
    let array = json!([hit("run_a", "snapshot_1"), hit("run_b", "snapshot_1"), hit("run_c", "snapshot_1")]);
    let answer = api.post("/v1/verifications", array.to_string()).await;
    assert_eq!(results(&answer.json()), [("busy", false), ("created", true), ("created", true)]);
    caller.commit().await.unwrap();
    let again = api.schedule(&hit("run_a", "snapshot_1")).await;
    assert_eq!(again.json()["result"], "duplicate");
    api.db.assert_conserved().await;
}

#[tokio::test]
async fn what_was_written_beside_a_held_row_is_answered_as_written() {
    let api = api().await;
    let _ = schedule(&api.db.store, fresh("run_held", "snapshot_1")).await;
    let permitted = "update pending set lost_at = clock_timestamp(), create_permitted_at = clock_timestamp()";
    api.db.run(permitted).await;
    let _ = schedule(&api.db.store, fresh("run_b", "snapshot_1")).await;
    let mut caller = api.db.pool().begin().await.unwrap();
    hold(&mut caller, &["run_held".to_owned()]).await;
    let array = json!([hit("run_new", "snapshot_1"), hit("run_held", "snapshot_2")]);
    let answer = api.post("/v1/verifications", array.to_string()).await;
    assert_eq!(results(&answer.json()), [("created", true), ("busy", false)]);
    let array = json!([{"run_id": "run_b", "reason": "miss"}, {"run_id": "run_held", "reason": "miss"}]);
    let answer = api.cancel(&array).await;
    assert_eq!(results(&answer.json()), [("cancelled", true), ("busy", false)]);
    caller.rollback().await.unwrap();
    let answer = api.cancel(&array).await;
    assert_eq!(results(&answer.json()), [("not_found", false), ("too_late", true)]);
    api.db.assert_conserved().await;
}

#[tokio::test]
async fn a_cancel_by_filter_skips_what_is_held_and_says_how_many() {
    let (api, _, caller) = held().await;
    let filter = json!({"filter": {"pool": PoolName::default_pool().as_str()}});
    let request = api.request(Method::POST, "/v1/pending/cancel").body(filter.to_string());
    let answer = send(request).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json(), json!({"cancelled": MANY - HELD, "busy": HELD}));
    let noted: Value = api.db.value("select detail from audit order by id desc limit 1").await;
    assert_eq!((&noted["cancelled"], &noted["busy"]), (&json!(MANY - HELD), &json!(HELD)));
    caller.rollback().await.unwrap();
    api.db.assert_conserved().await;
}

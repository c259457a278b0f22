//! `schedule` and `cancel` with plain SQL, in a transaction of the caller's own.

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::Row;

use warmproof::domain::ids::RegionName;
use warmproof_testkit::db::{Db, db};
use warmproof_testkit::dispatch::{claimed, fresh, hit, message, schedule};

async fn call(db: &Db, message: &str) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("select result from warmproof.schedule($1::json)")
        .bind(message)
        .fetch_one(db.pool())
        .await
}

async fn cancel(db: &Db, run: &str, snapshot: Option<&str>, reason: &str) -> Result<String, sqlx::Error> {
    let text = "select result from warmproof.cancel($1, $2, $3)";
    sqlx::query_scalar(text).bind(run).bind(snapshot).bind(reason).fetch_one(db.pool()).await
}

/// The error's text and SQLSTATE.
fn refusal(error: &sqlx::Error) -> (String, String) {
    let error = error.as_database_error().unwrap_or_else(|| panic!("not the database's: {error}"));
    (error.message().to_owned(), error.code().expect("a SQLSTATE").into_owned())
}

const COLUMNS: &str = "snapshot_id, pool, supervisor, region, deployment_version, intent, dequeued_at, traceparent,
  timings, codec, due_at - scheduled_at as delay, probe_at = due_at as first, encode(message, 'escape') as message";

#[tokio::test]
async fn a_schedule_in_sql_writes_the_row_that_the_library_writes() {
    let db = db().await;
    let mut new = fresh("run_a", "snapshot_1");
    new.region = RegionName::parse("eu-central-1").ok();
    let raw = new.dispatch.message.get().to_owned();
    let row = async || -> Value {
        db.value(&format!("select row_to_json(p) from (select {COLUMNS} from pending) as p")).await
    };
    let store = db.store.clone().with_compression(warmproof::config::database::CompressionConfig {
        codec: warmproof::config::database::Codec::Raw,
        ..Default::default()
    });
    let _ = schedule(&store, new).await;
    let of_library = row().await;
    db.run("truncate pending, outcome_count").await;
    let made = sqlx::query(
        "select result, id::text, due_at > now() as later
         from warmproof.schedule($1::json, supervisor => 'supervisor-1', region => 'eu-central-1')",
    )
    .bind(&raw)
    .fetch_one(db.pool())
    .await
    .unwrap();
    assert_eq!(made.get::<String, _>("result"), "created");
    assert_eq!(made.get::<String, _>("id").as_bytes()[14], b'7', "a UUID of version 7");
    assert!(made.get::<bool, _>("later"));
    assert_eq!(row().await, of_library);
    assert!(of_library["message"].as_str().unwrap().contains("dequeuedAt"));
    db.assert_conserved().await;
}

#[tokio::test]
async fn calls_in_sql_follow_the_rules_and_hold_with_the_callers_transaction() {
    let db = db().await;
    let at = Utc::now();
    let (first, second) =
        (message("run_a", "snapshot_1", at), message("run_a", "snapshot_2", at + TimeDelta::seconds(1)));
    let mut tx = db.pool().begin().await.unwrap();
    let gone: String = sqlx::query_scalar("select result from warmproof.schedule($1::json)")
        .bind(first.get())
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    assert_eq!(gone, "created");
    tx.rollback().await.unwrap();
    assert_eq!(db.value::<i64>("select count(*) from pending").await, 0);

    assert_eq!(call(&db, first.get()).await.unwrap(), "created");
    assert_eq!(call(&db, first.get()).await.unwrap(), "duplicate");
    assert_eq!(call(&db, second.get()).await.unwrap(), "superseded");
    assert_eq!(call(&db, first.get()).await.unwrap(), "outdated");
    assert_eq!(cancel(&db, "run_a", Some("snapshot_1"), "connected").await.unwrap(), "not_found");
    assert_eq!(cancel(&db, "run_a", Some("snapshot_2"), "miss").await.unwrap(), "cancelled");
    assert_eq!(cancel(&db, "run_a", None, "operator").await.unwrap(), "not_found");

    let claim = claimed(&db.store, "run_b", "snapshot_1").await;
    let _ = db.store.mark_lost(&claim.key, 1).await.unwrap();
    let _ = db.store.permit_create(&claim.key, std::time::Duration::from_secs(1)).await.unwrap();
    assert_eq!(cancel(&db, "run_b", None, "connected").await.unwrap(), "too_late");
    db.assert_conserved().await;

    let mut old = db.pool().begin_with("begin isolation level repeatable read").await.unwrap();
    let refused = sqlx::query("select warmproof.cancel('run_b')").execute(&mut *old).await.unwrap_err();
    assert!(refusal(&refused).0.contains("needs a transaction at READ COMMITTED"));
}

#[tokio::test]
async fn what_cannot_be_scheduled_is_refused_with_its_field() {
    let db = db().await;
    let good: Value =
        serde_json::from_str(hit("run_a", "snapshot_1", TimeDelta::zero()).dispatch.message.get()).unwrap();
    let with = |pointer: &str, value: Value| {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
        bad.to_string()
    };
    for (message, field) in [
        ("[]".to_owned(), "JSON object"),
        ("null".to_owned(), "JSON object"),
        (with("/version", json!("2")), "`version`"),
        (with("/version", json!(1)), "`version`"),
        (with("/run", json!({})), "`run.friendlyId`"),
        (with("/run/friendlyId", json!(7)), "`run.friendlyId`"),
        (with("/run/friendlyId", json!("run_a-b")), "`run.friendlyId`"),
        (with("/snapshot/friendlyId", Value::Null), "`snapshot.friendlyId`"),
        (with("/snapshot/friendlyId", json!("run_a")), "`snapshot.friendlyId`"),
        (with("/dequeuedAt", json!("yesterday")), "`dequeuedAt`"),
        (with("/dequeuedAt", json!("2026-02-30T00:00:00Z")), "`dequeuedAt`"),
        (with("/dequeuedAt", json!(true)), "`dequeuedAt`"),
        (with("/dequeuedAt", json!({})), "`dequeuedAt`"),
        (with("/backgroundWorker/version", json!("a\tb")), "`backgroundWorker.version`"),
        (with("/backgroundWorker/version", json!("x".repeat(201))), "`backgroundWorker.version`"),
        (with("/backgroundWorker/version", json!("a\0b")), "NUL"),
    ] {
        let (text, state) = refusal(&call(&db, &message).await.unwrap_err());
        assert!(text.contains(field), "{message}: {text}");
        assert_eq!(state, "22023", "{text}");
    }
    for (arguments, field) in [
        ("pool => 'nowhere'", "`pool`"),
        ("pool => null", "`pool`"),
        ("intent => 'hope'", "`intent`"),
        ("delay_ms => 999", "`delay_ms`"),
        ("delay_ms => 60001", "`delay_ms`"),
        ("supervisor => ''", "`supervisor`"),
        ("region => e'a\\nb'", "`region`"),
    ] {
        let text = format!("select warmproof.schedule($1::json, {arguments})");
        let bound = sqlx::query(sqlx::AssertSqlSafe(text)).bind(good.to_string());
        let (text, state) = refusal(&bound.execute(db.pool()).await.unwrap_err());
        assert!(text.contains(field), "{arguments}: {text}");
        assert_eq!(state, "22023", "{text}");
    }
    for (run, snapshot, reason, field) in [
        ("a", None, "connected", "`run_id`"),
        ("run_a", Some("a"), "connected", "`snapshot_id`"),
        ("run_a", None, "boredom", "`reason`"),
    ] {
        let (text, state) = refusal(&cancel(&db, run, snapshot, reason).await.unwrap_err());
        assert!(text.contains(field) && state == "22023", "{text}");
    }
    // A second backslash makes it six characters of text.
    let harmless = with("/backgroundWorker/version", json!("\\u0000"));
    assert_eq!(call(&db, &harmless).await.unwrap(), "created");
    let millis = with("/dequeuedAt", json!(1_792_834_852_114_i64)).replace("run_a", "run_b");
    assert_eq!(call(&db, &millis).await.unwrap(), "created");
    let read: chrono::DateTime<Utc> =
        db.value("select dequeued_at from pending where run_id = 'run_b'").await;
    assert_eq!(read.timestamp_millis(), 1_792_834_852_114);
    db.assert_conserved().await;
}

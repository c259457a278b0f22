//! The operator's commands: the real binary against a real database.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use warmproof::domain::verification::CancelReason;

use warmproof_testkit::db::{Db, db};
use warmproof_testkit::dispatch::{cancellation, claimed, fresh, schedule, settlement, started};
use warmproof_testkit::process::Program;

/// The exit code and output of a command.
pub struct Answer {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }
}

pub async fn run(db: &Db, args: &[&str]) -> Answer {
    // A migration wants a session of its own.
    let (url, pooler) = match args {
        ["migrate", ..] => (db.direct_url(), Some("false")),
        _ => (db.url(), None),
    };
    let mut environment: BTreeMap<String, String> = [("WARMPROOF_DATABASE_URL".to_owned(), url)].into();
    environment.extend(pooler.map(|pooler| ("WARMPROOF_DATABASE_POOLER".to_owned(), pooler.to_owned())));
    let mut process = Program::of(args, environment).start();
    let code = process.ended().await;
    Answer { code, out: process.stdout().join("\n"), err: process.stderr().join("\n") }
}

async fn json_of(db: &Db, args: &[&str]) -> Value {
    let answer = run(db, &[args, &["--json"]].concat()).await;
    assert_eq!(answer.code, Some(0), "{args:?}: {}{}", answer.out, answer.err);
    answer.json()
}

#[tokio::test]
async fn pending_shows_totals_and_the_next_rows_to_probe() {
    let db = db().await;
    for run in ["run_a", "run_b", "run_c"] {
        let _ = schedule(&db.store, fresh(run, "snapshot_1")).await;
    }
    db.run("update pending set probe_at = probe_at - interval '5 s' where run_id = 'run_c'").await;
    let all = json_of(&db, &["pending"]).await;
    assert_eq!(all["counts"][0]["pending"], 3);
    let runs: Vec<&str> =
        all["pending"].as_array().unwrap().iter().map(|one| one["run_id"].as_str().unwrap()).collect();
    assert_eq!(runs, ["run_c", "run_a", "run_b"], "the next to probe comes first");
    let one = json_of(&db, &["pending", "--limit", "1"]).await;
    assert_eq!(one["pending"].as_array().unwrap().len(), 1);
    let none = json_of(&db, &["pending", "--status", "held"]).await;
    assert_eq!(none["pending"], json!([]));
    let reported = run(&db, &["pending", "--supervisor", "supervisor-1"]).await;
    assert!(reported.out.contains("run_a") && reported.out.contains("waiting"), "{}", reported.out);
}

#[tokio::test]
async fn cancel_takes_back_one_run_or_previews_and_cancels_a_filter() {
    let db = db().await;
    for run in ["run_a", "run_b", "run_c"] {
        let _ = schedule(&db.store, fresh(run, "snapshot_1")).await;
    }
    let one = run(&db, &["cancel", "run_a"]).await;
    assert_eq!(one.code, Some(0), "{}", one.err);
    let again = run(&db, &["cancel", "run_a"]).await;
    assert_eq!(again.code, Some(1), "there is nothing left to cancel");
    assert_eq!(run(&db, &["cancel", "run_b", "--snapshot", "snapshot_9"]).await.code, Some(1));

    let nothing = run(&db, &["cancel", "--yes"]).await;
    assert!(nothing.code == Some(1) && nothing.err.contains("name a run, or a filter"), "{}", nothing.err);
    assert_eq!(json_of(&db, &["cancel", "--pool", "default"]).await, json!({"matching": 2}));
    let left: i64 = db.value("select count(*) from pending").await;
    assert_eq!(left, 2, "a preview changes nothing");
    assert_eq!(
        json_of(&db, &["cancel", "--pool", "default", "--yes"]).await,
        json!({"cancelled": 2, "busy": 0})
    );
    let reasons: i64 = db.value("select count(*) from outcome where reason = 'operator'").await;
    assert_eq!(reasons, 3);
    let audited: Vec<String> =
        sqlx::query_scalar("select action from audit order by id").fetch_all(db.pool()).await.unwrap();
    assert_eq!(
        audited,
        ["cancel", "cancel", "cancel", "cancel.filter", "cancel.filter"],
        "before and after the deed"
    );
    let begins: bool =
        db.value("select (detail ->> 'begins')::boolean from audit order by id desc offset 1 limit 1").await;
    assert!(begins);
    let actor: String = db.value("select distinct actor from audit").await;
    assert!(actor.starts_with("cli:"), "{actor}");
    db.assert_conserved().await;
}

#[tokio::test]
async fn show_tells_why_a_run_was_cold_started_and_says_when_it_knows_nothing() {
    let db = db().await;
    let claim = claimed(&db.store, "run_a", "snapshot_1").await;
    let _ = db.store.settle(&[settlement(&claim, started())]).await.unwrap();
    let shown = json_of(&db, &["show", "run_a"]).await;
    assert_eq!(shown["outcomes"][0]["outcome"], "delivered");
    let reported = run(&db, &["show", "run_a"]).await.out;
    for text in [
        "delivered of snapshot snapshot_1",
        "scheduled in pool default by supervisor-1",
        "the run was started",
    ] {
        assert!(reported.contains(text), "{reported}");
    }
    let none = run(&db, &["show", "run_z"]).await;
    assert!(none.code == Some(1) && none.out.contains("never scheduled here"), "{}", none.out);
    let bad = run(&db, &["show", "z"]).await;
    assert!(bad.code == Some(1) && bad.err.contains("run_"), "{}", bad.err);
}

#[tokio::test]
async fn pools_are_shown_and_changed_and_a_bad_value_changes_nothing() {
    let db = db().await;
    assert_eq!(json_of(&db, &["pools"]).await["pools"][0]["name"], "default");
    assert_eq!(json_of(&db, &["pools", "cap", "default", "100", "--window-ms", "2000"]).await["cap"], 100);
    assert_eq!(json_of(&db, &["pools", "pause", "default"]).await["paused"], true);
    assert_eq!(json_of(&db, &["pools", "resume", "default"]).await["paused"], false);
    assert_eq!(json_of(&db, &["pools", "shadow", "default", "on"]).await["shadow"], true);
    assert_eq!(json_of(&db, &["pools", "delay", "default", "8000"]).await["delay_ms"], 8000);
    assert_eq!(json_of(&db, &["pools", "delay", "default", "none"]).await["delay_ms"], Value::Null);
    let changed = json_of(&db, &["pools", "on-connect", "default", "keep-watching"]).await;
    assert_eq!(
        (&changed["on_connect"], &changed["cap"], &changed["cap_window_ms"]),
        (&json!("keep_watching"), &json!(100), &json!(2000))
    );
    let before: i64 = db.value("select count(*) from audit").await;
    let bad = run(&db, &["pools", "delay", "default", "5"]).await;
    assert!(bad.code == Some(1) && bad.err.contains("`delay_ms`: must be from 1000 to 60000"), "{}", bad.err);
    let unknown = run(&db, &["pools", "pause", "defautl"]).await;
    assert!(unknown.code == Some(1) && unknown.err.contains("known pools: default"), "{}", unknown.err);
    let after: i64 = db.value("select count(*) from audit").await;
    assert_eq!((before, after), (7, 7));
}

#[tokio::test]
async fn a_token_is_shown_once_and_stored_as_a_hash() {
    let db = db().await;
    let made = run(&db, &["token", "create", "ci", "--scope", "read", "--scope", "schedule"]).await;
    let token = made.out.trim().to_owned();
    assert!(token.starts_with("wp_") && token.len() == 67, "{token}");
    assert!(!made.err.contains(&token));
    let listed = run(&db, &["token", "list"]).await.out;
    assert!(listed.contains("schedule, read") && !listed.contains(&token), "{listed}");
    let stored: Vec<u8> = db.value("select hash from token").await;
    assert_eq!(stored, warmproof::store::token::hash(&token));
    for reserved in ["cli:root", "sql:app", "environment", "system"] {
        let refused = run(&db, &["token", "create", reserved, "--scope", "read"]).await;
        assert!(
            refused.code == Some(1) && refused.err.contains("the audit shows other actors so"),
            "{}",
            refused.err
        );
    }
    let again = run(&db, &["token", "create", "ci", "--scope", "read"]).await;
    assert!(again.code == Some(1) && again.err.contains("a token `ci` exists already"), "{}", again.err);
    assert_eq!(run(&db, &["token", "revoke", "ci"]).await.code, Some(0));
    assert_eq!(run(&db, &["token", "revoke", "ci"]).await.code, Some(1));
}

#[tokio::test]
async fn the_doctor_grades_what_it_finds() {
    let db = db().await;
    let severity = async |check: &str| -> (Option<i32>, Value) {
        let answer = run(&db, &["doctor", "--json"]).await;
        let findings = answer.json()["findings"].as_array().unwrap().clone();
        let found = findings.into_iter().find(|finding| finding["check"] == check);
        (answer.code, found.unwrap_or_else(|| panic!("no {check}"))["severity"].clone())
    };
    assert_eq!(severity("pool default").await, (Some(1), json!("warning")), "no worker serves it");
    db.run(
        "insert into worker (name, version, in_flight, pools, backends, problems)
         values ('w1', '1', 0, '{default}', '{gateway}', '{null}')",
    )
    .await;
    assert_eq!(severity("pool default").await, (Some(0), json!("ok")));
    let _ = schedule(&db.store, fresh("run_a", "snapshot_1")).await;
    db.run("update pending set probe_at = probe_at - interval '5 min'").await;
    assert_eq!(severity("overdue").await, (Some(2), json!("error")));
    let reason = CancelReason::Operator;
    let _ = db.store.cancel(&[cancellation("run_a", None, reason)]).await.unwrap();
    db.run("delete from outcome_count where outcome = 'cancelled'").await;
    db.audit.rows_are_made_up();
    assert_eq!(severity("conservation").await, (Some(2), json!("error")));
}

#[tokio::test]
async fn an_unreachable_database_is_reported_with_a_hint() {
    let environment =
        [("WARMPROOF_DATABASE_URL".to_owned(), "postgres://nouser@127.0.0.1:1/none".to_owned())].into();
    let mut process = Program::of(&["doctor"], environment).start();
    assert_eq!(process.ended().await, Some(2));
    let reported = process.stdout().join("\n");
    assert!(reported.contains("ERROR") && reported.contains("check WARMPROOF_DATABASE_URL"), "{reported}");
    let mut completions = Program::of(&["completions", "bash"], [].into()).start();
    assert_eq!(completions.ended().await, Some(0));
    assert!(completions.stdout().join("\n").contains("_warmproof"));
}

#[tokio::test]
async fn migrate_prints_its_plan_and_the_schemas_version_as_json() {
    let db = db().await;
    let version = json_of(&db, &["migrate", "--check"]).await["version"].clone();
    assert!(version.as_i64().is_some_and(|version| version > 0), "{version}");
    let planned = json_of(&db, &["migrate", "--plan"]).await;
    assert_eq!((&planned["version"], &planned["pending"]), (&version, &json!([])));
    assert_eq!(json_of(&db, &["migrate"]).await["applied"], json!([]), "it is up to date");
    let sql = json_of(&db, &["migrate", "--sql"]).await;
    let last =
        sql["migrations"].as_array().and_then(|all| all.last()).unwrap()["name"].as_str().unwrap().to_owned();
    assert!(last.starts_with(&format!("V{version}__")), "{last}");
    assert_eq!(sql["roles"], json!([]), "not asked for");
}

#[tokio::test]
async fn a_missing_schema_is_reported_with_a_hint() {
    let db = db().await;
    let environment = [("WARMPROOF_DATABASE_URL", db.url()), ("WARMPROOF_SCHEMA", "nowhere".to_owned())];
    let environment = environment.map(|(name, value)| (name.to_owned(), value)).into();
    let mut process = Program::of(&["report"], environment).start();
    assert_eq!(process.ended().await, Some(1));
    let reported = process.stderr().join("\n");
    assert!(reported.contains("hint: run `warmproof migrate` first, or set WARMPROOF_SCHEMA"), "{reported}");
}

#[tokio::test]
async fn the_doctor_warns_of_stopped_cold_starts_and_the_audit_names_the_actor() {
    let db = db().await;
    assert_eq!(run(&db, &["pools", "cap", "default", "0"]).await.code, Some(0));
    let pools = run(&db, &["pools"]).await.out;
    assert!(pools.contains("cap 0"), "{pools}");
    let found = run(&db, &["doctor", "--json"]).await.json();
    let all = found["findings"].as_array().unwrap();
    let reported = all.iter().find(|one| one["check"] == "cold starts default").unwrap();
    assert_eq!(reported["severity"], "warning", "{reported}");
    let entries = json_of(&db, &["audit", "--limit", "1"]).await;
    assert_eq!((&entries[0]["action"], &entries[0]["target"]), (&json!("pool.change"), &json!("default")));
    assert!(entries[0]["actor"].as_str().unwrap().starts_with("cli:"), "{entries}");
    db.run("insert into pool (name, cap) values ('blue', 7), ('green', null)").await;
    let stopped = json_of(&db, &["pools", "stop", "--all"]).await;
    assert_eq!(stopped["stopped"].as_array().unwrap().len(), 2, "one has cap 0 already: {stopped}");
    assert_eq!(db.value::<i64>("select count(*) from pool where cap = 0").await, 3);
    let again = run(&db, &["pools", "cap", "blue", "7"]).await;
    let stop = run(&db, &["pools", "stop", "blue"]).await;
    assert_eq!((again.code, stop.code), (Some(0), Some(0)));
    assert!(stop.out.contains("warmproof pools cap blue 7"), "{}", stop.out);
    assert_eq!(json_of(&db, &["audit", "--limit", "1"]).await[0]["action"], "pool.stop");
    for wrong in [vec!["pools", "stop"], vec!["pools", "stop", "blue", "--all"]] {
        assert_eq!(run(&db, &wrong).await.code, Some(2), "{wrong:?}");
    }
    for command in
        [["pools", "stop", "nosuch"], ["pending", "--pool", "nosuch"], ["cancel", "--pool", "nosuch"]]
    {
        let refused = run(&db, &command).await;
        assert!(refused.code == Some(1) && refused.err.contains("unknown pool `nosuch`"), "{}", refused.err);
    }
}

#[tokio::test]
async fn losses_lead_from_a_rate_to_the_runs_behind_it() {
    let db = db().await;
    assert_eq!(json_of(&db, &["losses"]).await, json!([]));
    let _ = schedule(&db.store, fresh("run_lost", "snapshot_1")).await;
    db.run("update pending set lost_at = clock_timestamp() where run_id = 'run_lost'").await;
    let cancelled =
        db.store.cancel(&[cancellation("run_lost", None, CancelReason::Connected)]).await.unwrap();
    assert_eq!(cancelled.len(), 1);
    let losses = json_of(&db, &["losses", "--pool", "default"]).await;
    assert_eq!(
        (&losses[0]["run_id"], &losses[0]["fallback_result"]),
        (&json!("run_lost"), &json!("overtaken"))
    );
}

#[tokio::test]
async fn a_cancel_by_filter_skips_rows_that_another_transaction_holds() {
    let db = db().await;
    for run in ["run_a", "run_b", "run_c"] {
        let _ = schedule(&db.store, fresh(run, "snapshot_1")).await;
    }
    let mut caller = db.pool().begin().await.unwrap();
    sqlx::query("select from pending where run_id = 'run_b' for update").execute(&mut *caller).await.unwrap();
    let printed = json_of(&db, &["cancel", "--pool", "default", "--yes"]).await;
    assert_eq!(printed, json!({"cancelled": 2, "busy": 1}));
    let one = run(&db, &["cancel", "run_b"]).await;
    assert!(one.code == Some(1) && one.out.contains("another transaction holds its row"), "{}", one.out);
    caller.rollback().await.unwrap();
    db.assert_conserved().await;
}

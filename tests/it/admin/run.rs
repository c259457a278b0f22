//! The page of a run: a search finds it, it lists its history, and only operators see its message, masked.

use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use warmproof::domain::dispatch::Dispatch;
use warmproof::domain::outcome::{Ending, FallbackResult};

use warmproof_testkit::dispatch::{claimed, fresh, message, schedule, settlement, started};
use warmproof_testkit::page::{OPERATOR, READER, page};

#[tokio::test]
async fn a_run_or_a_verification_is_found_by_its_id() {
    let page = page().await;
    let _ = schedule(&page.db.store, fresh("run_a", "snapshot_1")).await;
    let mut browser = page.signed_in(READER).await;
    assert_eq!(browser.get("/runs?id=run_a").await.header("location"), "/runs/run_a");
    assert_eq!(browser.get("/runs?id=+run_a%20").await.header("location"), "/runs/run_a");
    let id: uuid::Uuid = page.db.value("select id from pending").await;
    assert_eq!(browser.get(&format!("/runs?id={id}")).await.header("location"), "/runs/run_a");
    for (absent, reported) in [
        ("run_z!", "letters and digits"),
        ("x", "must start with"),
        ("01a2136f-0441-7076-b993-b35ad266bcdb", "never scheduled"),
    ] {
        let answer = browser.get(&format!("/runs?id={absent}")).await;
        assert_eq!(answer.status, 404, "{absent}");
        assert!(answer.text.contains(reported), "{absent}: {}", answer.text);
    }
    let unknown = browser.get("/runs/run_none").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.text.contains("never scheduled here"), "{}", unknown.text);
}

#[tokio::test]
async fn a_run_page_shows_its_life_from_hit_to_outcome() {
    let page = page().await;
    let store = &page.db.store;
    let mut browser = page.signed_in(READER).await;
    let claim = claimed(store, "run_a", "snapshot_1").await;
    let held = browser.get("/runs/run_a").await.text;
    for reported in
        ["Warm-start hit scheduled", "by supervisor-1", "In flight at worker-of-the-test", "claimed"]
    {
        assert!(held.contains(reported), "`{reported}` is missing: {held}");
    }
    let _ = store.mark_lost(&claim.key, 1).await.unwrap();
    let ending = Ending::Fallback {
        result: FallbackResult::Failed,
        error: Some("the gateway is <b>down</b>".to_owned()),
    };
    let _ = store.settle(&[settlement(&claim, ending)]).await.unwrap();
    let lost = browser.get("/runs/run_a").await.text;
    let order =
        ["Dequeued", "Warm-start hit scheduled", "Verdict: lost", "Fallback: no create was confirmed"];
    let places: Vec<usize> = order
        .iter()
        .map(|reported| lost.find(reported).unwrap_or_else(|| panic!("`{reported}` is missing: {lost}")))
        .collect();
    assert!(places.is_sorted(), "{places:?}");
    assert!(lost.contains("Claimed by worker-of-the-test") && lost.contains("took 3 ms"), "{lost}");
    assert!(lost.contains("the gateway is &#60;b&#62;down"), "{lost}");

    let claim = claimed(store, "run_b", "snapshot_1").await;
    let _ = store.settle(&[settlement(&claim, started())]).await.unwrap();
    assert!(browser.get("/runs/run_b").await.text.contains("Delivered: the run was started"));
}

#[tokio::test]
async fn an_operator_can_ask_for_a_probe_now() {
    let page = page().await;
    let _ = schedule(&page.db.store, fresh("run_a", "snapshot_1")).await;
    let mut browser = page.signed_in(OPERATOR).await;
    let asked = browser.submit("/runs/run_a", "/runs/run_a/probe-now", &[]).await;
    assert_eq!(asked.header("location"), "/runs/run_a?probes=observed");
    let text = browser.get("/runs/run_a?probes=observed").await.text;
    assert!(text.contains("what the probe sees changes nothing"), "{text}");
    let acts = browser.submit("/runs/run_a", "/runs/run_a/probe-now", &[("act", "yes")]).await;
    assert_eq!(acts.header("location"), "/runs/run_a?probes=early");
    let none = browser.submit("/runs/run_a", "/runs/run_z/probe-now", &[]).await;
    assert_eq!(none.header("location"), "/runs/run_z?probes=not");
    let (actor, action, target, _) = page.audited().await.swap_remove(0);
    assert_eq!(
        (actor.as_str(), action.as_str(), target.as_deref()),
        ("operator", "probe_now", Some("run_a"))
    );
}

#[tokio::test]
async fn the_message_is_for_operators_masked_and_audited() {
    let page = page().await;
    let raw = message("run_a", "snapshot_1", chrono::Utc::now());
    let mut body: Value = serde_json::from_str(raw.get()).unwrap();
    body["envVars"] = json!({"DATABASE": "p1anted"});
    body["run"]["publicToken"] = json!("p1anted");
    body["note"] = json!("</pre><script>alert(1)</script>");
    let mut new = fresh("run_a", "snapshot_1");
    let timings = to_raw_value(&json!({"apiKey": "p1anted", "dequeue": 3})).unwrap();
    new.dispatch = Dispatch::parse(to_raw_value(&body).unwrap(), Some(timings)).unwrap();
    let _ = schedule(&page.db.store, new).await;

    let mut browser = page.signed_in(OPERATOR).await;
    assert!(!browser.get("/runs/run_a").await.text.contains("isTest"), "not without a click");
    let shown = browser.submit("/runs/run_a", "/runs/run_a/message", &[]).await;
    assert_eq!(shown.status, 200);
    assert!(!shown.text.contains("p1anted"), "{}", shown.text);
    assert!(shown.text.contains("isTest") && shown.text.contains("dequeue"), "{}", shown.text);
    assert!(!shown.text.contains("<script>alert"), "{}", shown.text);
    let (actor, action, target, _) = page.audited().await.swap_remove(0);
    assert_eq!(
        (actor.as_str(), action.as_str(), target.as_deref()),
        ("operator", "message.show", Some("run_a"))
    );
    let gone = browser.submit("/runs/run_a", "/runs/run_z/message", &[]).await;
    assert!(gone.text.contains("Nothing is pending for this run any more"), "{}", gone.text);
}

//! Pools are changed by forms, as they are over HTTP: whole or not at all.

use serde_json::json;

use warmproof_testkit::page::{OPERATOR, page};

#[tokio::test]
async fn switches_and_settings_are_changed_and_audited() {
    let page = page().await;
    let mut browser = page.signed_in(OPERATOR).await;
    let change = async |browser: &mut warmproof_testkit::page::Browser, fields: &[(&str, &str)]| {
        browser.submit("/pools", "/pools/change", fields).await
    };
    let paused = change(&mut browser, &[("pool", "default"), ("paused", "yes")]).await;
    assert_eq!(paused.header("location"), "/pools?changed=1");
    let shown = browser.get("/pools?changed=1").await.text;
    assert!(shown.contains("Resume") && shown.contains(">paused<") && shown.contains("Changed."), "{shown}");
    assert!(browser.get("/").await.text.contains("default is paused"), "the overview warns");

    let all = [
        ("pool", "default"),
        ("settings", "1"),
        ("delay_ms", "8000"),
        ("cap", "10"),
        ("cap_window_ms", "2000"),
        ("cool_down_ms", "1000"),
        ("follow_up_after_ms", ""),
        ("on_connect", "keep_watching"),
    ];
    assert_eq!(change(&mut browser, &all).await.status, 303);
    let stored: String = page
        .db
        .value("select concat_ws(' ', paused, delay_ms, cap, cap_window_ms, cool_down_ms, follow_up_after_ms, on_connect) from pool")
        .await;
    assert_eq!(stored, "t 8000 10 2000 1000 keep_watching");
    let (actor, action, target, detail) = page.audited().await.swap_remove(0);
    assert_eq!(
        (actor.as_str(), action.as_str(), target.as_deref()),
        ("operator", "pool.change", Some("default"))
    );
    assert_eq!(detail["cap"], json!(10));
}

#[tokio::test]
async fn a_bad_value_is_reported_and_nothing_is_written() {
    let page = page().await;
    let mut browser = page.signed_in(OPERATOR).await;
    let bad: [(&[(&str, &str)], &str); 5] = [
        (&[("pool", "none"), ("paused", "yes")], "no such pool"),
        (&[("pool", "a\0b"), ("paused", "yes")], "no such pool"),
        (&[("pool", "default")], "The form changes nothing"),
        (&[("pool", "default"), ("settings", "1"), ("delay_ms", "5")], "from 1000 to 60000"),
        (&[("pool", "default"), ("settings", "1"), ("cap", "many")], "must be a whole number"),
    ];
    for (fields, reported) in bad {
        let answer = browser.submit("/pools", "/pools/change", fields).await;
        assert_eq!(answer.status, 422, "{fields:?}");
        assert!(answer.text.contains(reported), "{fields:?}: {}", answer.text);
    }
    assert!(page.audited().await.iter().all(|(_, action, _, _)| action != "pool.change"));
}

#[tokio::test]
async fn cold_starts_of_one_pool_or_of_all_are_stopped_at_once_and_audited() {
    let page = page().await;
    page.db.run("insert into pool (name, cap) values ('batch', 7), ('stopped', 0)").await;
    let mut browser = page.signed_in(OPERATOR).await;
    let caps = "select string_agg(name || ' ' || coalesce(cap::text, 'none'), ', ' order by name) from pool";
    let one = browser.submit("/pools", "/pools/stop", &[("pool", "batch")]).await;
    assert_eq!(one.header("location"), "/pools?stopped=1");
    assert_eq!(page.db.value::<String>(caps).await, "batch 0, default none, stopped 0");
    let all = browser.submit("/pools", "/pools/stop", &[("all", "yes")]).await;
    assert_eq!(all.header("location"), "/pools?stopped=1", "the others were stopped before");
    assert_eq!(page.db.value::<String>(caps).await, "batch 0, default 0, stopped 0");
    let shown = browser.get("/pools?stopped=1").await.text;
    assert!(shown.contains("Stop all cold starts") && shown.contains("its cap is 0"), "{shown}");
    for (pool, cap) in [("default", json!(null)), ("batch", json!(7))] {
        let noted =
            page.audited().await.into_iter().find(|(_, _, target, _)| target.as_deref() == Some(pool));
        let (actor, action, _, detail) = noted.unwrap();
        assert_eq!((actor.as_str(), action.as_str()), ("operator", "pool.stop"));
        assert_eq!(detail, json!({ "cap_before": cap }));
    }
    for bad in [
        &[("pool", "none")][..],
        &[("pool", "a\0b")],
        &[],
        &[("all", "no")],
        &[("pool", "batch"), ("all", "yes")],
    ] {
        assert_eq!(browser.submit("/pools", "/pools/stop", bad).await.status, 422, "{bad:?}");
    }
}

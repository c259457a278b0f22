//! A cancel shows a preview, acts when it is confirmed, and writes an audit entry.

use serde_json::json;

use warmproof::domain::ids::RegionName;
use warmproof_testkit::dispatch::{claimed, fresh, schedule};
use warmproof_testkit::page::{OPERATOR, page};

#[tokio::test]
async fn chosen_rows_are_shown_then_cancelled_and_audited() {
    let page = page().await;
    for run in ["run_a", "run_b", "run_c"] {
        let _ = schedule(&page.db.store, fresh(run, "snapshot_1")).await;
    }
    let mut browser = page.signed_in(OPERATOR).await;
    let rows = [("row", "run_a snapshot_1"), ("row", "run_b snapshot_1")];
    let shown = browser.submit("/pending", "/pending/cancel", &rows).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    assert!(shown.text.contains("Cancel 2 verifications?"), "{}", shown.text);
    assert!(shown.text.contains("run_a") && !shown.text.contains("run_c"), "{}", shown.text);
    let pending: i64 = page.db.value("select count(*) from pending").await;
    assert_eq!(pending, 3, "a preview changes nothing");

    let done = browser.submit("/pending", "/pending/cancel/confirmed", &rows).await;
    assert_eq!(done.header("location"), "/pending?cancelled=2&of=2");
    assert!(browser.get("/pending?cancelled=2&of=2").await.text.contains("2 of 2 cancelled"));
    let left: String = page.db.value("select string_agg(run_id, ',') from pending").await;
    assert_eq!(left, "run_c");
    let (actor, action, _, detail) = page.audited().await.swap_remove(0);
    assert_eq!((actor.as_str(), action.as_str()), ("operator", "cancel"));
    assert_eq!(detail, json!({"runs": ["run_a", "run_b"]}));
    assert!(browser.get("/audit").await.text.contains("run_b"), "the page shows it");
    page.db.assert_conserved().await;
}

#[tokio::test]
async fn a_newer_dispatch_is_not_cancelled_in_place_of_what_was_seen() {
    let page = page().await;
    let _ = schedule(&page.db.store, fresh("run_a", "snapshot_2")).await;
    let mut browser = page.signed_in(OPERATOR).await;
    let done = browser.submit("/pending", "/pending/cancel/confirmed", &[("row", "run_a snapshot_1")]).await;
    assert_eq!(done.header("location"), "/pending?cancelled=0&of=1");
    let pending: i64 = page.db.value("select count(*) from pending").await;
    assert_eq!(pending, 1);
}

#[tokio::test]
async fn a_filter_is_counted_first_and_must_name_something() {
    let page = page().await;
    for run in ["run_a", "run_b", "run_c", "run_d"] {
        let mut new = fresh(run, "snapshot_1");
        new.region = RegionName::parse(if run == "run_d" { "elsewhere" } else { "here" }).ok();
        let _ = schedule(&page.db.store, new).await;
    }
    let mut browser = page.signed_in(OPERATOR).await;
    assert!(!browser.get("/pending").await.text.contains("Cancel all that match"));
    assert!(browser.get("/pending?region=here").await.text.contains("Cancel all that match"));
    let fields = [("by", "filter"), ("region", "here")];
    let shown = browser.submit("/pending", "/pending/cancel", &fields).await;
    assert!(shown.text.contains("Cancel 3 verifications?"), "{}", shown.text);
    assert!(!shown.text.contains("run_d"), "{}", shown.text);
    let nothing = browser.submit("/pending", "/pending/cancel", &[("by", "filter"), ("region", "")]).await;
    assert_eq!(nothing.status, 422);
    let none =
        browser.submit("/pending", "/pending/cancel", &[("by", "filter"), ("region", "nowhere")]).await;
    assert!(none.text.contains("disabled"), "there is nothing to confirm: {}", none.text);

    let done = browser.submit("/pending", "/pending/cancel/confirmed", &fields).await;
    assert_eq!(done.header("location"), "/pending?cancelled=3");
    let (actor, action, _, detail) = page.audited().await.swap_remove(0);
    assert_eq!((actor.as_str(), action.as_str()), ("operator", "cancel.filter"));
    assert_eq!(detail, json!({"filter": {"region": "here"}, "cancelled": 3, "busy": 0}));
    page.db.assert_conserved().await;
}

#[tokio::test]
async fn the_count_of_a_filter_is_that_of_its_pages() {
    use warmproof::domain::status::Status;
    use warmproof::store::pending::PendingFilter;
    let page = page().await;
    let _ = claimed(&page.db.store, "run_a", "snapshot_1").await;
    for run in ["run_b", "run_c", "run_d"] {
        let _ = schedule(&page.db.store, fresh(run, "snapshot_1")).await;
    }
    page.db
        .run("update pending set probe_at = probe_at - interval '1 hour' where run_id in ('run_a', 'run_b')")
        .await;
    page.db
        .run("update pending set lost_at = clock_timestamp(), hold_reason = 'cap' where run_id = 'run_c'")
        .await;
    let mut filters = vec![PendingFilter::default()];
    filters
        .extend(Status::ALL.map(|status| PendingFilter { status: Some(status), ..PendingFilter::default() }));
    // All; then claimed, overdue, held, lost, waiting.
    let expected = [4, 1, 1, 1, 0, 1];
    for (filter, expected) in filters.iter().zip(expected) {
        let listed = page.db.store.pending_page(filter, None, 100).await.unwrap().len();
        let counted = page.db.store.count_pending(filter, 100).await.unwrap();
        assert_eq!((listed, counted), (expected, u32::try_from(expected).unwrap()), "{filter:?}");
    }
    assert_eq!(page.db.store.count_pending(&filters[0], 2).await.unwrap(), 2, "the count stops at the limit");
}

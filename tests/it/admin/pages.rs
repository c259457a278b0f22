//! What the overview and the pages of losses and workers show.

use warmproof::domain::ids::{PoolName, RegionName, WorkerName};
use warmproof::domain::verification::CancelReason;
use warmproof::store::fleet::{Beat, WorkerPool};

use warmproof_testkit::dispatch::{cancellation, claimed, fresh, schedule, settlement, started};
use warmproof_testkit::page::{Page, READER, page};

/// The figure of a tile.
fn figure(html: &str, tile: &str) -> String {
    let rest = html.split(&format!("data-value=\"{tile}\">")).nth(1).unwrap_or_else(|| panic!("no {tile}"));
    rest.split('<').next().unwrap().replace('\u{202f}', " ")
}

async fn beat(page: &Page, worker: &str, problem: Option<&str>) {
    let worker = WorkerName::parse(worker).unwrap();
    let pool = PoolName::default_pool();
    let pools = [WorkerPool { pool, backend: "gateway", problem: problem.map(str::to_owned) }];
    page.db.store.beat(&Beat { worker: &worker, in_flight: 3, pools: &pools }).await.unwrap();
}

#[tokio::test]
async fn the_overview_tells_what_there_is_and_what_is_wrong() {
    let page = page().await;
    let store = &page.db.store;
    for run in ["run_a", "run_b", "run_c"] {
        let _ = schedule(store, fresh(run, "snapshot_1")).await;
    }
    let gone = [cancellation("run_c", None, CancelReason::Connected)];
    let _ = store.cancel(&gone).await.unwrap();
    let claim = claimed(store, "run_d", "snapshot_1").await;
    let _ = store.settle(&[settlement(&claim, started())]).await.unwrap();
    let mut browser = page.signed_in(READER).await;
    let shown = browser.get("/").await.text;
    assert_eq!(figure(&shown, "pending"), "2");
    assert_eq!(figure(&shown, "loss"), "0.0 %");
    assert_eq!(figure(&shown, "workers"), "0");
    assert_eq!(figure(&shown, "conservation"), "0");
    assert!(
        shown.contains("No running worker serves default, and 2 verifications are pending in it"),
        "{shown}"
    );
    assert!(shown.contains("0 of 2"), "{shown}");

    beat(&page, "worker-1", None).await;
    beat(&page, "worker-2", Some("the gateway refuses our token")).await;
    page.db
        .run(
            "update pending set probe_at = probe_at - interval '1 minute', due_at = due_at - interval '1 minute',
               scheduled_at = scheduled_at - interval '1 minute',
               lease_expires_at = lease_expires_at - interval '1 hour'",
        )
        .await;
    let shown = browser.get("/").await.text;
    assert_eq!(figure(&shown, "workers"), "2");
    assert!(shown.contains("2 verifications of default are overdue"), "{shown}");
    assert!(shown.contains("worker-2: the gateway refuses our token"), "{shown}");
    let workers = browser.get("/workers").await.text;
    assert!(workers.contains("2 running") && workers.contains("the gateway refuses our token"), "{workers}");
}

#[tokio::test]
async fn losses_are_grouped_by_what_the_request_names() {
    let page = page().await;
    let store = &page.db.store;
    for (run, region) in [("run_a", "here"), ("run_b", "there"), ("run_c", "there")] {
        let mut new = fresh(run, "snapshot_1");
        new.region = RegionName::parse(region).ok();
        let _ = schedule(store, new).await;
    }
    let claims =
        warmproof_testkit::dispatch::claim(store, warmproof_testkit::dispatch::everything("default", 9))
            .await;
    for claim in claims {
        if claim.key.run_id.as_str() == "run_b" {
            let _ = store.mark_lost(&claim.key, 1).await.unwrap();
        }
        let _ = store.settle(&[settlement(&claim, started())]).await.unwrap();
    }
    let mut browser = page.signed_in(READER).await;
    for since in ["1h", "6h", "24h", "7d", "30d"] {
        let shown = browser.get(&format!("/losses?by=region&since={since}")).await.text;
        let (there, here) = (shown.find(">there<").expect("there"), shown.find(">here<").expect("here"));
        assert!(there < here, "the highest loss rate comes first: {shown}");
        assert!(shown.replace('\u{202f}', " ").contains("50.0 %"), "{since}: {shown}");
        assert!(shown.contains("1 of 3"), "{since}: {shown}");
    }
    for bad in ["since=1y", "by=colour", "since=%3Cscript%3E"] {
        let answer = browser.get(&format!("/losses?{bad}")).await;
        assert_eq!(answer.status, 422, "{bad}");
        assert!(!answer.text.contains("<script>"), "{bad}");
    }
    assert_eq!(browser.get("/losses?by=version").await.status, 200);
}

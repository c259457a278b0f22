//! Hostile strings in every field that a page shows: each page shows them as text.

use chrono::Utc;
use serde_json::{Value, json};
use warmproof::domain::dispatch::Dispatch;
use warmproof::domain::ids::{PoolName, RegionName, SupervisorName, WorkerName};
use warmproof::domain::outcome::{Ending, FallbackResult};
use warmproof::domain::pool::PoolSettings;
use warmproof::store::audit::Actor;
use warmproof::store::fleet::{Beat, WorkerPool};
use warmproof::store::pool::PoolChange;
use warmproof::store::token::Scope;

use warmproof_testkit::dispatch::{everything, fresh, message, schedule, settlement};
use warmproof_testkit::page::{Page, page, token};

const TAG: &str = "<script>alert(1)</script>";
const QUOTES: &str = "\"onmouseover='x' `}{{7*7}}&amp;&lt;";
const MIRROR: &str = "a\u{202e}txt.exe\u{2066}\u{200f}";

/// Of 200 bytes at most, with the place in it, so that each can be found again.
fn nasty(place: &str) -> String {
    let all = format!("{place} {TAG} {QUOTES} {MIRROR} {}", "w".repeat(200));
    all.chars()
        .scan(0, |bytes, c| {
            *bytes += c.len_utf8();
            (*bytes <= 200).then_some(c)
        })
        .collect()
}

async fn fill(page: &Page) -> String {
    let store = &page.db.store;
    let pool = PoolName::parse(nasty("pool")).unwrap();
    store.ensure_pools(&[(pool.clone(), PoolSettings::default())]).await.unwrap();
    let long = format!("run_{}", "x".repeat(196));
    for run in [long.as_str(), "run_lost"] {
        let mut body: Value = serde_json::from_str(message(run, "snapshot_1", Utc::now()).get()).unwrap();
        body["backgroundWorker"]["version"] = json!(nasty("version"));
        let mut new = fresh(run, "snapshot_1");
        new.dispatch = Dispatch::parse(serde_json::value::to_raw_value(&body).unwrap(), None).unwrap();
        new.supervisor = SupervisorName::parse(nasty("supervisor")).ok();
        new.region = RegionName::parse(nasty("region")).ok();
        new.pool = pool.clone();
        let _ = schedule(store, new).await;
    }
    let worker = WorkerName::parse(nasty("worker")).unwrap();
    let served = [WorkerPool { pool: pool.clone(), backend: "docker", problem: Some(nasty("problem")) }];
    store.beat(&Beat { worker: &worker, in_flight: 1, pools: &served }).await.unwrap();
    let claims = warmproof_testkit::dispatch::claim(store, everything(pool.as_str(), 9)).await;
    let lost = claims.iter().find(|claim| claim.key.run_id.as_str() == "run_lost").unwrap();
    let _ = store.mark_lost(&lost.key, 1).await.unwrap();
    let mut end =
        settlement(lost, Ending::Fallback { result: FallbackResult::Failed, error: Some(nasty("error")) });
    end.workload = Some(nasty("workload"));
    let _ = store.settle(&[end]).await.unwrap();
    sqlx::query("update pending set worker = $1, last_error = $2, lease_expires_at = clock_timestamp() + interval '1 hour'")
        .bind(worker.as_str())
        .bind(nasty("last-error"))
        .execute(page.db.pool())
        .await
        .unwrap();
    let change = PoolChange { cap: Some(Some(7)), ..PoolChange::default() };
    store.change_pool(pool.as_str(), &change, &Actor(nasty("actor"))).await.unwrap();
    long
}

#[tokio::test]
async fn hostile_strings_are_text_on_every_page() {
    let page = page().await;
    let long = fill(&page).await;
    token(&page.db, &nasty("token"), "wp_nasty-0123456789abcdef", &[Scope::Operate]).await;
    let mut browser = page.signed_in("wp_nasty-0123456789abcdef").await;
    let run = format!("/runs/{long}");
    let pool = url::form_urlencoded::byte_serialize(nasty("pool").as_bytes()).collect::<String>();
    let filtered = format!("/pending?pool={pool}&supervisor={pool}&region={pool}&version={pool}");
    let sought = format!("/runs?id={pool}");
    let shown: [(&str, &[&str]); 11] = [
        ("/", &["pool", "problem", "token"]),
        ("/pending", &["pool", "supervisor", "worker", "last-error"]),
        (&filtered, &["pool"]),
        (&run, &["pool", "supervisor", "region", "version", "worker"]),
        ("/runs/run_lost", &["pool", "supervisor", "region", "version", "error", "workload"]),
        ("/losses?by=pool", &["pool"]),
        ("/losses?by=supervisor", &["supervisor"]),
        ("/losses?by=version", &["version"]),
        ("/workers", &["worker", "pool", "problem"]),
        ("/pools", &["pool", "problem"]),
        ("/audit", &["actor", "pool", "token"]),
    ];
    for (path, places) in shown {
        let answer = browser.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        for place in places {
            let text =
                format!("{place} &#60;script&#62;alert(1)&#60;/script&#62; &#34;onmouseover=&#39;x&#39;");
            assert!(answer.text.contains(&text), "{path} does not show `{place}`: {}", answer.text);
        }
        harmless(path, &answer.text);
    }
    let found = browser.get(&sought).await;
    assert_eq!(found.status, 404);
    harmless(&sought, &found.text);
    let row = format!("{long} snapshot_1");
    let preview = browser.submit("/pending", "/pending/cancel", &[("row", row.as_str())]).await;
    assert_eq!(preview.status, 200);
    harmless("the preview", &preview.text);
}

/// Fails if a hostile string added a tag, an attribute or a text direction.
fn harmless(path: &str, html: &str) {
    assert!(!html.contains("<script>"), "{path} holds a script");
    assert!(!html.contains("\"onmouseover"), "{path} holds an attribute");
    assert!(!html.contains("49&"), "{path} shows a computed result");
    for (at, _) in html.match_indices('\u{202e}') {
        let before = &html[..at];
        // In an attribute's value it turns nothing; in a text it must be isolated, and end with its element.
        let in_tag = before.rfind('<') > before.rfind('>');
        let isolated = ["<bdi>", "<option", "<title>"].iter().any(|open| {
            let close = open.replace('<', "</").replace('>', "");
            before.rfind(open).is_some_and(|opened| before.rfind(&close).is_none_or(|closed| closed < opened))
        });
        assert!(
            in_tag || isolated,
            "{path}: a direction is let loose: …{}",
            before.chars().rev().take(80).collect::<String>().chars().rev().collect::<String>()
        );
    }
}

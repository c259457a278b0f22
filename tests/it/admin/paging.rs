//! Lists are paged by key: no row is lost or shown twice.

use warmproof::store::audit::Actor;
use warmproof::store::pool::PoolChange;

use warmproof_testkit::dispatch::{DELAY, fresh};
use warmproof_testkit::page::{READER, page};

fn next(html: &str) -> Option<String> {
    let link = html.split("rel=\"next\" href=\"").nth(1)?;
    Some(link.split('"').next()?.replace("&#38;", "&").replace("&amp;", "&"))
}

#[tokio::test]
async fn pending_rows_are_each_on_one_page() {
    let page = page().await;
    let all: Vec<_> = (0..120).map(|n| fresh(&format!("run_{n:03}"), "snapshot_1")).collect();
    page.db.store.schedule(&all, DELAY).await.unwrap();
    let mut browser = page.signed_in(READER).await;
    let (mut seen, mut path, mut pages) = (Vec::new(), "/pending?pool=default".to_owned(), 0);
    loop {
        let html = browser.get(&path).await.text;
        pages += 1;
        seen.extend(html.split("href=\"/runs/run_").skip(1).map(|rest| rest[..3].to_owned()));
        assert!(pages == 1 || html.contains("First page"), "{html}");
        let Some(link) = next(&html) else { break };
        assert!(link.contains("pool=default"), "the filter stays: {link}");
        path = link;
    }
    seen.sort();
    assert_eq!(seen, (0..120).map(|n| format!("{n:03}")).collect::<Vec<_>>());
    assert_eq!(pages, 3);
    assert_eq!(browser.get("/pending?after=nonsense").await.status, 422);
}

#[tokio::test]
async fn the_audit_is_paged_from_the_newest_on() {
    let page = page().await;
    for n in 0..60 {
        let change = PoolChange { cap: Some(Some(n)), ..PoolChange::default() };
        page.db.store.change_pool("default", &change, &Actor(format!("actor-{n}-"))).await.unwrap();
    }
    let mut browser = page.signed_in(READER).await;
    let first = browser.get("/audit").await.text;
    assert!(first.contains("actor-59-") && !first.contains("actor-0-"), "{first}");
    let second = browser.get(&next(&first).expect("a next page")).await.text;
    assert!(second.contains("actor-0-") && !second.contains("actor-59-"), "{second}");
    assert!(next(&second).is_none());
}

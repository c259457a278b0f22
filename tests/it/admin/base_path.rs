//! Behind a proxy that serves the page below a path of its own.

use warmproof_testkit::db::db;
use warmproof_testkit::page::{OPERATOR, page_config, serve_page};

#[tokio::test]
async fn every_link_form_and_cookie_stays_below_the_base_path() {
    let db = db().await;
    let store = db.store.clone();
    let mut config = page_config();
    config.address.base = "/ops/warmproof".to_owned();
    let page = serve_page(db, store, config).await;
    let mut browser = page.browser();
    browser.base = "/ops/warmproof".to_owned();
    let stranger = browser.get("/losses?by=region").await;
    assert_eq!(stranger.header("location"), "/ops/warmproof/sign-in?next=%2Flosses%3Fby%3Dregion");
    let signed_in = browser.sign_in(OPERATOR).await;
    assert_eq!(signed_in.header("location"), "/ops/warmproof/pending");
    assert!(signed_in.header("set-cookie").contains("; Path=/ops/warmproof/;"), "{signed_in:?}");
    for path in ["", "/", "/pending", "/runs", "/losses", "/workers", "/pools", "/audit"] {
        let answer = browser.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        for attribute in ["href=\"/", "action=\"/", "src=\"/"] {
            for rest in answer.text.split(attribute).skip(1) {
                assert!(rest.starts_with("ops/warmproof/"), "{path}: {attribute}{}", &rest[..40]);
            }
        }
    }
    let asset = browser.get("/pending").await.text;
    let style = asset.split('"').find(|text| text.contains("page.css")).expect("a style sheet");
    assert_eq!(browser.get(style.strip_prefix("/ops/warmproof").expect("below the base")).await.status, 200);
    let paused = browser.submit("/pools", "/pools/change", &[("pool", "default"), ("paused", "yes")]).await;
    assert_eq!(paused.header("location"), "/ops/warmproof/pools?changed=1");

    // Some proxies remove the base path before they forward; the API has no base path.
    browser.base = String::new();
    assert_eq!(browser.get("/pools").await.status, 200);
    assert_eq!(browser.get("/healthz").await.text, "ok\n");
}

#[tokio::test]
async fn an_unknown_path_is_a_page_for_a_browser_and_a_problem_for_a_program() {
    let page = warmproof_testkit::page::page().await;
    let mut browser = page.browser();
    let answer = browser.get("/nowhere").await;
    assert_eq!(answer.status, 404);
    assert!(answer.text.contains("There is no such page"), "{}", answer.text);
    let http = warmproof::platform::Client::without_credentials().unwrap();
    let answer = warmproof_testkit::api::send(http.get(format!("{}/nowhere", page.url))).await;
    assert_eq!(answer.problem()["type"], "urn:warmproof:not-found");
}

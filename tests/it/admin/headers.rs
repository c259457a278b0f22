//! The headers of every answer, and the content that pages must not have under those headers.

use warmproof_testkit::page::{OPERATOR, page, page_config, serve_page};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

#[tokio::test]
async fn every_answer_has_strict_headers_and_pages_are_not_cached() {
    let page = page().await;
    let mut browser = page.signed_in(OPERATOR).await;
    let all = [
        "/",
        "/pending",
        "/runs",
        "/runs/run_a",
        "/losses",
        "/workers",
        "/pools",
        "/audit",
        "/sign-in",
        "/nowhere",
        "/audit?before=x",
    ];
    for path in all {
        let answer = browser.get(path).await;
        assert_eq!(answer.header("content-security-policy"), POLICY, "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "same-origin", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        assert!(answer.header("content-type").starts_with("text/html"), "{path}: {answer:?}");
        let html = answer.text.to_lowercase();
        assert!(!html.contains(" style="), "{path} has an inline style");
        assert!(!html.contains("<style"), "{path} has an inline sheet");
        assert!(!html.contains(" onclick") && !html.contains("javascript:"), "{path} has an inline script");
        for script in html.split("<script").skip(1) {
            assert!(script.starts_with(" src=\"/assets/"), "{path} has a script that is not a file of ours");
        }
        assert!(!html.contains("http://") && !html.contains("https://"), "{path} names another host");
    }
}

#[tokio::test]
async fn assets_have_their_hash_in_their_names_and_are_cached() {
    let page = page().await;
    let mut browser = page.browser();
    let html = browser.get("/sign-in").await.text;
    let paths: Vec<&str> =
        html.split('"').filter(|text| text.starts_with("/assets/") && text.contains("?v=")).collect();
    assert!(paths.len() >= 3, "{html}");
    for path in paths {
        let answer = browser.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header("cache-control").contains("immutable"), "{path}: {answer:?}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        browser.headers = vec![("if-none-match", answer.header("etag").to_owned())];
        assert_eq!(browser.get(path).await.status, 304, "{path}");
        browser.headers.clear();
    }
    for absent in ["/assets/none.js", "/assets/..%2fsrc%2fmain.rs", "/assets/"] {
        assert_eq!(browser.get(absent).await.status, 404, "{absent}");
    }
}

#[tokio::test]
async fn cookies_are_bounded_and_secure_behind_https() {
    let page = page().await;
    let mut browser = page.browser();
    let plain = browser.get("/sign-in").await;
    let line = plain.header("set-cookie");
    assert!(line.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{line}");
    browser.headers = vec![("x-forwarded-proto", "https".to_owned())];
    browser.cookies.clear();
    let line = browser.get("/sign-in").await.header("set-cookie").to_owned();
    assert!(
        line.starts_with("__Host-warmproof-sign-in=") && line.ends_with("SameSite=Strict; Secure"),
        "{line}"
    );
    assert_eq!(browser.sign_in(OPERATOR).await.status, 303);
    assert!(browser.cookies.contains_key("__Host-warmproof"), "{:?}", browser.cookies);
    assert_eq!(browser.get("/pools").await.status, 200);
}

#[tokio::test]
async fn the_origin_of_a_form_is_compared_with_the_configured_address() {
    let db = warmproof_testkit::db::db().await;
    let store = db.store.clone();
    let mut config = page_config();
    config.address.origin = Some("https://ops.example".to_owned());
    config.address.secure = Some(true);
    let page = serve_page(db, store, config).await;
    let mut browser = page.browser();
    browser.headers = vec![("origin", "https://evil.example".to_owned())];
    assert_eq!(browser.sign_in(OPERATOR).await.status, 403);
    browser.headers = vec![("origin", "https://ops.example".to_owned())];
    let answer = browser.sign_in(OPERATOR).await;
    assert_eq!(answer.status, 303);
    assert_eq!(answer.header("strict-transport-security"), "max-age=63072000");
}

//! Which token may read, which may act, and when a session ends.

use warmproof::store::audit::Actor;
use warmproof::store::token::Scope;

use warmproof_testkit::api::TOKEN;
use warmproof_testkit::page::{OPERATOR, READER, form_token, page, page_config, serve_page, token};
use warmproof_testkit::wait::until;

const PAGES: [&str; 8] = ["/", "/pending", "/runs", "/runs/run_a", "/losses", "/workers", "/pools", "/audit"];

#[tokio::test]
async fn a_stranger_is_sent_to_the_sign_in_and_back() {
    let page = page().await;
    let mut browser = page.browser();
    for path in PAGES {
        let answer = browser.get(path).await;
        assert_eq!(answer.status, 303, "{path}");
        assert!(answer.header("location").starts_with("/sign-in?next=%2F"), "{path}: {answer:?}");
    }
    let answer = browser
        .submit(
            "/sign-in?next=/losses?by=region",
            "/sign-in",
            &[("token", READER), ("next", "/losses?by=region")],
        )
        .await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "/losses?by=region"));
    for path in PAGES {
        let answer = browser.get(path).await;
        let expected = if path == "/runs/run_a" { 404 } else { 200 };
        assert_eq!(answer.status, expected, "{path}: {answer:?}");
        assert!(answer.text.contains("reader"), "{path} names the signed-in account");
    }
}

#[tokio::test]
async fn a_sign_in_never_redirects_to_another_site() {
    let page = page().await;
    for next in ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"] {
        let answer =
            page.browser().submit("/sign-in", "/sign-in", &[("token", READER), ("next", next)]).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "/"), "{next}");
    }
}

#[tokio::test]
async fn a_sign_in_needs_a_good_token_its_scope_and_its_own_form() {
    let page = page().await;
    token(&page.db, "scheduler", "wp_schedules-0123456789abcdef", &[Scope::Schedule]).await;
    for (bad, reported) in [
        ("wp_nobodys", "unknown or revoked"),
        ("", "unknown or revoked"),
        ("wp_schedules-0123456789abcdef", "only schedule"),
    ] {
        let answer = page.browser().sign_in(bad).await;
        assert_eq!(answer.status, 403, "{bad}");
        assert!(answer.text.contains(reported), "{bad}: {}", answer.text);
        assert!(bad.is_empty() || !answer.text.contains(bad), "a token is shown");
    }
    let mut browser = page.browser();
    assert_eq!(browser.post("/sign-in", &[("token", OPERATOR)]).await.status, 403, "no form was asked for");
    let elsewhere = form_token(&page.browser().get("/sign-in").await.text);
    browser.get("/sign-in").await;
    let forged = browser.post("/sign-in", &[("token", OPERATOR), ("form_token", &elsewhere)]).await;
    assert_eq!(forged.status, 403, "another browser's form");
    assert_eq!(browser.sign_in(TOKEN).await.status, 303, "the environment's token is good as well");
}

#[tokio::test]
async fn a_session_ends_with_its_token_its_time_and_the_sign_out() {
    let page = page().await;
    let mut browser = page.signed_in(READER).await;
    let mut same = browser.clone();
    let again = browser.get("/sign-in").await.text;
    assert!(again.matches("name=\"form_token\"").count() == 2 && again.contains("Sign out"), "{again}");
    assert_eq!(browser.submit("/", "/sign-out", &[]).await.status, 303);
    assert_eq!(same.get("/").await.status, 303, "a kept cookie is worth nothing after the sign-out");

    let mut browser = page.signed_in(READER).await;
    page.db
        .run("update session set created_at = created_at - interval '1 day', expires_at = clock_timestamp()")
        .await;
    assert_eq!(browser.get("/").await.status, 303, "expired");
    let mut browser = page.signed_in(READER).await;
    let left: i64 = page.db.value("select count(*) from session").await;
    assert_eq!(left, 1, "what has expired is forgotten with the next sign-in");

    assert!(page.db.store.revoke_token("reader", &Actor("test".to_owned())).await.unwrap());
    until("the session ends with its token", async || (browser.get("/").await.status == 303).then_some(()))
        .await;
    assert_eq!(page.audited().await.iter().filter(|(_, action, _, _)| action == "sign_in").count(), 3);
}

#[tokio::test]
async fn two_processes_share_a_session_and_the_table_holds_no_secret() {
    let page = page().await;
    let mut browser = page.signed_in(OPERATOR).await;
    let cookie = browser.cookies["warmproof"].clone();
    let other = warmproof::admin::router(page.db.store.clone(), page_config(), None, axum::Router::new());
    let request = axum::http::Request::get("/pools").header("cookie", format!("warmproof={cookie}"));
    let answer =
        tower::ServiceExt::oneshot(other, request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(browser.get("/pools").await.status, 200);
    let kept: String = page.db.value("select string_agg(s::text, ' ') from session s").await;
    let hash: String = page.db.value("select encode(hash, 'hex') from token where name = 'operator'").await;
    assert!(!kept.contains(&cookie) && !kept.contains(&hash), "{kept}");
}

#[tokio::test]
async fn a_read_token_cannot_operate() {
    let page = page().await;
    let mut browser = page.signed_in(READER).await;
    let token = form_token(&browser.get("/").await.text);
    for path in [
        "/pending/cancel",
        "/pending/cancel/confirmed",
        "/runs/run_a/probe-now",
        "/runs/run_a/message",
        "/pools/change",
    ] {
        let fields =
            [("form_token", token.as_str()), ("pool", "default"), ("paused", "yes"), ("by", "filter")];
        let answer = browser.post(path, &fields).await;
        assert_eq!(answer.status, 403, "{path}");
        assert!(answer.text.contains("Your token may read, but not act"), "{path}: {}", answer.text);
    }
    for path in ["/pools", "/pending?pool=default"] {
        let shown = browser.get(path).await.text;
        assert!(
            !shown.contains("/pools/change") && !shown.contains("/pending/cancel"),
            "{path} offers what is refused"
        );
    }
    let paused: bool = page.db.value("select paused from pool where name = 'default'").await;
    assert!(!paused);
}

#[tokio::test]
async fn a_forged_form_changes_nothing() {
    let page = page().await;
    let mut browser = page.signed_in(OPERATOR).await;
    let own = form_token(&browser.get("/pools").await.text);
    let foreign = form_token(&page.signed_in(OPERATOR).await.get("/pools").await.text);
    let pause = [("pool", "default"), ("paused", "yes")];
    for token in ["", "0", foreign.as_str(), &own[1..], &own.to_uppercase()] {
        let fields: Vec<_> = pause.iter().copied().chain([("form_token", token)]).collect();
        let answer = browser.post("/pools/change", &fields).await;
        assert_eq!(answer.status, 403, "{token}");
        assert!(answer.text.contains("not valid for your session"), "{}", answer.text);
    }
    let good: Vec<_> = pause.iter().copied().chain([("form_token", own.as_str())]).collect();
    for site in ["cross-site", "same-site"] {
        browser.headers = vec![("sec-fetch-site", site.to_owned())];
        assert_eq!(browser.post("/pools/change", &good).await.status, 403, "{site}");
    }
    browser.headers.clear();
    let paused: bool = page.db.value("select paused from pool where name = 'default'").await;
    assert!(!paused, "nothing was changed");
    assert_eq!(browser.post("/pools/change", &good).await.status, 303);
    browser.cookies.clear();
    assert_eq!(browser.post("/pools/change", &good).await.status, 403, "a form without its session");
}

#[tokio::test]
async fn reading_without_a_token_must_be_allowed_and_allows_nothing_else() {
    let config = warmproof::config::admin::AdminConfig { read_without_token: true, ..page_config() };
    let db = warmproof_testkit::db::db().await;
    let store = db.store.clone();
    let page = serve_page(db, store, config).await;
    let mut browser = page.browser();
    let shown = browser.get("/pools").await;
    assert_eq!(shown.status, 200);
    assert!(!shown.text.contains("/pools/change"), "{}", shown.text);
    let answer = browser.post("/pools/change", &[("pool", "default"), ("paused", "yes")]).await;
    assert_eq!(answer.status, 403);
    assert!(answer.text.contains("You are signed out"), "{}", answer.text);
}

#[tokio::test]
async fn a_link_from_another_site_leads_to_the_page_after_all() {
    let page = page().await;
    let mut browser = page.browser();
    browser.headers = vec![("sec-fetch-site", "cross-site".to_owned())];
    let answer = browser.get("/pending?pool=a%22b").await;
    assert_eq!(answer.status, 200, "strict cookies are kept back, so the page asks again by itself");
    assert!(answer.text.contains("url=/pending?pool=a%22b"), "{}", answer.text);
}

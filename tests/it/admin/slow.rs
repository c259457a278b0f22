//! A database that does not answer, is unreachable or is empty: a page reports it within a limit, with a hint.

use std::time::Duration;

use sqlx::Connection as _;
use tokio::time::Instant;
use warmproof::store::connect::Terms;
use warmproof::store::{Store, connect, migrate};

use warmproof_testkit::db::{Db, SCHEMA, database_config, db, server};
use warmproof_testkit::page::{READER, page_config, serve_page};

fn bounded(db: &Db) -> Store {
    Store::connect_for_people(&database_config(&db.url()), Duration::from_millis(400))
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_given_up() {
    let db = db().await;
    let store = bounded(&db);
    let page = serve_page(db, store, page_config()).await;
    let mut browser = page.signed_in(READER).await;
    let mut holder = page.db.pool().acquire().await.unwrap();
    let mut tx = holder.begin().await.unwrap();
    sqlx::query("lock table pending, outcome, pool, outcome_minute, worker, audit in access exclusive mode")
        .execute(&mut *tx)
        .await
        .unwrap();
    for path in ["/", "/pending", "/runs/run_a", "/losses", "/workers", "/pools", "/audit"] {
        let begin = Instant::now();
        let answer = browser.get(path).await;
        assert_eq!(answer.status, 504, "{path}: {}", answer.text);
        assert!(begin.elapsed() < Duration::from_secs(8), "{path} took {:?}", begin.elapsed());
        assert!(
            answer.text.contains("The page took too long") && answer.text.contains("warmproof doctor"),
            "{path}"
        );
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    tx.rollback().await.unwrap();
    assert_eq!(browser.get("/").await.status, 200, "the page works again");
}

#[tokio::test]
async fn the_page_distinguishes_an_unreachable_database_from_one_without_a_schema() {
    let db = db().await;
    let (away, store) = (bounded(&db), db.store.clone());
    away.close().await;
    let page = serve_page(db, away, page_config()).await;
    let mut browser = page.browser();
    browser.cookies.insert("warmproof".to_owned(), "0f".repeat(32));
    let answer = browser.get("/").await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert!(answer.text.contains("The database cannot be reached"), "{}", answer.text);

    store.db().close().await;
    let empty = server().connect_options().database(&page.db.name);
    let empty = Store::new(connect::database(empty, "nowhere", 4));
    let rest = axum::Router::new();
    let router = warmproof::admin::router(empty, page_config(), None, rest);
    let request = axum::http::Request::get("/").header("cookie", format!("warmproof={}", "0f".repeat(32)));
    let answer =
        tower::ServiceExt::oneshot(router, request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 503);
    let _ = migrate::check(&server().connect_options().database(&page.db.name), SCHEMA).await.unwrap();
}

#[tokio::test]
async fn the_page_has_its_own_connections_and_statement_timeout() {
    let db = db().await;
    let pages = bounded(&db);
    let limit: String =
        sqlx::query_scalar("show statement_timeout").fetch_one(pages.db().on(Terms::DURABLE)).await.unwrap();
    assert_eq!(limit, "400ms");
    assert_eq!(pages.db().connections().max, 4);
}

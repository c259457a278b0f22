//! `/healthz` and `/readyz`: the process is alive, and able to schedule durably.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::net::{TcpListener, UnixStream};
use warmproof::config::database::DatabaseConfig;
use warmproof::store::Store;
use warmproof::store::connect::{self, Role};

use warmproof_testkit::api::{api, config, hit, send, serve};
use warmproof_testkit::db::{SCHEMA, database_config, db, server};

#[tokio::test]
async fn healthz_and_readyz_answer_without_a_token() {
    let api = api().await;
    let alive = send(api.anonymous(Method::GET, "/healthz")).await;
    assert_eq!((alive.status.as_u16(), alive.text.as_str()), (200, "ok\n"));
    let ready = send(api.anonymous(Method::GET, "/readyz")).await;
    assert_eq!(ready.status, 200);
    let checks = json!([
        {"name": "database", "ok": true, "required": true},
        {"name": "durability", "ok": true, "required": true},
        {"name": "pool default", "ok": false, "required": false, "reason": "no running worker serves it"},
    ]);
    assert_eq!(ready.json(), json!({"ready": true, "checks": checks}));
}

#[tokio::test]
async fn a_database_that_does_not_commit_durably_is_not_ready() {
    let db = db().await;
    let options = server().connect_options().database(&db.name);
    let store = Store::new(connect::database(options.options([("synchronous_commit", "off")]), SCHEMA, 4));
    let api = serve(db, store, config()).await;
    let answer = send(api.anonymous(Method::GET, "/readyz")).await;
    assert_eq!(answer.status, 503);
    let check = &answer.json()["checks"][1];
    assert_eq!((&check["name"], &check["ok"]), (&json!("durability"), &json!(false)));
}

#[tokio::test]
async fn a_missing_schema_is_named_with_the_command_that_makes_it() {
    let db = db().await;
    let store = Store::new(connect::database(server().connect_options().database(&db.name), "elsewhere", 4));
    let api = serve(db, store, config()).await;
    let answer = send(api.anonymous(Method::GET, "/readyz")).await;
    assert_eq!(answer.status, 503);
    let reason = "the schema is missing: run `warmproof migrate`";
    let check = json!({"name": "database", "ok": false, "required": true, "reason": reason});
    assert_eq!(answer.json()["checks"][0], check);
    assert_eq!(answer.json()["ready"], false);
    assert_eq!(send(api.anonymous(Method::GET, "/healthz")).await.status, 200, "alive all the same");
}

#[tokio::test]
async fn a_database_that_is_gone_is_a_503_and_comes_back_by_itself() {
    let place = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = place.local_addr().unwrap().port();
    drop(place);
    let db = db().await;
    let url = db.url_through(([127, 0, 0, 1], port).into());
    let database = DatabaseConfig { acquire_timeout: Duration::from_secs(1), ..database_config(&url) };
    let store = Store::connect_lazy(&database, Role::Callers);
    let api = serve(db, store, config()).await;

    let answer = send(api.anonymous(Method::GET, "/readyz")).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["checks"][0]["reason"], "the database cannot be reached");
    let refused = api.schedule(&hit("run_a", "snapshot_a")).await;
    assert_eq!(refused.status, 503);
    let problem = refused.problem();
    assert_eq!(problem["type"], "urn:warmproof:database");
    assert!(problem["detail"].as_str().unwrap().contains("safe to repeat"), "{problem}");
    assert!(!refused.text.contains("127.0.0.1"), "addresses stay in the log: {problem}");

    forward(TcpListener::bind(("127.0.0.1", port)).await.unwrap());
    assert_eq!(send(api.anonymous(Method::GET, "/readyz")).await.status, 200);
    assert_eq!(api.schedule(&hit("run_a", "snapshot_a")).await.status, 201);
}

/// Carries each connection to the private server, which listens on a socket of its own only.
fn forward(listener: TcpListener) {
    let options = server().connect_options();
    let socket = options.get_socket().expect("a socket").join(format!(".s.PGSQL.{}", options.get_port()));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut database = UnixStream::connect(&socket).await.expect("the private server");
            tokio::spawn(async move {
                // Ends when either side closes or fails.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut database).await;
            });
        }
    });
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_a_504() {
    let db = db().await;
    let store = db.store.clone();
    let mut config = config();
    config.request_timeout = Duration::from_millis(200);
    let api = serve(db, store, config).await;
    let mut blocker = api.db.pool().begin().await.unwrap();
    sqlx::query("lock table pending in access exclusive mode").execute(&mut *blocker).await.unwrap();
    let answer = api.schedule(&hit("run_a", "snapshot_a")).await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.problem()["type"], "urn:warmproof:timeout");
    blocker.rollback().await.unwrap();
}

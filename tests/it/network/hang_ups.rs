//! Callers that hang up, at every point of every route.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use warmproof_testkit::api::hit;
use warmproof_testkit::db::server;
use warmproof_testkit::proxy::Proxy;
use warmproof_testkit::stage::{API_TOKEN, Stage};
use warmproof_testkit::wait::until;

/// How long each way to the database takes: several statements of a request then lie between two cuts.
const EACH_WAY: Duration = Duration::from_millis(10);
/// Callers cut requests after each of these times, so that some end in every step of a request.
const CUTS_MS: std::ops::Range<u64> = 1..160;
const CUT_EVERY_MS: usize = 6;
/// Each round finds the sessions in another order.
const ROUNDS: usize = 2;

/// Every route that speaks to the database, the page's too.
const ROUTES: [(&str, &str, &str); 26] = [
    ("GET", "/v1/pending", ""),
    ("GET", "/v1/pending?status=overdue&limit=2", ""),
    ("GET", "/metrics", ""),
    ("GET", "/readyz", ""),
    ("GET", "/v1/audit", ""),
    ("GET", "/v1/pools", ""),
    ("GET", "/v1/workers", ""),
    ("GET", "/v1/reports/silent-loss", ""),
    ("GET", "/v1/runs/run_absent", ""),
    ("GET", "/v1/verifications/0199aaaa-0000-7000-8000-000000000000", ""),
    ("POST", "/v1/runs/run_absent/probe-now", ""),
    ("POST", "/v1/cancellations", r#"{"run_id": "run_absent", "reason": "operator"}"#),
    ("POST", "/v1/cancellations", r#"[{"run_id": "run_absent", "reason": "connected"}]"#),
    ("POST", "/v1/pending/cancel", r#"{"filter": {"supervisor": "absent"}, "confirm": true}"#),
    ("PATCH", "/v1/pools/default", r#"{"paused": false}"#),
    ("POST", "/v1/verifications", "[]"),
    ("GET", "/", ""),
    ("GET", "/pending", ""),
    ("GET", "/losses", ""),
    ("GET", "/workers", ""),
    ("GET", "/pools", ""),
    ("GET", "/audit", ""),
    ("GET", "/runs?run=run_absent", ""),
    ("GET", "/runs/run_absent", ""),
    ("POST", "/sign-in", "token=token-of-the-test-0123"),
    ("POST", "/sign-out", ""),
];

/// Schedules one after the other until `stop`, and returns the ids of those that were answered with 201.
async fn schedule_until(stop: CancellationToken, http: Client, url: String, name: usize) -> Vec<String> {
    let mut promised = Vec::new();
    for number in 0.. {
        if stop.is_cancelled() {
            break;
        }
        let body = hit(&format!("run_{name}x{number}"), "snapshot_a").to_string();
        let sent = http.post(format!("{url}/v1/verifications")).bearer_auth(API_TOKEN).body(body);
        let answer = sent.header("content-type", "application/json").send().await.expect("an answer");
        if answer.status() == 201 {
            let answer: Value = answer.json().await.expect("JSON");
            promised.push(answer["id"].as_str().expect("an id").to_owned());
        }
    }
    promised
}

/// Sends a request and hangs up after so long.
async fn cut(http: &Client, url: &str, (method, path, body): (&str, &str, &str), after: Duration) {
    let form = path.starts_with("/sign");
    let kind = if form { "application/x-www-form-urlencoded" } else { "application/json" };
    let request = http
        .request(Method::from_bytes(method.as_bytes()).expect("a method"), format!("{url}{path}"))
        .bearer_auth(API_TOKEN)
        .header("content-type", kind)
        .header("origin", url)
        .body(body.to_owned())
        .timeout(after);
    // The request may be cut off or answered; this test needs neither result.
    let _ = request.send().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_hangs_up_at_any_point_of_any_route_loses_no_promise() {
    let stage = Stage::set().await;
    let mut proxy = Proxy::closed(server().tcp_addr().expect("the server listens on loopback"));
    proxy.delay(EACH_WAY);
    proxy.open();
    let api = stage
        .api()
        .env("WARMPROOF_DATABASE_URL", stage.db.url_through(proxy.address))
        .env("WARMPROOF_ADMIN_READ_WITHOUT_TOKEN", true)
        .start();
    let url = api.prints("api ready on ").await.trim_start_matches("api ready on ").to_owned();
    let http = warmproof::platform::Client::without_credentials().expect("a client");

    let stop = CancellationToken::new();
    let schedules =
        (0..3).map(|name| tokio::spawn(schedule_until(stop.clone(), http.clone(), url.clone(), name)));
    let schedules: Vec<_> = schedules.collect();
    for _ in 0..ROUNDS {
        for route in ROUTES {
            let cuts = CUTS_MS.step_by(CUT_EVERY_MS).map(Duration::from_millis);
            join_all(cuts.map(|after| cut(&http, &url, route, after))).await;
        }
    }
    stop.cancel();
    let mut promised = BTreeSet::new();
    for schedule in schedules {
        promised.extend(schedule.await.expect("no panic"));
    }
    assert!(promised.len() > 50, "schedules went on meanwhile: {}", promised.len());

    // Read in a session of another program, which sees only what is committed.
    let kept: Vec<String> =
        sqlx::query_scalar("select id::text from pending").fetch_all(stage.db.pool()).await.unwrap();
    let kept: BTreeSet<String> = kept.into_iter().collect();
    let gone: Vec<_> = promised.difference(&kept).collect();
    assert!(gone.is_empty(), "{} of {} answered schedules are gone", gone.len(), promised.len());
    until("no session is left in a transaction", async || {
        let open: i64 = stage
            .db
            .value(
                "select count(*) from pg_stat_activity where datname = current_database()
                 and application_name = 'warmproof' and xact_start is not null",
            )
            .await;
        (open == 0).then_some(())
    })
    .await;
    let left = json!(api.stderr().iter().filter(|line| line.contains("already a transaction")).count());
    assert_eq!(left, 0, "a statement met a transaction that another had left open");
    stage.db.assert_conserved().await;
}

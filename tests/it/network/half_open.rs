//! Half-open connections: a device on the way acknowledges what is sent and drops it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reqwest::Client;

use warmproof::domain::outcome::OutcomeKind;

use crate::metrics::{get, listens_at};
use warmproof_testkit::api::hit;
use warmproof_testkit::db::server;
use warmproof_testkit::process::{Process, WITHOUT_A_DATABASE};
use warmproof_testkit::proxy::Proxy;
use warmproof_testkit::stage::{API_TOKEN, Stage};
use warmproof_testkit::wait::until;

/// How soon work goes on once the network is back.
const RECOVERED_MAX: Duration = Duration::from_secs(15);
/// How long a process may take to end while its database does not answer: its grace, and what comes after.
const ENDED_MAX: Duration = Duration::from_secs(15);

async fn behind_a_proxy() -> (Stage, Proxy, String) {
    let stage = Stage::set().await;
    let mut proxy = Proxy::closed(server().tcp_addr().expect("the server listens on loopback"));
    proxy.open();
    let url = stage.db.url_through(proxy.address);
    (stage, proxy, url)
}

async fn is_ready(url: &str) -> bool {
    get(&format!("{url}/readyz")).await.0 == 200
}

async fn becomes(what: &str, url: &str, ready: bool) {
    until(what, async || (is_ready(url).await == ready).then_some(())).await;
}

fn listening(api: &str) -> String {
    api.trim_start_matches("api ready on ").to_owned()
}

/// Sends one schedule; true if it was answered with 201.
async fn schedules(http: &Client, url: &str, run: &str) -> bool {
    let request = http.post(format!("{url}/v1/verifications")).bearer_auth(API_TOKEN);
    let request = request.header("content-type", "application/json").body(hit(run, "snapshot_a").to_string());
    request.send().await.is_ok_and(|answer| answer.status() == 201)
}

#[tokio::test]
async fn a_worker_whose_connections_are_half_open_claims_again_on_new_ones() {
    let (stage, proxy, url) = behind_a_proxy().await;
    let worker = stage.worker("a").env("WARMPROOF_DATABASE_URL", url).may_warn(WITHOUT_A_DATABASE).start();
    let metrics = listens_at(&worker).await;
    becomes("the worker is ready", &metrics, true).await;
    proxy.half_open();
    let (began, hit) = (Instant::now(), stage.hit().await);
    becomes("the worker says that it does not claim", &metrics, false).await;
    assert_eq!(stage.outcome(&hit.run).await.outcome, OutcomeKind::Fallback);
    let took = began.elapsed();
    println!("a worker whose connections were half-open recovered a loss within {took:.1?}");
    assert!(took < RECOVERED_MAX, "{took:?}");
    becomes("the worker is ready again", &metrics, true).await;
    stage.platform.executed(&hit).await;
    stage.audit(&[hit], vec![worker]).await;
}

#[tokio::test]
async fn an_api_whose_connections_are_half_open_schedules_again_on_new_ones() {
    let (stage, proxy, url) = behind_a_proxy().await;
    let api = stage.api().env("WARMPROOF_DATABASE_URL", url).may_warn(WITHOUT_A_DATABASE).start();
    let api_url = listening(&api.prints("api ready on ").await);
    let http = warmproof::platform::Client::without_credentials().unwrap();
    becomes("the api is ready", &api_url, true).await;
    for run in 0..20 {
        assert!(schedules(&http, &api_url, &format!("run_before{run}")).await);
    }
    proxy.half_open();
    let began = Instant::now();
    // Enough schedules that both lanes use a half-open connection.
    let stuck: Vec<_> = (0..20)
        .map(|run| {
            let (http, url) = (http.clone(), api_url.clone());
            tokio::spawn(async move { schedules(&http, &url, &format!("run_meanwhile{run}")).await })
        })
        .collect();
    becomes("the api says that it cannot keep promises", &api_url, false).await;
    until("schedules are answered again", async || {
        schedules(&http, &api_url, "run_after").await.then_some(())
    })
    .await;
    let took = began.elapsed();
    println!("an api whose connections were half-open schedules again within {took:.1?}");
    assert!(took < RECOVERED_MAX, "{took:?}");
    becomes("the api is ready again", &api_url, true).await;
    let mut answered = 20_i64;
    for call in stuck {
        answered += i64::from(call.await.unwrap());
    }
    let kept: i64 = stage.db.value("select count(*) from pending").await;
    assert!(kept > answered, "each schedule that was answered is there");
    stage.db.assert_conserved().await;
}

/// Ends a process while its database answers nothing.
async fn ends(mut process: Process) -> Duration {
    let began = Instant::now();
    process.signal(Signal::SIGTERM);
    assert_eq!(process.ended().await, Some(0), "{:?}", process.stderr());
    began.elapsed()
}

#[tokio::test]
async fn sigterm_ends_a_process_whose_database_does_not_answer() {
    let (stage, proxy, url) = behind_a_proxy().await;
    let worker = stage
        .worker("a")
        .env("WARMPROOF_DATABASE_URL", &url)
        .env("WARMPROOF_GRACE_MS", 3000)
        .may_warn(WITHOUT_A_DATABASE)
        .start();
    let api = stage.api().env("WARMPROOF_DATABASE_URL", &url).may_warn(WITHOUT_A_DATABASE).start();
    let (metrics, api_url) = (listens_at(&worker).await, listening(&api.prints("api ready on ").await));
    becomes("the worker is ready", &metrics, true).await;
    becomes("the api is ready", &api_url, true).await;
    proxy.half_open();
    proxy.half_open_new(true);
    let http = warmproof::platform::Client::without_credentials().unwrap();
    let hanging = tokio::spawn(async move { schedules(&http, &api_url, "run_a").await });
    becomes("the worker says that it does not claim", &metrics, false).await;
    for (name, process) in [("worker", worker), ("api", api)] {
        let took = ends(process).await;
        println!("a {name} whose database does not answer ended within {took:.1?}");
        assert!(took < ENDED_MAX, "{name}: {took:?}");
    }
    assert!(!hanging.await.unwrap());
    stage.db.assert_conserved().await;
}

//! What processes count, and what the counts show of the fleet.

use tokio::net::TcpListener;
use warmproof::domain::outcome::OutcomeKind;
use warmproof::platform::Client;

use warmproof_testkit::process::{Process, WITHOUT_A_DATABASE};
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::until;

pub async fn get(url: &str) -> (u16, String) {
    let answer = Client::without_credentials().unwrap().get(url).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// The value of a series, named as it is written.
fn value(text: &str, series: &str) -> Option<f64> {
    let line =
        text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

pub async fn listens_at(worker: &Process) -> String {
    let line = worker.says("metrics are served").await;
    let address = line.rsplit("address=").next().unwrap().trim_matches('"');
    format!("http://{address}")
}

#[tokio::test]
async fn a_worker_counts_what_it_does_and_says_that_it_is_ready() {
    let stage = Stage::set().await;
    let worker = stage.worker("counting").start();
    let url = listens_at(&worker).await;
    assert_eq!(get(&format!("{url}/healthz")).await, (200, "ok\n".to_owned()));
    until("it is ready", async || (get(&format!("{url}/readyz")).await.0 == 200).then_some(())).await;

    let lost = stage.hit().await;
    assert_eq!(stage.outcome(&lost.run).await.outcome, OutcomeKind::Fallback);
    let text = until("the fallback is counted", async || {
        let (status, text) = get(&format!("{url}/metrics")).await;
        assert_eq!(status, 200);
        value(&text, r#"warmproof_fallbacks_total{pool="default",result="created"}"#).map(|_| text)
    })
    .await;
    let counted = [
        (r#"warmproof_outcomes_total{pool="default",outcome="fallback",reason=""}"#, 1.0),
        (r#"warmproof_fallbacks_total{pool="default",result="created"}"#, 1.0),
        (r#"warmproof_due_lag_seconds_count{pool="default"}"#, 1.0),
        (r#"warmproof_probe_duration_seconds_count{pool="default",result="answered"}"#, 1.0),
        (r#"warmproof_create_duration_seconds_count{pool="default",result="created"}"#, 1.0),
        ("warmproof_db_connections_max", 6.0),
    ];
    for (series, expected) in counted {
        assert_eq!(value(&text, series), Some(expected), "{series} in {text}");
    }
    assert!(value(&text, "warmproof_claim_batch_rows_count").is_some_and(|claims| claims > 0.0), "{text}");
    assert!(!text.contains(lost.run.as_str()), "no ids in labels");

    let lag = value(&text, r#"warmproof_due_lag_seconds_sum{pool="default"}"#).unwrap();
    assert!(lag < 1.0, "a probe starts when it is due: {lag}");
    stage.audit(&[lost], vec![worker]).await;
}

#[tokio::test]
async fn a_port_that_is_taken_does_not_keep_a_worker_from_working() {
    let stage = Stage::set().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let worker = stage.worker("second").env("METRICS_PORT", port).start();
    worker.says("metrics are not served").await;
    let lost = stage.hit().await;
    stage.outcome(&lost.run).await;
    stage.audit(&[lost], vec![worker]).await;
}

#[tokio::test]
async fn an_api_reports_the_state_of_the_fleet() {
    let stage = Stage::set().await;
    // No worker serves the pool, so the scheduled row becomes overdue.
    let _waits = stage.hit().await;
    let mut api = stage.api().start();
    let url = api.prints("api ready on ").await.replace("api ready on ", "");
    let text = until("the row is overdue", async || {
        let (status, text) = get(&format!("{url}/metrics")).await;
        assert_eq!(status, 200);
        (value(&text, r#"warmproof_pending_overdue{pool="default"}"#) == Some(1.0)).then_some(text)
    })
    .await;
    let reported = [
        (r#"warmproof_pending{pool="default"}"#, 1.0),
        (r#"warmproof_workers_running{pool="default"}"#, 0.0),
        (r#"warmproof_brown_out{pool="default"}"#, 0.0),
        (r#"warmproof_pool_paused{pool="default"}"#, 0.0),
        (r#"warmproof_reading_ok{reading="pools"}"#, 1.0),
        ("warmproof_unaccounted", 0.0),
    ];
    for (series, expected) in reported {
        assert_eq!(value(&text, series), Some(expected), "{series} in {text}");
    }
    assert_eq!(api.terminate().await, Some(0));
}

#[tokio::test]
async fn without_a_database_no_old_numbers_are_reported() {
    let stage = Stage::set().await;
    let away = "postgres://nouser@127.0.0.1:9/nothing";
    let mut api = stage.api().env("WARMPROOF_DATABASE_URL", away).may_warn(WITHOUT_A_DATABASE).start();
    let url = api.prints("api ready on ").await.replace("api ready on ", "");
    let (status, text) = get(&format!("{url}/metrics")).await;
    assert_eq!(status, 200, "the process's own counts are still reported");
    assert_eq!(value(&text, r#"warmproof_reading_ok{reading="pools"}"#), Some(0.0), "{text}");
    assert!(value(&text, "warmproof_unaccounted").is_some_and(f64::is_nan), "{text}");
    assert_eq!(api.terminate().await, Some(0));

    let mut worker =
        stage.worker("waits").env("WARMPROOF_DATABASE_URL", away).may_warn(WITHOUT_A_DATABASE).start();
    let url = listens_at(&worker).await;
    assert_eq!(get(&format!("{url}/healthz")).await.0, 200, "alive while it waits");
    let (status, text) = get(&format!("{url}/readyz")).await;
    assert_eq!(status, 503);
    assert!(text.contains("the database") && text.contains("nothing was claimed yet"), "{text}");
    assert_eq!(worker.terminate().await, Some(0));
}

#[tokio::test]
async fn no_metrics_are_served_when_they_are_switched_off() {
    let stage = Stage::set().await;
    let mut api = stage.api().env("METRICS_ENABLED", "false").start();
    let url = api.prints("api ready on ").await.replace("api ready on ", "");
    assert_eq!(get(&format!("{url}/metrics")).await.0, 404);
    assert_eq!(api.terminate().await, Some(0));
    let mut worker = stage.worker("quiet").env("METRICS_ENABLED", "false").start();
    worker.says("worker started").await;
    assert_eq!(worker.terminate().await, Some(0));
    assert!(!worker.stderr().iter().any(|line| line.contains("metrics are served")));
}

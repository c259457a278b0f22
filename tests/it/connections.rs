//! Connections of strangers that send nothing take no descriptor that a caller, a probe or the database needs.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::metrics::{get, listens_at};
use warmproof_testkit::gateway::http_client;
use warmproof_testkit::platform::SOON;
use warmproof_testkit::process::Process;
use warmproof_testkit::stage::{API_TOKEN, Stage};
use warmproof_testkit::wait::{until, within};

/// Opens so many connections, of which every second one sends the beginning of a head.
async fn strangers(address: &str, count: usize) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for nth in 0..count {
        let mut stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        if nth % 2 == 1 {
            // It may be gone already.
            let _ = stream.write_all(b"GET /healthz HT").await;
        }
        open.push(stream);
    }
    open
}

async fn url_of(api: &Process) -> String {
    let line = api.prints("api ready on ").await;
    line.rsplit(' ').next().unwrap().to_owned()
}

async fn dropped(url: &str) -> String {
    let (_, text) = get(&format!("{url}/metrics")).await;
    text.lines().filter(|line| line.starts_with("warmproof_http_connections_dropped_total")).collect()
}

#[tokio::test]
async fn an_api_answers_beside_more_silent_connections_than_it_has_descriptors() {
    let stage = Stage::set().await;
    let mut api = stage.api().descriptors(128).may_warn(&["a connection was dropped"]).start();
    let url = url_of(&api).await;
    let address = url.trim_start_matches("http://").to_owned();
    let mut held = strangers(&address, 300).await;
    let client = http_client();
    for _ in 0..20 {
        let (status, _) = within("an answer", get(&format!("{url}/healthz"))).await;
        assert_eq!(status, 200);
        let read = client.get(format!("{url}/v1/pools")).bearer_auth(API_TOKEN).send();
        assert_eq!(within("an answer", read).await.unwrap().status(), 200);
        held.extend(strangers(&address, 20).await);
    }
    let counted = dropped(&url).await;
    assert!(counted.contains(r#"reason="too_many""#), "{counted}");
    // What is left of the silent ones ends by itself.
    until("a silent connection is dropped", async || {
        dropped(&url).await.contains(r#"reason="silent""#).then_some(())
    })
    .await;
    drop(held);
    assert_eq!(api.terminate().await, Some(0));
}

#[tokio::test]
async fn a_worker_probes_beside_silent_connections_at_its_metrics() {
    let stage = Stage::set().await;
    let worker = stage.worker("a").descriptors(128).may_warn(&["a connection was dropped"]).start();
    let url = listens_at(&worker).await;
    let _held = strangers(url.trim_start_matches("http://"), 300).await;
    let healthy = stage.platform.dispatch().await;
    stage.platform.start_warm(&healthy).await;
    healthy.schedule(&stage.db, SOON).await;
    let outcome = stage.outcome(&healthy.run).await;
    assert_eq!(outcome.outcome.as_str(), "delivered", "{outcome:?}");
    let lost = stage.hit().await;
    stage.platform.executed(&lost).await;
    stage.audit(&[healthy, lost], vec![worker]).await;
}

//! The platform or the database goes away and comes back: no loop spins, and no verification is lost.

use std::time::{Duration, Instant};

use warmproof::domain::outcome::OutcomeKind;

use warmproof_testkit::db::server;
use warmproof_testkit::platform::Platform;
use warmproof_testkit::process::WITHOUT_A_DATABASE;
use warmproof_testkit::proxy::Proxy;
use warmproof_testkit::stage::Stage;

/// So many connections to a database that is away take at least so long: claims, renewals and
/// settles each back off by themselves. Without the back-off they come within milliseconds.
const ATTEMPTS: usize = 8;
const ATTEMPTS_TAKE_MIN: Duration = Duration::from_millis(400);

fn address(platform: &Platform) -> std::net::SocketAddr {
    platform.simulator.base_url().trim_start_matches("http://").parse().expect("an address")
}

/// A stage whose workers reach the database through a network of ours.
async fn stage_behind_a_proxy() -> (Stage, Proxy) {
    let stage = Stage::set().await;
    let mut proxy = Proxy::closed(server().tcp_addr().expect("the server listens on loopback"));
    proxy.open();
    (stage, proxy)
}

#[tokio::test]
async fn a_platform_that_is_down_is_asked_again_when_it_is_back() {
    let stage = Stage::set().await;
    let mut proxy = Proxy::closed(address(&stage.platform));
    let a = stage
        .worker("a")
        .env("TRIGGER_API_URL", format!("http://{}", proxy.address))
        .may_warn(&["probes failed"])
        .start();
    let (lost, alive) = (stage.hit().await, stage.hit().await);
    stage.platform.start_warm(&alive).await;
    for hit in [&lost, &alive] {
        let row = stage.row("was probed in vain", &hit.run, |row| row.probe_count == 1).await;
        assert!(row.last_error.as_deref().unwrap().starts_with("connection: "), "{row:?}");
        assert_eq!((row.lost_at, row.worker), (None, None), "no worker holds it while it waits");
        assert!(row.probe_at > row.due_at);
    }
    proxy.open();
    assert_eq!(stage.outcome(&lost.run).await.outcome, OutcomeKind::Fallback);
    assert_eq!(stage.outcome(&alive.run).await.outcome, OutcomeKind::Delivered);
    stage.platform.executed(&lost).await;
    assert!(stage.platform.simulator.creates(&alive.run).is_empty());
    stage.audit(&[lost, alive], vec![a]).await;
}

#[tokio::test]
async fn a_database_that_is_cut_off_is_not_hammered_and_everything_is_settled_when_it_is_back() {
    let (stage, proxy) = stage_behind_a_proxy().await;
    let url = stage.db.url_through(proxy.address);
    let a = stage.worker("a").env("WARMPROOF_DATABASE_URL", url).may_warn(WITHOUT_A_DATABASE).start();
    let before = stage.hit().await;
    assert_eq!(stage.outcome(&before.run).await.outcome, OutcomeKind::Fallback);
    stage.platform.executed(&before).await;

    // One is in flight when the network goes, others fall due while it is away.
    let mut hits = vec![stage.hit().await];
    stage.claimed_by("a", &hits[0].run).await;
    proxy.cut();
    for _ in 0..4 {
        hits.push(stage.hit().await);
    }
    let (began, tried) = (Instant::now(), proxy.attempts());
    proxy.wait_for_attempts(tried + ATTEMPTS).await;
    let took = began.elapsed();
    assert!(took > ATTEMPTS_TAKE_MIN, "{ATTEMPTS} connections within {took:?}");
    for hit in &hits {
        assert!(stage.pending(&hit.run).await.is_some(), "it waits in the database");
    }
    proxy.restore();
    for hit in &hits {
        assert_eq!(stage.outcome(&hit.run).await.outcome, OutcomeKind::Fallback);
        stage.platform.executed(hit).await;
    }
    hits.push(before);
    stage.audit(&hits, vec![a]).await;
}

#[tokio::test]
async fn a_worker_that_starts_before_its_database_waits_for_it() {
    let (stage, proxy) = stage_behind_a_proxy().await;
    let url = stage.db.url_through(proxy.address);
    proxy.cut();
    let hit = stage.hit().await;
    let a = stage.worker("a").env("WARMPROOF_DATABASE_URL", url).start();
    a.says("waiting for the database").await;
    proxy.restore();
    assert_eq!(stage.outcome(&hit.run).await.outcome, OutcomeKind::Fallback);
    stage.platform.executed(&hit).await;
    stage.audit(&[hit], vec![a]).await;
}

#[tokio::test]
async fn a_settle_whose_reply_was_lost_is_recorded_once_and_reported_once() {
    let (stage, proxy) = stage_behind_a_proxy().await;
    let url = stage.db.url_through(proxy.address);
    let a = stage.worker("a").env("WARMPROOF_DATABASE_URL", url).may_warn(WITHOUT_A_DATABASE).start();
    a.says("worker started").await;
    let mut hits = Vec::new();
    for lost in [false, true] {
        proxy.lose_the_reply_of_a_settle();
        let hit = stage.hit().await;
        if !lost {
            stage.platform.start_warm(&hit).await;
        }
        let outcome = stage.outcome(&hit.run).await;
        assert_eq!(outcome.outcome, if lost { OutcomeKind::Fallback } else { OutcomeKind::Delivered });
        assert!(proxy.has_lost_it());
        a.prints(hit.run.as_str()).await;
        hits.push(hit);
    }
    stage.platform.executed(&hits[1]).await;
    let tries = a.stderr().iter().filter(|line| line.contains("could not settle")).count();
    assert_eq!(tries, 2, "each settle was repeated");
    stage.audit(&hits, vec![a]).await;
}

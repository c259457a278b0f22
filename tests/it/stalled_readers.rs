//! A reader of a worker's output that stops reading costs lines, and nothing else.

use warmproof::domain::outcome::OutcomeKind;

use crate::metrics::{get, listens_at};
use warmproof_testkit::platform::SOON;
use warmproof_testkit::stage::Stage;

/// Each event has over a kilobyte, and a pipe takes 64.
const EVENTS: usize = 120;

async fn deliveries(stage: &Stage) {
    let mut hits = Vec::new();
    for _ in 0..EVENTS {
        let hit = stage.platform.dispatch().await;
        stage.platform.start_warm(&hit).await;
        hit.schedule(&stage.db, SOON).await;
        hits.push(hit);
    }
    for hit in &hits {
        assert_eq!(stage.outcome(&hit.run).await.outcome, OutcomeKind::Delivered);
    }
}

#[tokio::test]
async fn a_reader_of_stdout_that_stalls_stops_neither_settles_nor_the_exit() {
    let stage = Stage::set().await;
    let mut worker = stage.worker("a").with_stdout_unread().start();
    let address = listens_at(&worker).await;
    deliveries(&stage).await;
    assert_eq!(get(&format!("{address}/healthz")).await.0, 200);
    assert_eq!(worker.terminate().await, Some(0));
    stage.assert_sound().await;
}

#[tokio::test]
async fn a_reader_of_stderr_that_stalls_stops_neither_settles_nor_the_exit() {
    let stage = Stage::set().await;
    // Far more than a pipe takes.
    let mut worker = stage.worker("a").env("WARMPROOF_LOG", "trace").with_stderr_unread().start();
    deliveries(&stage).await;
    assert_eq!(worker.terminate().await, Some(0));
    assert_eq!(worker.events().len(), EVENTS);
    stage.assert_sound().await;
}

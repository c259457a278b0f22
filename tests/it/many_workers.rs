//! Many workers over one table: each verification is one worker's.

use std::collections::BTreeSet;

use warmproof::domain::dispatch::Dispatch;
use warmproof::domain::verification::NewVerification;

use crate::support::dispatch::hit;
use crate::support::platform::SOON;
use crate::support::stage::Stage;
use crate::support::wait::until;

const HITS: usize = 200;

#[tokio::test]
async fn two_hundred_due_at_once_are_each_settled_once_by_one_of_four_workers() {
    let stage = Stage::set().await;
    let names = ["a", "b", "c", "d"];
    // Few claims at a time, so that all four get some.
    let worker =
        |name| stage.worker(name).env("WARMPROOF_CLAIMS_IN_HAND_MAX", 20).env("WARMPROOF_LEASE_MS", 20_000);
    let workers: Vec<_> = names.map(|name| worker(name).start()).into();
    for worker in &workers {
        worker.says("worker started").await;
    }
    let mut hits = Vec::new();
    for n in 0..HITS {
        let dispatched = stage.platform.dispatch().await;
        if n % 2 == 0 {
            stage.platform.start_warm(&dispatched).await;
        }
        hits.push(dispatched);
    }
    let template = hit("run_x", "snapshot_x", chrono::TimeDelta::zero());
    let new =
        |message| NewVerification { dispatch: Dispatch::parse(message, None).unwrap(), ..template.clone() };
    let batch: Vec<_> = hits.iter().map(|hit| new(hit.message.clone())).collect();
    let answers = stage.db.store.schedule(&batch, SOON).await.unwrap();
    assert!(answers.iter().all(Result::is_ok));

    until("all are settled", async || {
        let left: i64 = stage.db.value("select count(*) from pending").await;
        (left == 0).then_some(())
    })
    .await;
    for (n, hit) in hits.iter().enumerate() {
        assert_eq!(stage.platform.simulator.probes(&hit.run).len(), 1, "{} was probed by two", hit.run);
        assert_eq!(stage.platform.simulator.creates(&hit.run).len(), n % 2, "{}", hit.run);
        let outcome = stage.outcome(&hit.run).await;
        assert_eq!(outcome.outcome, ["delivered", "fallback"][n % 2]);
        assert_eq!(outcome.claim_count, 1);
    }
    let settlers: Vec<String> =
        sqlx::query_scalar("select distinct worker from outcome").fetch_all(stage.db.pool()).await.unwrap();
    assert_eq!(BTreeSet::from_iter(settlers), names.map(str::to_owned).into(), "all four took part");
    stage.audit(&hits, workers).await;
}

//! Two thousand losses at once: with a cap that lets a hundred through every two seconds, and without a cap.

use std::collections::HashMap;
use std::time::Duration;

use warmproof::config::worker::WorkerConfig;
use warmproof::domain::dispatch::Dispatch;
use warmproof::domain::ids::PoolName;
use warmproof::domain::verification::{Intent, NewVerification};
use warmproof_lab::simulator::SimulatorOptions;

use crate::TURN;
use crate::growth::until_it_grows_to;
use warmproof_testkit::platform::{Dispatched, SOON, options};
use warmproof_testkit::process::Process;
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::until;

const CAP: i64 = 100;
const WINDOW_MS: i64 = 2000;

/// Dispatches so many runs to dead runners, and schedules all their verifications for the same instant.
async fn losses(stage: &Stage, count: usize) -> Vec<Dispatched> {
    let mut hits = Vec::with_capacity(count);
    for _ in 0..count {
        hits.push(stage.platform.dispatch().await);
    }
    let new = |hit: &Dispatched| NewVerification {
        dispatch: Dispatch::parse(hit.message.clone(), None).unwrap(),
        pool: PoolName::default_pool(),
        supervisor: None,
        region: None,
        intent: Intent::Hit,
        delay: None,
    };
    let batch: Vec<_> = hits.iter().map(new).collect();
    for answer in stage.db.store.schedule(&batch, SOON).await.unwrap() {
        let _scheduled = answer.unwrap();
    }
    hits
}

async fn cap(stage: &Stage, cap: i64, window_ms: i64) {
    stage.db.run(&format!("update pool set cap = {cap}, cap_window_ms = {window_ms}")).await;
    // As every statement that changes a cap does.
    stage.db.run("select line_up_again('default')").await;
}

async fn until_ended(stage: &Stage, count: usize) {
    let ended = async || stage.db.value("select count(*) from outcome").await;
    until_it_grows_to("verifications end", i64::try_from(count).unwrap(), ended).await;
}

async fn most_in_a_window(stage: &Stage) -> i64 {
    stage
        .db
        .value(
            "select max(n) from (select count(*) as n from outcome
             group by window_of(create_permitted_at, (select cap_window_ms from pool))) as w",
        )
        .await
}

/// Records each claim that another worker takes over because its lease ran out.
async fn record_lost_claims(stage: &Stage) {
    stage.db.run("create table lost_claim (run_id text)").await;
    stage
        .db
        .run(
            "create function lose_claim() returns trigger language plpgsql as
             $$ begin insert into lost_claim values (old.run_id); return new; end $$",
        )
        .await;
    stage
        .db
        .run(
            "create trigger lose_claim before update of fence on pending for each row
             when (old.fence is not null and new.fence is not null and old.fence <> new.fence)
             execute function lose_claim()",
        )
        .await;
}

async fn assert_no_claim_was_lost(stage: &Stage) {
    let lost: i64 = stage.db.value("select count(*) from lost_claim").await;
    assert_eq!(lost, 0, "leases ran out while their workers lived");
}

/// Four workers with the lease that is the default.
async fn four_workers(stage: &Stage) -> Vec<Process> {
    let lease = WorkerConfig::LEASE_DEFAULT.as_millis();
    let start =
        |name| stage.worker(name).env("WARMPROOF_LOG", "warn").env("WARMPROOF_LEASE_MS", lease).start();
    let workers = ["a", "b", "c", "d"].map(start).into();
    until("all four are there", async || (stage.db.store.workers().await.unwrap().len() == 4).then_some(()))
        .await;
    workers
}

#[tokio::test]
async fn a_storm_of_losses_without_a_cap_costs_no_claim() {
    const LOSSES: usize = 2000;
    let _turn = TURN.lock().await;
    let stage = Stage::set().await;
    record_lost_claims(&stage).await;
    let workers = four_workers(&stage).await;
    let hits = losses(&stage, LOSSES).await;
    until_ended(&stage, LOSSES).await;
    assert_no_claim_was_lost(&stage).await;
    let created: i64 = stage.db.value("select count(*) from outcome where fallback_result = 'created'").await;
    assert_eq!(usize::try_from(created).unwrap(), LOSSES);
    for hit in &hits {
        assert_eq!(stage.platform.simulator.creates(&hit.run).len(), 1, "{}", hit.run);
    }
    let took: f64 =
        stage.db.value("select extract(epoch from max(settled_at) - min(due_at))::float8 from outcome").await;
    println!("storm without a cap: {LOSSES} losses in {took:.1} s");
    stage.end(workers).await;
    stage.assert_sound().await;
}

#[tokio::test]
async fn a_storm_of_losses_passes_the_cap_in_order_and_none_is_forgotten() {
    const LOSSES: usize = 2000;
    let _turn = TURN.lock().await;
    let stage = Stage::set().await;
    cap(&stage, CAP, WINDOW_MS).await;
    record_lost_claims(&stage).await;
    let workers = four_workers(&stage).await;
    let hits = losses(&stage, LOSSES).await;

    until_it_grows_to("those over the cap wait, for all to see", 1000, async || {
        stage
            .db
            .value("select count(*) from pending where lost_at is not null and hold_reason = 'cap' and fence is null")
            .await
    })
    .await;
    // Each loss waits for its window; no worker keeps probing all of them.
    until_ended(&stage, LOSSES).await;

    assert_no_claim_was_lost(&stage).await;
    assert!(most_in_a_window(&stage).await <= CAP, "more were permitted than the cap allows");
    let spent: i32 = stage.db.value("select max(spent) from fallback_window").await;
    assert!(i64::from(spent) <= CAP, "{spent}");
    let created: i64 = stage.db.value("select count(*) from outcome where fallback_result = 'created'").await;
    assert_eq!(usize::try_from(created).unwrap(), LOSSES);
    let mut most_probes = 0;
    for hit in &hits {
        stage.platform.executed(hit).await;
        let probes = stage.platform.simulator.probes(&hit.run);
        let requests = stage.platform.simulator.creates(&hit.run);
        assert_eq!(requests.len(), 1, "{}", hit.run);
        let asked = requests[0].arrived_at_ms;
        let age = probes
            .iter()
            .map(|probe| probe.arrived_at_ms)
            .filter(|at| *at <= asked)
            .max()
            .map(|at| asked - at);
        assert!(
            age.is_some_and(|age| age <= 2000),
            "{} was created on an observation {age:?} ms old",
            hit.run
        );
        most_probes = most_probes.max(probes.len());
    }
    assert!(most_probes <= 8, "a waiting loss was probed {most_probes} times");
    println!("storm: {LOSSES} losses, at most {spent} a window, at most {most_probes} probes a loss");
    stage.end(workers).await;
    stage.assert_sound().await;
}

#[tokio::test]
async fn losses_that_waited_until_the_redrive_took_them_are_still_losses() {
    // Twice as many as one every two seconds lets through before the redrive.
    const LOSSES: usize = 60;
    let _turn = TURN.lock().await;
    let stage = Stage::set_with(SimulatorOptions { redrive: Duration::from_mins(1), ..options() }).await;
    cap(&stage, 1, WINDOW_MS).await;
    let worker = stage.worker("a").env("WARMPROOF_LEASE_MS", WorkerConfig::LEASE_DEFAULT.as_millis()).start();
    worker.says("worker started").await;
    losses(&stage, LOSSES).await;
    until_ended(&stage, LOSSES).await;

    let by_result: Vec<(Option<String>, i64)> =
        sqlx::query_as("select fallback_result, count(*) from outcome where outcome = 'fallback' group by 1")
            .fetch_all(stage.db.pool())
            .await
            .unwrap();
    let by_result: HashMap<_, _> = by_result.into_iter().collect();
    let of = |result: &str| by_result.get(&Some(result.to_owned())).copied().unwrap_or(0);
    assert_eq!(of("created") + of("requeued"), i64::try_from(LOSSES).unwrap(), "{by_result:?}");
    assert!(of("created") >= 20 && of("requeued") >= 20, "{by_result:?}");
    let counted: i64 = stage.db.value("select sum(lost)::bigint from silent_loss_minutely").await;
    assert_eq!(usize::try_from(counted).unwrap(), LOSSES, "each was seen in time, and is in the rates");
    println!("storm with the redrive: {LOSSES} losses, {by_result:?}, {counted} counted");
    let spent: i32 = stage.db.value("select max(spent) from fallback_window").await;
    assert_eq!(spent, 1);
    stage.end(vec![worker]).await;
    stage.db.assert_conserved().await;
}

#[tokio::test]
async fn a_raised_cap_lets_those_in_line_go_at_once() {
    const LOSSES: usize = 20;
    let _turn = TURN.lock().await;
    let stage = Stage::set().await;
    cap(&stage, 0, 1000).await;
    let worker = stage.worker("a").start();
    worker.says("worker started").await;
    losses(&stage, LOSSES).await;
    until("all wait", async || {
        let waiting: i64 =
            stage.db.value("select count(*) from pending where hold_reason = 'cap' and fence is null").await;
        (usize::try_from(waiting).unwrap() == LOSSES).then_some(())
    })
    .await;
    let soonest: f64 =
        stage.db.value("select extract(epoch from min(probe_at) - now())::float8 from pending").await;
    assert!(soonest > 30.0, "no probe is planned before the redrive: {soonest}");
    cap(&stage, 1000, 1000).await;
    until_ended(&stage, LOSSES).await;
    stage.end(vec![worker]).await;
    stage.assert_sound().await;
}

//! A worker that alone cannot probe stops no other: they recover the losses, and it says that it is sick.

use std::time::Duration;

use warmproof::domain::ids::{PoolName, WorkerName};
use warmproof::domain::outcome::{FallbackResult, OutcomeKind};
use warmproof::store::tally::ProbeTally;

use crate::metrics::{get, listens_at};
use warmproof_testkit::db::{Db, db};
use warmproof_testkit::process::{Process, Program};
use warmproof_testkit::proxy::Proxy;
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::until;

/// A port on which no process listens.
async fn closed_port() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

fn sick(stage: &Stage) -> Program {
    stage.worker("sick").may_warn(&["probes failed", "this worker is sick"])
}

async fn readyz(worker: &Process) -> (u16, String) {
    get(&format!("{}/readyz", listens_at(worker).await)).await
}

async fn is_sick(worker: &Process) -> bool {
    let (status, body) = readyz(worker).await;
    status == 503 && body.contains("this worker is sick")
}

/// Lost and healthy runs until the worker finds that it is sick, and as many after that.
async fn losses_are_recovered_beside(stage: &Stage, sick: Process) {
    let well = stage.worker("well").start();
    well.says("worker started").await;
    let (mut lost, mut healthy) = (Vec::new(), Vec::new());
    let pair = async |lost: &mut Vec<_>, healthy: &mut Vec<_>| {
        lost.push(stage.hit().await);
        let alive = stage.hit().await;
        stage.platform.start_warm(&alive).await;
        healthy.push(alive);
    };
    until("the worker finds that it is sick", async || {
        pair(&mut lost, &mut healthy).await;
        is_sick(&sick).await.then_some(())
    })
    .await;
    for _ in 0..lost.len() {
        pair(&mut lost, &mut healthy).await;
    }
    for hit in &lost {
        let outcome = stage.outcome(&hit.run).await;
        assert_eq!(outcome.fallback_result, Some(FallbackResult::Created), "{outcome:?}");
        let took = outcome.lost_at.unwrap() - outcome.due_at;
        assert!(took.num_seconds() < 10, "recovered {took} after it was due: {outcome:?}");
    }
    for hit in &healthy {
        assert_eq!(stage.outcome(&hit.run).await.outcome, OutcomeKind::Delivered);
    }
    let errors: i64 = stage.db.value("select count(*) from outcome where outcome = 'probe_error'").await;
    assert_eq!(errors, 0, "no verification pays for the sick worker");

    assert!(is_sick(&sick).await);
    assert_eq!(readyz(&well).await.0, 200);
    let problem = "the sick worker is listed with its problem";
    until(problem, async || {
        let workers = stage.db.store.workers().await.unwrap();
        let sick = workers.into_iter().find(|worker| worker.name == "sick")?;
        sick.problems[0].clone().filter(|problem| problem.contains("this worker is sick"))
    })
    .await;
    let all: Vec<_> = lost.into_iter().chain(healthy).collect();
    stage.audit(&all, vec![sick, well]).await;
}

#[tokio::test]
async fn a_worker_with_a_broken_way_to_the_platform_leaves_its_rows_to_others() {
    let stage = Stage::set().await;
    let nowhere = format!("http://127.0.0.1:{}", closed_port().await);
    let sick = sick(&stage).env("TRIGGER_API_URL", nowhere).start();
    losses_are_recovered_beside(&stage, sick).await;
}

#[tokio::test]
async fn a_worker_with_a_wrong_token_leaves_its_rows_to_others() {
    let stage = Stage::set().await;
    let sick = sick(&stage).env("TRIGGER_WORKER_TOKEN", "tr_wgt_of_another_group").start();
    losses_are_recovered_beside(&stage, sick).await;
}

async fn tell(db: &Db, worker: &str, probes: u32, failures: u32) -> bool {
    let pool = PoolName::default_pool();
    let tally = ProbeTally { pool: pool.clone(), probes, failures };
    let worker = WorkerName::parse(worker).unwrap();
    db.store.tally_probes(&worker, &[tally]).await.unwrap().contains(&pool)
}

async fn is_brown_out(db: &Db) -> bool {
    db.value(
        "select exists (select 1 from brown_out b join pool p on p.name = b.pool
           where brown_out_over_at(b, p.cool_down_ms) > clock_timestamp())",
    )
    .await
}

/// As if what is reported had been so long ago.
async fn seconds_pass(db: &Db, seconds: u32) {
    let past = format!("update probe_tally set counted_at = counted_at - interval '{seconds} s'");
    db.run(&past).await;
}

#[tokio::test]
async fn no_worker_is_sick_because_it_reports_the_first_failures_of_a_brown_out() {
    for (first, second) in [((3, 2), (2, 0)), ((10, 6), (9, 1)), ((30, 30), (30, 5)), ((300, 180), (280, 60))]
    {
        let db = db().await;
        for _ in 0..5 {
            for worker in ["first", "second"] {
                assert!(!tell(&db, worker, 20, 0).await);
            }
            seconds_pass(&db, 1).await;
        }
        // Each second covers what was before it for the one that reported just before.
        for (at, of_first, of_second) in [(0, first, second), (1, first, (20, 12)), (2, (20, 12), (20, 12))] {
            assert!(!tell(&db, "first", of_first.0, of_first.1).await, "{first:?} {second:?}, second {at}");
            assert!(
                !tell(&db, "second", of_second.0, of_second.1).await,
                "{first:?} {second:?}, second {at}"
            );
            seconds_pass(&db, 1).await;
        }
        assert!(is_brown_out(&db).await);
    }
}

#[tokio::test]
async fn failures_of_long_ago_do_not_hide_that_a_worker_has_just_fallen_sick() {
    let db = db().await;
    assert!(!tell(&db, "first", 10, 1).await);
    for _ in 0..25 {
        for worker in ["first", "second"] {
            assert!(!tell(&db, worker, 10, 0).await);
        }
        seconds_pass(&db, 1).await;
    }
    let mut failing_for = 0;
    while !tell(&db, "first", 10, 10).await {
        assert!(!tell(&db, "second", 10, 0).await);
        seconds_pass(&db, 1).await;
        failing_for += 1;
        assert!(failing_for < 6, "it is not seen for {failing_for} s");
    }
}

#[tokio::test]
async fn what_most_workers_see_is_a_brown_out_and_what_one_sees_is_its_own() {
    // Probes and failures of each worker; which of them are sick; whether it is a brown-out.
    type Case = (&'static [(u32, u32)], &'static [bool], bool);
    let cases: [Case; 10] = [
        (&[(20, 20)], &[false], true),
        (&[(20, 20), (20, 0)], &[true, false], false),
        (&[(20, 20), (20, 20)], &[false, false], true),
        (&[(20, 20), (20, 0), (20, 20)], &[false, false, false], true),
        (&[(20, 20), (20, 0), (20, 1), (20, 20)], &[true, false, false, true], false),
        // Half of them fail at a worker of five.
        (&[(20, 10), (20, 0), (20, 0), (20, 0), (20, 0)], &[true, false, false, false, false], false),
        // All see about the same.
        (&[(20, 3), (20, 5), (20, 6)], &[false, false, false], true),
        // Two probes say nothing, and few may fail by chance.
        (&[(20, 0), (2, 2)], &[false, false], false),
        (&[(4, 0), (4, 3)], &[false, false], false),
        (&[(5, 0), (8, 8)], &[false, true], false),
    ];
    for (reports, sick, brown_out) in cases {
        let db = db().await;
        for _ in 0..2 {
            seconds_pass(&db, 2).await;
            for (worker, (probes, failures)) in reports.iter().enumerate() {
                let _ = tell(&db, &format!("worker-{worker}"), *probes, *failures).await;
            }
        }
        db.run("delete from brown_out").await;
        for (worker, is_sick) in sick.iter().enumerate() {
            let found: bool = db.value(&format!("select observe_probes('default', 'worker-{worker}')")).await;
            assert_eq!(found, *is_sick, "worker {worker} of {reports:?}");
        }
        assert_eq!(is_brown_out(&db).await, brown_out, "{reports:?}");
    }
}

#[tokio::test]
async fn a_brown_out_is_over_soon_after_a_short_fault_and_later_after_a_long_one() {
    for (lasted_seconds, held_seconds) in [(0, 5), (2, 9), (6, 17), (12, 29), (25, 30)] {
        let db = db().await;
        for second in 0..=lasted_seconds {
            let _ = tell(&db, "worker-1", 10, 10).await;
            if second < lasted_seconds {
                db.run("update probe_tally set counted_at = counted_at - interval '1 s'").await;
                db.run(
                    "update brown_out set seen_at = seen_at - interval '1 s', began_at = began_at - interval '1 s',
                       failed_at = failed_at - interval '1 s', ends_at = ends_at - interval '1 s'",
                )
                .await;
            }
        }
        let held: f64 = db
            .value(
                "select extract(epoch from brown_out_over_at(b, cool_down_ms) - failed_at)::float8
                 from brown_out b join pool p on p.name = b.pool",
            )
            .await;
        let expected = f64::from(held_seconds);
        assert!((held - expected).abs() < 1.0, "after {lasted_seconds} s it is held for {held} s");
    }
}

#[tokio::test]
async fn two_faults_with_a_pause_between_them_are_not_one_long_fault() {
    let db = db().await;
    for fault in 0..2 {
        let _ = tell(&db, "worker-1", 20, 20).await;
        if fault == 0 {
            for table in ["probe_tally set counted_at = counted_at", "brown_out set seen_at = seen_at"] {
                db.run(&format!("update {table} - interval '12 s'")).await;
            }
            db.run(
                "update brown_out set began_at = began_at - interval '12 s',
                   failed_at = failed_at - interval '12 s', ends_at = ends_at - interval '12 s'",
            )
            .await;
        }
    }
    let lasted: f64 =
        db.value("select extract(epoch from failed_at - began_at)::float8 from brown_out").await;
    assert!(lasted < 1.0, "{lasted} s");
}

/// Long enough for a slow machine, and far less than a sick worker would wait if it never tried again.
const WELL_WITHIN: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_sick_worker_tries_again_and_is_well_when_a_probe_is_answered() {
    let stage = Stage::set().await;
    let platform = stage.platform.simulator.base_url().trim_start_matches("http://").parse().unwrap();
    let mut network = Proxy::closed(platform);
    let sick = sick(&stage).env("TRIGGER_API_URL", format!("http://{}", network.address)).start();
    let well = stage.worker("well").start();
    let mut hits = Vec::new();
    until("the worker finds that it is sick", async || {
        hits.push(stage.hit().await);
        is_sick(&sick).await.then_some(())
    })
    .await;
    network.open();
    let began = tokio::time::Instant::now();
    until("the worker is well again", async || {
        hits.push(stage.hit().await);
        (readyz(&sick).await.0 == 200).then_some(())
    })
    .await;
    assert!(began.elapsed() < WELL_WITHIN, "{:?}", began.elapsed());
    for hit in &hits {
        assert_ne!(stage.outcome(&hit.run).await.outcome, OutcomeKind::ProbeError);
    }
    stage.audit(&hits, vec![sick, well]).await;
}

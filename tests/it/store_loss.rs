//! The writes of a loss before its create: mark, permit, count.

use std::time::Duration;

use warmproof::domain::claim::{Claim, Fence};
use warmproof::domain::status::HoldReason;
use warmproof::store::Store;
use warmproof::store::fall_back::{Count, Fenced, Permit};

use warmproof_testkit::db::{Db, db};
use warmproof_testkit::dispatch::{claim, claimed, everything};

const HOLD: Duration = Duration::from_secs(1);

async fn lost(db: &Db, run: &str) -> Claim {
    let claim = claimed(&db.store, run, "snapshot_1").await;
    assert!(matches!(db.store.mark_lost(&claim.key, 1).await.unwrap(), Fenced::Ours(_)));
    claim
}

async fn permit(store: &Store, claim: &Claim) -> Fenced<Permit> {
    store.permit_create(&claim.key, HOLD).await.unwrap()
}

#[tokio::test]
async fn a_mark_keeps_its_first_instant() {
    let db = db().await;
    let claim = claimed(&db.store, "run_a", "snapshot_1").await;
    let first = db.store.mark_lost(&claim.key, 1).await.unwrap();
    let again = db.store.mark_lost(&claim.key, 0).await.unwrap();
    assert!(matches!(first, Fenced::Ours(_)));
    assert_eq!(first, again);
    assert_eq!(db.value::<i32>("select probe_count from pending").await, 1);
}

#[tokio::test]
async fn a_permit_asked_for_again_is_granted_without_a_second_unit() {
    let db = db().await;
    let claim = lost(&db, "run_a").await;
    for _ in 0..3 {
        assert_eq!(permit(&db.store, &claim).await, Fenced::Ours(Permit::Granted));
    }
    assert_eq!(db.value::<i64>("select sum(spent) from fallback_window").await, 1);
}

#[tokio::test]
async fn the_cap_of_a_window_holds_over_concurrent_workers() {
    let db = db().await;
    db.run("update pool set cap = 5, cap_window_ms = 3600000 where name = 'default'").await;
    let mut claims = Vec::new();
    for n in 0..20 {
        claims.push(lost(&db, &format!("run_{n}")).await);
    }
    let asked = claims.into_iter().map(|claim| {
        let store = db.store.clone();
        tokio::spawn(async move { permit(&store, &claim).await })
    });
    let mut granted = 0;
    for answer in asked.collect::<Vec<_>>() {
        match answer.await.unwrap() {
            Fenced::Ours(Permit::Granted) => granted += 1,
            Fenced::Ours(Permit::Deferred { reason }) => assert_eq!(reason, HoldReason::Cap),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(granted, 5);
    let waiting: i64 = db
        .value("select count(*) from pending where lost_at is not null and worker is null and hold_reason = 'cap' and probe_at > clock_timestamp()")
        .await;
    assert_eq!(waiting, 15, "the rest wait: held, and claimed by no worker");
}

#[tokio::test]
async fn shadow_suppresses_and_a_pause_or_a_cap_of_nothing_holds() {
    let db = db().await;
    db.run("update pool set shadow = true").await;
    let claim = lost(&db, "run_a").await;
    assert_eq!(permit(&db.store, &claim).await, Fenced::Ours(Permit::Suppressed));
    db.run("update pool set shadow = false, cap = 0").await;
    let deferred = |reason| Fenced::Ours(Permit::Deferred { reason });
    assert_eq!(permit(&db.store, &claim).await, deferred(HoldReason::Cap));
    assert_eq!(permit(&db.store, &claim).await, Fenced::Stale, "a held row is released");
    let claim = claim_again(&db).await;
    db.run("update pool set cap = null, paused = true").await;
    assert_eq!(permit(&db.store, &claim).await, deferred(HoldReason::Paused));
}

async fn tally(db: &Db, probes: u32, failures: u32) {
    let pool = warmproof::domain::ids::PoolName::default_pool();
    let tally = warmproof::store::tally::ProbeTally { pool, probes, failures };
    let worker = warmproof::domain::ids::WorkerName::parse("worker-1").unwrap();
    let sick = db.store.tally_probes(&worker, &[tally]).await.unwrap();
    assert_eq!(sick, [], "no other worker probes");
}

#[tokio::test]
async fn a_brown_out_holds_losses_until_its_cool_down_is_over() {
    let db = db().await;
    let held = Fenced::Ours(Permit::Deferred { reason: HoldReason::BrownOut });
    let (held_at_once, held_later) = (lost(&db, "run_held").await, lost(&db, "run_settling").await);
    tally(&db, 9, 9).await;
    assert_eq!(
        permit(&db.store, &lost(&db, "run_few").await).await,
        Fenced::Ours(Permit::Granted),
        "too few probes for a brown-out"
    );
    tally(&db, 41, 0).await;
    assert_eq!(
        permit(&db.store, &lost(&db, "run_mild").await).await,
        Fenced::Ours(Permit::Granted),
        "9 of 50 failed"
    );
    tally(&db, 1, 1).await;
    tally(&db, 4, 3).await;
    assert_eq!(permit(&db.store, &held_at_once).await, held, "13 of 55 failed");

    // The failures lasted for a minute and grow old, but the cool-down is not over yet for what was dispatched then.
    for column in ["dequeued_at", "scheduled_at"] {
        db.run(&format!("update pending set {column} = {column} - interval '40 s'")).await;
    }
    db.run("update probe_tally set counted_at = counted_at - interval '31 s'").await;
    let aged = "update brown_out set seen_at = m.moment, failed_at = m.moment, began_at = m.moment - interval '60 s',
                  ends_at = m.moment + interval '125 s' from (select clock_timestamp() - interval 'AGE s') as m (moment)";
    db.run(&aged.replace("AGE", "29")).await;
    assert_eq!(permit(&db.store, &held_later).await, held);
    db.run(&aged.replace("AGE", "31")).await;
    let waiting = claim(&db.store, everything("default", 10)).await;
    assert_eq!(waiting.len(), 2, "both wait: held, and claimed by no worker");
    for claim in waiting {
        assert_eq!(permit(&db.store, &claim).await, Fenced::Ours(Permit::Granted));
    }
}

#[tokio::test]
async fn after_the_failures_only_those_are_held_whose_runner_tried_to_start_meanwhile() {
    // When a loss was scheduled, in seconds before the failures ended; they lasted for ten.
    for (scheduled, held) in
        [(30.0, false), (16.0, false), (14.0, true), (5.0, true), (-1.0, true), (-3.0, false)]
    {
        let db = db().await;
        let claim = lost(&db, "run_a").await;
        db.run(
            "insert into brown_out (pool, seen_at, began_at, failed_at, ends_at)
             select 'default', now() - interval '4 s', now() - interval '14 s', now() - interval '4 s', now() + interval '21 s'",
        )
        .await;
        db.run(&format!(
            "update pending set scheduled_at = now() - interval '4 s' - interval '{scheduled} s'"
        ))
        .await;
        let answer = permit(&db.store, &claim).await;
        let expected = if held { Permit::Deferred { reason: HoldReason::BrownOut } } else { Permit::Granted };
        assert_eq!(answer, Fenced::Ours(expected), "scheduled {scheduled} s before the last failure");
        if held {
            let waits: f64 =
                db.value("select extract(epoch from probe_at - now())::float8 from pending").await;
            assert!(waits < 30.0, "{waits}");
        }
    }
    // Another fault meanwhile does not end the hold of the first one.
    let db = db().await;
    let (between, later) = (lost(&db, "run_a").await, lost(&db, "run_b").await);
    db.run(
        "insert into brown_out (pool, seen_at, began_at, failed_at, ends_at)
         select 'default', now() - interval '10 s', now() - interval '22 s', now() - interval '10 s', now() + interval '19 s'",
    )
    .await;
    tally(&db, 20, 20).await;
    let aged = "update brown_out set began_at = now() - interval '4 s', failed_at = now() - interval '4 s', ends_at = now() + interval '1 s'";
    db.run(aged).await;
    for (run, scheduled) in [("run_a", 15), ("run_b", 1)] {
        db.run(&format!(
            "update pending set scheduled_at = now() - interval '{scheduled} s' where run_id = '{run}'"
        ))
        .await;
    }
    assert_eq!(
        permit(&db.store, &between).await,
        Fenced::Ours(Permit::Deferred { reason: HoldReason::BrownOut })
    );
    assert_eq!(permit(&db.store, &later).await, Fenced::Ours(Permit::Granted));
    // While probes fail, every loss is held.
    let db = warmproof_testkit::db::db().await;
    let claim = lost(&db, "run_a").await;
    tally(&db, 20, 20).await;
    db.run("update pending set scheduled_at = now() - interval '40 s'").await;
    assert_eq!(
        permit(&db.store, &claim).await,
        Fenced::Ours(Permit::Deferred { reason: HoldReason::BrownOut })
    );
}

async fn claim_again(db: &Db) -> Claim {
    claim(&db.store, everything("default", 1)).await.pop().expect("the row is free")
}

#[tokio::test]
async fn a_create_is_counted_only_with_a_permit_and_notes_its_name() {
    let db = db().await;
    let claim = lost(&db, "run_a").await;
    assert_eq!(db.store.count_create(&claim.key, "runner-a", HOLD).await.unwrap(), Fenced::Stale);
    let _ = permit(&db.store, &claim).await;
    assert_eq!(
        db.store.count_create(&claim.key, "runner-a", HOLD).await.unwrap(),
        Fenced::Ours(Count::Counted(1))
    );
    assert_eq!(
        db.store.count_create(&claim.key, "runner-a-r2", HOLD).await.unwrap(),
        Fenced::Ours(Count::Counted(2))
    );
    assert_eq!(db.value::<String>("select workload from pending").await, "runner-a-r2");
}

async fn count(db: &Db, claim: &Claim) -> Fenced<Count> {
    db.store.count_create(&claim.key, "runner-a", HOLD).await.unwrap()
}

const SPENT: &str = "select coalesce(sum(spent), 0)::bigint from fallback_window";

#[tokio::test]
async fn a_control_set_after_the_permit_still_stops_the_request_and_gives_the_unit_back() {
    for (control, reason) in [
        ("update pool set cap = 0", HoldReason::Cap),
        ("update pool set paused = true", HoldReason::Paused),
        ("insert into brown_out (pool, seen_at) values ('default', clock_timestamp())", HoldReason::BrownOut),
    ] {
        let db = db().await;
        let claim = lost(&db, "run_a").await;
        assert_eq!(permit(&db.store, &claim).await, Fenced::Ours(Permit::Granted));
        assert_eq!(db.value::<i64>(SPENT).await, 1);
        db.run(control).await;
        assert_eq!(count(&db, &claim).await, Fenced::Ours(Count::Deferred { reason }), "{control}");
        assert_eq!(db.value::<i64>(SPENT).await, 0, "{control}");
        let waits: bool = db
            .value(
                "select create_permitted_at is null and create_count = 0 and fence is null
                   and probe_at > clock_timestamp() and hold_reason is not null from pending",
            )
            .await;
        assert!(waits, "{control}: it asks for a permit again");
        assert_eq!(count(&db, &claim).await, Fenced::Stale, "the claim was given back");
    }
}

#[tokio::test]
async fn a_pool_put_in_shadow_mode_after_the_permit_suppresses_the_request() {
    let db = db().await;
    let claim = lost(&db, "run_a").await;
    let _ = permit(&db.store, &claim).await;
    assert_eq!(count(&db, &claim).await, Fenced::Ours(Count::Counted(1)));
    db.run("update pool set shadow = true").await;
    assert_eq!(count(&db, &claim).await, Fenced::Ours(Count::Suppressed { earlier: 1 }));
}

#[tokio::test]
async fn a_retry_that_is_stopped_keeps_the_permit_of_the_request_that_was_sent() {
    let db = db().await;
    let claim = lost(&db, "run_a").await;
    let _ = permit(&db.store, &claim).await;
    assert_eq!(count(&db, &claim).await, Fenced::Ours(Count::Counted(1)));
    db.run("update pool set paused = true").await;
    assert_eq!(count(&db, &claim).await, Fenced::Ours(Count::Deferred { reason: HoldReason::Paused }));
    let kept: bool =
        db.value("select create_permitted_at is not null and create_count = 1 from pending").await;
    assert!(kept, "a cold start may be on its way");
    assert_eq!(db.value::<i64>(SPENT).await, 1);
}

#[tokio::test]
async fn every_step_of_a_stale_claim_changes_nothing() {
    let db = db().await;
    let claim = lost(&db, "run_a").await;
    let mut stale = claim.key.clone();
    stale.fence = Fence::fresh(&mut rand::rng());
    let before: String = db.value("select pending::text from pending").await;
    assert_eq!(db.store.mark_lost(&stale, 1).await.unwrap(), Fenced::Stale);
    assert_eq!(db.store.permit_create(&stale, HOLD).await.unwrap(), Fenced::Stale);
    assert_eq!(db.store.count_create(&stale, "x", HOLD).await.unwrap(), Fenced::Stale);
    assert!(matches!(db.store.message(&stale).await.unwrap(), Fenced::Stale));
    assert_eq!(db.value::<String>("select pending::text from pending").await, before);
    assert_eq!(db.value::<i64>("select count(*) from fallback_window").await, 0);
}

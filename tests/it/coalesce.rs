//! Single calls that arrive together share a statement, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use warmproof::domain::ids::PoolName;
use warmproof::domain::verification::{CancelReason, Cancelled, ScheduleRefusal, ScheduleResult};
use warmproof::store::coalesce::Coalescer;

use warmproof_testkit::db::{Db, db};
use warmproof_testkit::dispatch::{DELAY, cancellation, fresh, hit};

/// One lane, so that all calls meet.
async fn one_lane() -> (Db, Arc<Coalescer>) {
    let db = db().await;
    let coalescer = Arc::new(Coalescer::start(&db.store.clone().with_lanes(1), DELAY));
    (db, coalescer)
}

#[tokio::test]
async fn hundreds_of_callers_each_get_their_own_answer() {
    let (db, coalescer) = one_lane().await;
    let calls = (0..500).map(|n| {
        let coalescer = Arc::clone(&coalescer);
        tokio::spawn(async move { coalescer.schedule(fresh(&format!("run_{n}"), "snapshot_1")).await })
    });
    for (n, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
        let answer = call.await.unwrap().unwrap().unwrap();
        assert_eq!(answer.result, ScheduleResult::Created);
        let run: String = db.value(&format!("select run_id from pending where id = '{}'", answer.id)).await;
        assert_eq!(run, format!("run_{n}"));
    }
    // Far fewer delta rows than calls: they really met.
    let statements: i64 = db.value("select count(*) from outcome_count where outcome = 'scheduled'").await;
    assert!(statements < 250, "{statements} statements for 500 calls");
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_cancel_stays_behind_the_schedule_it_was_called_after() {
    let (db, coalescer) = one_lane().await;
    for round in 0..20 {
        let run = format!("run_{round}");
        // Both are queued before either is answered.
        let (scheduled, cancelled) = tokio::join!(
            biased;
            coalescer.schedule(fresh(&run, "snapshot_1")),
            coalescer.cancel(cancellation(&run, None, CancelReason::Connected)),
        );
        let id = scheduled.unwrap().unwrap().id;
        assert_eq!(cancelled.unwrap(), Cancelled::Cancelled { id });
        let later = hit(&run, "snapshot_2", TimeDelta::milliseconds(-5));
        let (cancelled, scheduled) = tokio::join!(
            biased;
            coalescer.cancel(cancellation(&run, None, CancelReason::Connected)),
            coalescer.schedule(later),
        );
        assert_eq!(cancelled.unwrap(), Cancelled::NotFound, "the schedule came after");
        assert_eq!(scheduled.unwrap().unwrap().result, ScheduleResult::Created);
    }
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_bad_call_never_fails_its_neighbours() {
    let (db, coalescer) = one_lane().await;
    let mut stray = fresh("run_stray", "snapshot_1");
    stray.pool = PoolName::parse("nowhere").unwrap();
    let mut refused = fresh("run_refused", "snapshot_1");
    // The schema refuses it. In production the checks of the library and of the API come first.
    refused.delay = Some(Duration::from_secs(61));
    let (good, stray, refused, also_good) = tokio::join!(
        coalescer.schedule(fresh("run_good", "snapshot_1")),
        coalescer.schedule(stray),
        coalescer.schedule(refused),
        coalescer.schedule(fresh("run_also", "snapshot_1")),
    );
    assert_eq!(good.unwrap().unwrap().result, ScheduleResult::Created);
    assert_eq!(also_good.unwrap().unwrap().result, ScheduleResult::Created);
    assert!(matches!(stray.unwrap(), Err(ScheduleRefusal::UnknownPool(_))));
    assert_eq!(refused.unwrap_err().sqlstate().as_deref(), Some("23514"));
    assert_eq!(db.value::<i64>("select count(*) from pending").await, 2);
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_callers_open_transaction_on_one_run_never_blocks_the_lane() {
    let (db, coalescer) = one_lane().await;
    let _ = coalescer.schedule(fresh("run_held", "snapshot_1")).await.unwrap().unwrap();
    let mut caller = db.pool().begin().await.unwrap();
    sqlx::query("select from pending where run_id = 'run_held' for update")
        .execute(&mut *caller)
        .await
        .unwrap();

    let held = tokio::spawn({
        let coalescer = Arc::clone(&coalescer);
        async move { coalescer.cancel(cancellation("run_held", None, CancelReason::Operator)).await }
    });
    for n in 0..50 {
        let run = format!("run_{n}");
        let _ = coalescer.schedule(fresh(&run, "snapshot_1")).await.unwrap().unwrap();
        let cancelled = coalescer.cancel(cancellation(&run, None, CancelReason::Connected)).await.unwrap();
        assert!(matches!(cancelled, Cancelled::Cancelled { .. }));
    }
    // Alone, it waits for the caller's transaction, for a bounded time.
    assert_eq!(held.await.unwrap().unwrap(), Cancelled::Busy);
    caller.rollback().await.unwrap();
    db.assert_conserved().await;
}

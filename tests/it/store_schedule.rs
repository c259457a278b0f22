//! The answers of a schedule call.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use sqlx::Connection;
use warmproof::config::database::{Codec, CompressionConfig, DatabaseConfig};
use warmproof::domain::ids::{PoolName, RunId};
use warmproof::domain::outcome::{FallbackResult, OutcomeKind};
use warmproof::domain::verification::{CancelReason, ScheduleRefusal, ScheduleResult};
use warmproof::scheduler::{Hit, Scheduler};
use warmproof::store::Store;
use warmproof::store::connect::Role;

use warmproof_testkit::db::{database_config, db};
use warmproof_testkit::dispatch::{
    DELAY, cancellation, claimed, fresh, hit, message, schedule, settlement, started,
};

#[tokio::test]
async fn a_first_dispatch_is_created_and_due_after_the_delay_by_the_databases_clock() {
    let db = db().await;
    let before = db.store.clock().await.unwrap();
    let scheduled = schedule(&db.store, fresh("run_a", "snapshot_1")).await;
    let after = db.store.clock().await.unwrap();
    assert_eq!(scheduled.result, ScheduleResult::Created);
    let delay = TimeDelta::from_std(DELAY).unwrap();
    assert!(scheduled.due_at >= before + delay && scheduled.due_at <= after + delay);
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_duplicate_keeps_the_first_promise() {
    let db = db().await;
    let first = schedule(&db.store, fresh("run_a", "snapshot_1")).await;
    let second = schedule(&db.store, fresh("run_a", "snapshot_1")).await;
    assert_eq!(second.result, ScheduleResult::Duplicate);
    assert_eq!((second.id, second.due_at), (first.id, first.due_at));
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_later_dispatch_supersedes_with_a_fresh_life() {
    let db = db().await;
    let first = claimed(&db.store, "run_a", "snapshot_1").await;
    let second = schedule(&db.store, hit("run_a", "snapshot_2", TimeDelta::milliseconds(-5))).await;
    assert_eq!(second.result, ScheduleResult::Superseded);
    assert_ne!(second.id, first.key.id);
    let pending = db.store.pending_of(&first.key.run_id).await.unwrap().unwrap();
    assert_eq!((pending.id, pending.claim_count), (second.id.0, 0));
    assert_eq!((pending.worker, pending.lost_at), (None, None));
    let outcomes = db.store.outcomes_of(&first.key.run_id, 10).await.unwrap();
    assert_eq!(outcomes.len(), 1);
    assert_eq!((outcomes[0].id, outcomes[0].outcome.as_str()), (first.key.id.0, "superseded"));
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_superseded_loss_ends_as_a_fallback() {
    let db = db().await;
    let first = claimed(&db.store, "run_a", "snapshot_1").await;
    let _ = db.store.mark_lost(&first.key, 1).await.unwrap();
    let second = schedule(&db.store, hit("run_a", "snapshot_2", TimeDelta::milliseconds(-5))).await;
    assert_eq!(second.result, ScheduleResult::Superseded);
    let outcomes = db.store.outcomes_of(&first.key.run_id, 10).await.unwrap();
    assert_eq!(outcomes[0].outcome, OutcomeKind::Fallback);
    assert_eq!(outcomes[0].fallback_result.map(FallbackResult::as_str), Some("superseded"));
    let pending = db.store.pending_of(&first.key.run_id).await.unwrap().unwrap();
    assert_eq!(pending.lost_at, None, "the new verification starts afresh");
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_late_retry_of_an_older_dispatch_is_outdated_and_changes_nothing() {
    let db = db().await;
    let newer = schedule(&db.store, fresh("run_a", "snapshot_2")).await;
    let older = schedule(&db.store, hit("run_a", "snapshot_1", TimeDelta::seconds(30))).await;
    assert_eq!(older.result, ScheduleResult::Outdated);
    assert_eq!((older.id, older.due_at), (newer.id, newer.due_at));
    let snapshot: String = db.value("select snapshot_id from pending").await;
    assert_eq!(snapshot, "snapshot_2");
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_late_retry_does_not_revive_what_has_ended() {
    let db = db().await;
    let first = schedule(&db.store, hit("run_a", "snapshot_2", TimeDelta::seconds(5))).await;
    let cancel = [cancellation("run_a", None, CancelReason::Connected)];
    let _ = db.store.cancel(&cancel).await.unwrap();
    let same = schedule(&db.store, hit("run_a", "snapshot_2", TimeDelta::seconds(5))).await;
    assert_eq!((same.result, same.id), (ScheduleResult::Duplicate, first.id));
    let older = schedule(&db.store, hit("run_a", "snapshot_1", TimeDelta::seconds(30))).await;
    assert_eq!((older.result, older.id), (ScheduleResult::Outdated, first.id));
    let newer = schedule(&db.store, hit("run_a", "snapshot_3", TimeDelta::seconds(2))).await;
    assert_eq!(newer.result, ScheduleResult::Created);
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_message_from_a_clock_that_is_ahead_does_not_revive_what_has_ended() {
    let db = db().await;
    let first = schedule(&db.store, hit("run_a", "snapshot_1", TimeDelta::seconds(-50))).await;
    let cancel = [cancellation("run_a", None, CancelReason::Connected)];
    let _ = db.store.cancel(&cancel).await.unwrap();
    let retry = schedule(&db.store, hit("run_a", "snapshot_1", TimeDelta::seconds(-50))).await;
    assert_eq!((retry.result, retry.id), (ScheduleResult::Duplicate, first.id));
    db.assert_conserved().await;
}

#[tokio::test]
async fn concurrent_schedules_of_one_dispatch_create_it_once() {
    let db = db().await;
    let calls = (0..8).map(|_| {
        let store = db.store.clone();
        tokio::spawn(async move { schedule(&store, hit("run_a", "snapshot_1", TimeDelta::seconds(3))).await })
    });
    let mut created = 0;
    for call in calls.collect::<Vec<_>>() {
        created += usize::from(call.await.unwrap().result == ScheduleResult::Created);
    }
    assert_eq!(created, 1);
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_batch_keeps_the_order_of_calls_for_one_run() {
    let db = db().await;
    let batch = [
        hit("run_a", "snapshot_1", TimeDelta::milliseconds(300)),
        fresh("run_b", "snapshot_1"),
        hit("run_a", "snapshot_2", TimeDelta::milliseconds(200)),
        hit("run_a", "snapshot_1", TimeDelta::milliseconds(300)),
    ];
    let answers = db.store.schedule(&batch, DELAY).await.unwrap();
    let results: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().result).collect();
    let expected = [
        ScheduleResult::Created,
        ScheduleResult::Created,
        ScheduleResult::Superseded,
        ScheduleResult::Outdated,
    ];
    assert_eq!(results, expected);
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_dispatch_from_the_future_is_refused_and_a_near_one_keeps_no_other_out() {
    let db = db().await;
    let future = |run: &str, snapshot: &str, seconds: i64| hit(run, snapshot, TimeDelta::seconds(-seconds));
    let answers = db.store.schedule(&[future("run_a", "snapshot_1", 90)], DELAY).await.unwrap();
    assert_eq!(answers, [Err(ScheduleRefusal::FromTheFuture)]);
    assert_eq!(db.value::<i64>("select count(*) from pending").await, 0);

    let near = schedule(&db.store, future("run_a", "snapshot_1", 50)).await;
    assert_eq!(near.result, ScheduleResult::Created);
    let real = schedule(&db.store, fresh("run_a", "snapshot_2")).await;
    assert_eq!(real.result, ScheduleResult::Superseded, "the real dispatch of the run");
    let older = schedule(&db.store, hit("run_a", "snapshot_0", TimeDelta::seconds(30))).await;
    assert_eq!(older.result, ScheduleResult::Outdated);

    // The same once it has ended.
    let _ = schedule(&db.store, future("run_b", "snapshot_1", 50)).await;
    let _ = db.store.cancel(&[cancellation("run_b", None, CancelReason::Connected)]).await.unwrap();
    let real = schedule(&db.store, hit("run_b", "snapshot_2", TimeDelta::seconds(2))).await;
    assert_eq!(real.result, ScheduleResult::Created);

    // A platform whose clock is ahead: its own dispatches keep their order.
    let _ = schedule(&db.store, future("run_c", "snapshot_2", 30)).await;
    let older = schedule(&db.store, future("run_c", "snapshot_1", 20)).await;
    assert_eq!(older.result, ScheduleResult::Outdated);
    db.assert_conserved().await;
}

#[tokio::test]
async fn an_unknown_pool_is_refused_alone() {
    let db = db().await;
    let nowhere = PoolName::parse("nowhere").unwrap();
    let mut stray = fresh("run_b", "snapshot_1");
    stray.pool = nowhere.clone();
    let mut late_stray = hit("run_c", "snapshot_1", TimeDelta::seconds(5));
    late_stray.pool = nowhere.clone();
    let answers = db.store.schedule(&[fresh("run_a", "snapshot_1"), stray, late_stray], DELAY).await.unwrap();
    assert!(answers[0].as_ref().is_ok_and(|answer| answer.result == ScheduleResult::Created));
    assert_eq!(answers[1], Err(ScheduleRefusal::UnknownPool(nowhere.clone())));
    assert_eq!(answers[2], Err(ScheduleRefusal::UnknownPool(nowhere)));
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_delay_is_the_calls_or_the_pools_or_the_default() {
    let db = db().await;
    db.run("insert into pool (name, delay_ms) values ('slow', 20000)").await;
    let delay = async |run: &str, pool: &str, delay: Option<Duration>, age: TimeDelta| {
        let mut new = hit(run, "snapshot_1", age);
        new.pool = PoolName::parse(pool).unwrap();
        new.delay = delay;
        let _ = schedule(&db.store, new).await;
        let sql = format!(
            "select (extract(epoch from due_at - scheduled_at) * 1000)::bigint from pending where run_id = '{run}'"
        );
        db.value::<i64>(&sql).await
    };
    for (tag, age) in [("fresh", TimeDelta::zero()), ("aged", TimeDelta::seconds(5))] {
        assert_eq!(delay(&format!("run_{tag}1"), "default", None, age).await, 10_000);
        assert_eq!(delay(&format!("run_{tag}2"), "slow", None, age).await, 20_000);
        assert_eq!(delay(&format!("run_{tag}3"), "slow", Some(Duration::from_secs(1)), age).await, 1_000);
    }
}

#[tokio::test]
async fn the_message_is_kept_byte_for_byte() {
    let db = db().await;
    let raw = r#"{ "version":"1","zzz":"\u0000\ud83d\ude00", "snapshot":{"friendlyId":"snapshot_1"},  "run":{"friendlyId":"run_a"},
        "dequeuedAt":"2026-11-23T10:00:00.000Z" }"#;
    let raw = serde_json::value::RawValue::from_string(raw.to_owned()).unwrap();
    let mut new = fresh("run_a", "snapshot_1");
    new.dispatch = warmproof::domain::dispatch::Dispatch::parse(raw.clone(), None).unwrap();
    let _ = schedule(&db.store, new).await;
    let kept: Vec<u8> = db.value("select message from pending").await;
    assert_eq!(kept, raw.get().as_bytes());
}

#[tokio::test]
async fn a_schedule_in_the_callers_transaction_holds_when_it_commits_and_only_then() {
    let db = db().await;
    let scheduler = Scheduler::new(&db.store, DELAY);
    let dispatch = |run| {
        let raw = message(run, "snapshot_1", Utc::now());
        Hit::new(warmproof::domain::dispatch::Dispatch::parse(raw, None).unwrap())
    };
    // The caller's own connection knows nothing of our schema.
    let options = warmproof_testkit::db::server().connect_options().database(&db.name);
    let mut caller = sqlx::PgConnection::connect_with(&options).await.unwrap();

    let mut rolled_back = caller.begin().await.unwrap();
    let answer = scheduler.schedule_in(&mut rolled_back, dispatch("run_a")).await.unwrap().unwrap();
    assert_eq!(answer.result, ScheduleResult::Created);
    rolled_back.rollback().await.unwrap();
    assert_eq!(db.value::<i64>("select count(*) from pending").await, 0);
    db.assert_conserved().await;

    let mut committed = caller.begin().await.unwrap();
    let _ = scheduler.schedule_in(&mut committed, dispatch("run_a")).await.unwrap();
    committed.commit().await.unwrap();
    assert_eq!(db.value::<i64>("select count(*) from pending").await, 1);
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_callers_transaction_with_an_older_snapshot_is_refused() {
    let db = db().await;
    let scheduler = Scheduler::new(&db.store, DELAY);
    for isolation in ["repeatable read", "serializable"] {
        let mut caller = db.pool().begin().await.unwrap();
        let set = format!("set transaction isolation level {isolation}");
        sqlx::query(sqlx::AssertSqlSafe(set)).execute(&mut *caller).await.unwrap();
        let dispatch = fresh("run_a", "snapshot_1").dispatch;
        let error = scheduler.schedule_in(&mut caller, Hit::new(dispatch)).await.unwrap_err().to_string();
        assert!(error.contains("READ COMMITTED"), "{error}");
    }
    assert_eq!(db.value::<i64>("select count(*) from pending").await, 0);
}

#[tokio::test]
async fn a_dispatch_after_the_last_one_ended_is_created() {
    let db = db().await;
    let first = claimed(&db.store, "run_a", "snapshot_1").await;
    let settled = db.store.settle(&[settlement(&first, started())]).await.unwrap();
    assert_eq!(settled.len(), 1);
    let second = schedule(&db.store, fresh("run_a", "snapshot_2")).await;
    assert_eq!(second.result, ScheduleResult::Created);
    db.assert_conserved().await;
}

/// A caller's own transaction is no reason to store a message in another way.
#[tokio::test]
async fn a_schedule_in_a_callers_transaction_uses_the_configured_codec() {
    let db = db().await;
    for (codec, stored) in [(Codec::Zstd, 1), (Codec::Raw, 0)] {
        let store =
            db.store.clone().with_compression(CompressionConfig { codec, ..CompressionConfig::default() });
        let scheduler = Scheduler::new(&store, DELAY);
        let run = format!("run_codec{stored}");
        let mut caller = db.pool().begin().await.unwrap();
        let hit = Hit::new(fresh(&run, "snapshot_1").dispatch);
        let _ = scheduler.schedule_in(&mut caller, hit).await.unwrap();
        caller.commit().await.unwrap();
        let written = format!("select codec from pending where run_id = '{run}'");
        assert_eq!(db.value::<i16>(&written).await, stored, "{codec:?}");
    }
}

#[tokio::test]
async fn what_a_scheduler_promised_stays_when_it_is_closed() {
    let db = db().await;
    let config = DatabaseConfig { connections_max: 4, ..database_config(&db.url()) };
    let scheduler = Scheduler::new(&Store::connect_lazy(&config, Role::Callers), DELAY);
    let promised = scheduler.schedule(Hit::new(fresh("run_a", "snapshot_1").dispatch)).await.unwrap();
    scheduler.close().await;
    let pending = db.store.pending_of(&RunId::parse("run_a").unwrap()).await.unwrap();
    assert_eq!(pending.map(|row| row.id), promised.map(|scheduled| scheduled.id.0));
}

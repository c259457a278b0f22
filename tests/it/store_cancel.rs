//! The answers of a cancel call, and what a crash of the database may undo of it.

use chrono::TimeDelta;
use warmproof::domain::outcome::{FallbackResult, OutcomeKind};
use warmproof::domain::verification::CancelReason::{Connected, Miss, Operator};
use warmproof::domain::verification::Cancelled;
use warmproof::store::connect::Terms;
use warmproof::store::fall_back::Fenced;
use warmproof::store::migrate;
use warmproof::store::{Store, connect};
use warmproof_lab::postgres::discovery::Discovery;
use warmproof_lab::postgres::{Home, Options, PrivatePostgres};

use warmproof_testkit::db::{SCHEMA, db};
use warmproof_testkit::dispatch::{DELAY, cancellation, claimed, fresh, hit, schedule};
use warmproof_testkit::wait::until;

use std::time::Duration;

#[tokio::test]
async fn a_cancel_before_due_ends_the_verification_with_its_reason() {
    let db = db().await;
    for (run, reason) in [("run_a", Connected), ("run_b", Miss), ("run_c", Operator)] {
        let scheduled = schedule(&db.store, fresh(run, "snapshot_1")).await;
        let answers = db.store.cancel(&[cancellation(run, Some("snapshot_1"), reason)]).await.unwrap();
        assert_eq!(answers, [Cancelled::Cancelled { id: scheduled.id }]);
        let found: String =
            db.value(&format!("select outcome || ' ' || reason from outcome where run_id = '{run}'")).await;
        assert_eq!(found, format!("cancelled {}", reason.as_str()));
    }
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_cancel_for_an_older_snapshot_touches_nothing() {
    let db = db().await;
    let _ = schedule(&db.store, fresh("run_a", "snapshot_2")).await;
    let answers = db.store.cancel(&[cancellation("run_a", Some("snapshot_1"), Connected)]).await.unwrap();
    assert_eq!(answers, [Cancelled::NotFound]);
    assert_eq!(db.value::<i64>("select count(*) from pending where connected_at is null").await, 1);
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_cancel_of_a_claimed_verification_beats_the_probe_in_flight() {
    let db = db().await;
    let claim = claimed(&db.store, "run_a", "snapshot_1").await;
    let answers = db.store.cancel(&[cancellation("run_a", None, Connected)]).await.unwrap();
    assert_eq!(answers, [Cancelled::Cancelled { id: claim.key.id }]);
    let settled = db
        .store
        .settle(&[warmproof_testkit::dispatch::settlement(&claim, warmproof_testkit::dispatch::started())])
        .await;
    assert!(matches!(settled.unwrap()[0], Ok(warmproof::domain::outcome::Settled::Stale)));
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_cancel_after_the_loss_was_marked_ends_as_a_fallback() {
    let db = db().await;
    for (run, reason, result) in
        [("run_a", Connected, "overtaken"), ("run_b", Miss, "cancelled"), ("run_c", Operator, "cancelled")]
    {
        let claim = claimed(&db.store, run, "snapshot_1").await;
        let _ = db.store.mark_lost(&claim.key, 1).await.unwrap();
        let answers = db.store.cancel(&[cancellation(run, None, reason)]).await.unwrap();
        assert_eq!(answers, [Cancelled::Cancelled { id: claim.key.id }]);
        let outcomes = db.store.outcomes_of(&claim.key.run_id, 1).await.unwrap();
        assert_eq!(outcomes[0].outcome, OutcomeKind::Fallback);
        assert_eq!(outcomes[0].fallback_result.map(FallbackResult::as_str), Some(result));
        assert_eq!(outcomes[0].connected_at.is_some(), reason == Connected);
    }
    db.assert_conserved().await;
}

#[tokio::test]
async fn an_operator_may_cancel_a_permitted_loss_until_its_cold_start_is_requested() {
    let db = db().await;
    let mut claims = Vec::new();
    for run in ["run_a", "run_b"] {
        let claim = claimed(&db.store, run, "snapshot_1").await;
        let _ = db.store.mark_lost(&claim.key, 1).await.unwrap();
        let _ = db.store.permit_create(&claim.key, Duration::from_secs(1)).await.unwrap();
        claims.push(claim);
    }
    let _ = db.store.count_create(&claims[1].key, "runner-b", Duration::from_secs(1)).await.unwrap();
    let answers =
        db.store.cancel(&["run_a", "run_b"].map(|run| cancellation(run, None, Operator))).await.unwrap();
    assert_eq!(answers[0], Cancelled::Cancelled { id: claims[0].key.id });
    assert_eq!(answers[1], Cancelled::TooLate { id: claims[1].key.id });
    let count = db.store.count_create(&claims[0].key, "runner-a", Duration::from_secs(1)).await.unwrap();
    assert_eq!(count, Fenced::Stale, "its worker requests nothing");
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_late_loss_stays_late_when_it_is_cancelled_or_superseded() {
    let db = db().await;
    for (run, age, late) in [("run_a", 30, false), ("run_b", 70, true), ("run_c", 70, true)] {
        let claim = claimed(&db.store, run, "snapshot_1").await;
        let _ = db.store.mark_lost(&claim.key, 1).await.unwrap();
        db.run(&format!(
            "update pending set dequeued_at = lost_at - interval '{age} s' where run_id = '{run}'"
        ))
        .await;
        if run == "run_c" {
            let _ = schedule(&db.store, fresh(run, "snapshot_2")).await;
        } else {
            let _ = db.store.cancel(&[cancellation(run, None, Connected)]).await.unwrap();
        }
        let outcomes = db.store.outcomes_of(&claim.key.run_id, 1).await.unwrap();
        assert_eq!(outcomes[0].late, late, "{:?}", outcomes[0]);
    }
    let counted: i64 = db.value("select coalesce(sum(n), 0)::bigint from outcome_count where late").await;
    assert_eq!(counted, 2, "the rates leave them out");
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_cancel_after_the_permit_is_too_late_and_only_notes_the_connect() {
    let db = db().await;
    let claim = claimed(&db.store, "run_a", "snapshot_1").await;
    let _ = db.store.mark_lost(&claim.key, 1).await.unwrap();
    let _ = db.store.permit_create(&claim.key, Duration::from_secs(1)).await.unwrap();
    for reason in [Miss, Connected] {
        let answers = db.store.cancel(&[cancellation("run_a", None, reason)]).await.unwrap();
        assert_eq!(answers, [Cancelled::TooLate { id: claim.key.id }]);
        let noted: bool = db.value("select connected_at is not null from pending").await;
        assert_eq!(noted, reason == Connected);
    }
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_pool_that_keeps_watching_notes_a_connect_and_still_probes() {
    let db = db().await;
    db.run("update pool set on_connect = 'keep_watching'").await;
    let scheduled = schedule(&db.store, fresh("run_a", "snapshot_1")).await;
    for _ in 0..2 {
        let answers = db.store.cancel(&[cancellation("run_a", None, Connected)]).await.unwrap();
        assert_eq!(answers, [Cancelled::Noted { id: scheduled.id }]);
    }
    let noted: bool = db.value("select connected_at is not null and probe_at = due_at from pending").await;
    assert!(noted);
    let answers = db.store.cancel(&[cancellation("run_a", Some("snapshot_0"), Connected)]).await.unwrap();
    assert_eq!(answers, [Cancelled::NotFound], "a connect of another dispatch does not count");
    let answers = db.store.cancel(&[cancellation("run_a", None, Operator)]).await.unwrap();
    assert_eq!(answers, [Cancelled::Cancelled { id: scheduled.id }]);
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_cancel_that_meets_a_superseding_schedule_cancels_what_took_the_place() {
    let db = db().await;
    let _ = schedule(&db.store, fresh("run_a", "snapshot_1")).await;
    let mut caller = db.pool().begin().await.unwrap();
    let later = hit("run_a", "snapshot_2", TimeDelta::milliseconds(-5));
    let later = db.store.schedule_in(&mut caller, &later, DELAY).await.unwrap().unwrap();
    let cancel = tokio::spawn({
        let store = db.store.clone();
        async move { store.cancel(&[cancellation("run_a", None, Operator)]).await.unwrap() }
    });
    until("the cancel waits for the schedule", async || {
        let waiting = "select count(*) from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock' and query like '%delete from pending%'";
        (db.value::<i64>(waiting).await == 1).then_some(())
    })
    .await;
    caller.commit().await.unwrap();
    assert_eq!(cancel.await.unwrap(), [Cancelled::Cancelled { id: later.id }]);
    assert_eq!(db.value::<i64>("select count(*) from pending").await, 0);
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_batch_answers_each_call_in_its_place() {
    let db = db().await;
    let a = schedule(&db.store, fresh("run_a", "snapshot_1")).await;
    let b = claimed(&db.store, "run_b", "snapshot_1").await;
    let _ = db.store.mark_lost(&b.key, 1).await.unwrap();
    let _ = db.store.permit_create(&b.key, Duration::from_secs(1)).await.unwrap();
    let batch = [
        cancellation("run_c", None, Operator),
        cancellation("run_b", None, Connected),
        cancellation("run_a", None, Connected),
        cancellation("run_a", None, Connected),
    ];
    let answers = db.store.cancel(&batch).await.unwrap();
    let expected = [
        Cancelled::NotFound,
        Cancelled::TooLate { id: b.key.id },
        Cancelled::Cancelled { id: a.id },
        Cancelled::NotFound,
    ];
    assert_eq!(answers, expected);
    db.assert_conserved().await;
}

/// A durable server whose log writer sleeps, so that an asynchronous commit stays in
/// memory until something flushes it.
struct CrashServer {
    home: tempfile::TempDir,
    postgres: PrivatePostgres,
}

impl CrashServer {
    fn start(home: tempfile::TempDir) -> Self {
        // The server may run as another account than the test.
        std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut options = Options::new(Home::Kept(home.path().join("pg")), Discovery::from_environment());
        options.settings = vec![
            ("wal_writer_delay".to_owned(), "10s".to_owned()),
            ("autovacuum".to_owned(), "off".to_owned()),
        ];
        Self { postgres: PrivatePostgres::start(&options).expect("a private PostgreSQL"), home }
    }

    async fn store(&self) -> Store {
        let _ = migrate::migrate(&self.postgres.connect_options(), SCHEMA).await.unwrap();
        Store::new(connect::database(self.postgres.connect_options(), SCHEMA, 8))
    }

    /// Kills every process of the server at once, as a power cut does, and starts it again.
    async fn crash(self, store: Store) -> (Self, Store) {
        let backends: Vec<i32> = sqlx::query_scalar("select pid from pg_stat_activity")
            .fetch_all(store.db().on(Terms::DURABLE))
            .await
            .unwrap();
        let kill = |pid: i32| {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        };
        kill(self.postgres.pid());
        backends.into_iter().for_each(kill);
        store.close().await;
        let Self { home, postgres } = self;
        drop(postgres);
        let again = Self::start(home);
        let store = again.store().await;
        (again, store)
    }
}

async fn pending(store: &Store) -> i64 {
    let conservation = store.conservation().await.unwrap();
    assert_eq!(conservation.unaccounted, 0, "{conservation:?}");
    conservation.pending
}

#[tokio::test]
async fn a_crash_may_undo_a_connect_and_brings_row_and_count_back_together() {
    let server = CrashServer::start(tempfile::tempdir().unwrap());
    let store = server.store().await;
    let _ = schedule(&store, hit("run_a", "snapshot_1", TimeDelta::zero())).await;
    let answers = store.cancel(&[cancellation("run_a", None, Connected)]).await.unwrap();
    assert!(matches!(answers[0], Cancelled::Cancelled { .. }));
    assert_eq!(pending(&store).await, 0);
    let (server, store) = server.crash(store).await;
    assert_eq!(pending(&store).await, 1, "the schedule is durable, the connect was not yet");
    drop(server);
}

#[tokio::test]
async fn a_crash_never_undoes_an_operators_cancel() {
    let server = CrashServer::start(tempfile::tempdir().unwrap());
    let store = server.store().await;
    let _ = schedule(&store, hit("run_a", "snapshot_1", TimeDelta::zero())).await;
    let _ = store.cancel(&[cancellation("run_a", None, Operator)]).await.unwrap();
    let (server, store) = server.crash(store).await;
    assert_eq!(pending(&store).await, 0);
    drop(server);
}

#[tokio::test]
async fn a_not_found_answered_to_an_operator_stays_true_after_a_crash() {
    let server = CrashServer::start(tempfile::tempdir().unwrap());
    let store = server.store().await;
    let _ = schedule(&store, hit("run_a", "snapshot_1", TimeDelta::zero())).await;
    let _ = store.cancel(&[cancellation("run_a", None, Connected)]).await.unwrap();
    let answers = store.cancel(&[cancellation("run_a", None, Operator)]).await.unwrap();
    assert_eq!(answers, [Cancelled::NotFound]);
    let (server, store) = server.crash(store).await;
    assert_eq!(pending(&store).await, 0, "the answer flushed the connect before it");
    drop(server);
}

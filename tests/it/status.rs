//! The status of a pending verification: every reader shows the same one.

use serde_json::Value;
use warmproof::domain::status::Status;
use warmproof::domain::wilson::Share;
use warmproof::store::pending::PendingFilter;

use warmproof_testkit::api::api;
use warmproof_testkit::db::{Db, db};
use warmproof_testkit::dispatch::{claimed, fresh, schedule};
use warmproof_testkit::process::Program;

/// One run in each status, and the statement that puts a scheduled row there.
const STATUSES: [(Status, &str, &str); 7] = [
    (Status::Claimed, "run_claimed", ""),
    // A lease that is over is no claim any more.
    (
        Status::Overdue,
        "run_abandoned",
        "lease_expires_at = now() - interval '1 s', probe_at = now() - interval '5 s'",
    ),
    (Status::Waiting, "run_waiting", ""),
    (Status::Overdue, "run_overdue", "probe_at = now() - interval '3 s'"),
    (Status::Lost, "run_lost", "lost_at = now()"),
    (Status::Held, "run_held", "lost_at = now(), hold_reason = 'cap'"),
    (Status::Held, "run_placeless", "lost_at = now(), create_permitted_at = now(), hold_reason = 'no_place'"),
];

async fn one_of_each(db: &Db) {
    for (_, run, change) in STATUSES {
        if matches!(run, "run_claimed" | "run_abandoned") {
            let _ = claimed(&db.store, run, "snapshot_1").await;
        } else {
            let _ = schedule(&db.store, fresh(run, "snapshot_1")).await;
        }
        if !change.is_empty() {
            db.run(&format!("update pending set {change} where run_id = '{run}'")).await;
        }
    }
    // As a worker claims it: soon before it is due.
    db.run(
        "update pending set lease_expires_at = now() + interval '50 s', probe_at = now() + interval '1 s'
         where run_id = 'run_claimed'",
    )
    .await;
}

fn expected(status: Status) -> i64 {
    i64::try_from(STATUSES.iter().filter(|(one, ..)| *one == status).count()).unwrap()
}

fn statuses_of(rows: &Value) -> Vec<(String, String)> {
    let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
    let mut all: Vec<_> =
        rows.as_array().unwrap().iter().map(|row| (text(row, "run_id"), text(row, "status"))).collect();
    all.sort();
    all
}

#[tokio::test]
async fn every_reader_gives_a_row_the_same_status() {
    let api = api().await;
    let db = &api.db;
    one_of_each(db).await;
    let mut wanted: Vec<_> =
        STATUSES.iter().map(|(status, run, _)| ((*run).to_owned(), status.as_str().to_owned())).collect();
    wanted.sort();

    let view: Value = db
        .value("select json_agg(json_build_object('run_id', run_id, 'status', status)) from pending_now")
        .await;
    assert_eq!(statuses_of(&view), wanted, "the view");
    let answer = api.get("/v1/pending").await;
    assert_eq!(statuses_of(&answer.json()["pending"]), wanted, "the api");
    let environment = [("WARMPROOF_DATABASE_URL".to_owned(), db.url())].into();
    let mut cli = Program::of(&["pending", "--json"], environment).start();
    cli.ended().await;
    let printed: Value = serde_json::from_str(&cli.stdout().join("\n")).unwrap();
    assert_eq!(statuses_of(&printed["pending"]), wanted, "the command");

    let counts = db.store.pending_counts().await.unwrap();
    let gauges = db.store.pool_gauges().await.unwrap();
    assert_eq!(counts.len(), 1);
    let soon = db.store.pending_counts_soon().await.unwrap();
    assert_eq!(
        soon.iter().map(|pool| (pool.waiting, pool.pending)).collect::<Vec<_>>(),
        [(counts[0].waiting, counts[0].pending)]
    );
    let (counts, gauges) = (&counts[0], &gauges[0]);
    for (status, counted, gauged) in [
        (Status::Waiting, counts.waiting, None),
        (Status::Claimed, counts.claimed, Some(gauges.claimed)),
        (Status::Lost, counts.lost, Some(gauges.lost)),
        (Status::Held, counts.held, Some(gauges.held)),
        (Status::Overdue, counts.overdue, Some(gauges.overdue)),
    ] {
        assert_eq!(counted, expected(status), "{status:?}");
        assert_eq!(gauged.unwrap_or(counted), counted, "{status:?}");
        let column = format!("select {}::bigint from pools", status.as_str());
        assert_eq!(db.value::<i64>(&column).await, counted, "{status:?}");
        let filter = PendingFilter { status: Some(status), ..PendingFilter::default() };
        let listed = db.store.pending_page(&filter, None, 100).await.unwrap();
        assert_eq!(i64::try_from(listed.len()).unwrap(), counted, "{status:?}");
        assert!(listed.iter().all(|row| row.status == status), "{listed:?}");
        assert_eq!(i64::from(db.store.count_pending(&filter, 100).await.unwrap()), counted, "{status:?}");
    }
    let sum = counts.waiting + counts.claimed + counts.lost + counts.held + counts.overdue;
    assert_eq!(sum, counts.pending, "each row has one status");
}

#[tokio::test]
async fn what_defers_a_loss_is_a_column_of_its_own() {
    let db = db().await;
    one_of_each(&db).await;
    let held = PendingFilter { status: Some(Status::Held), ..PendingFilter::default() };
    let mut reasons: Vec<_> = db
        .store
        .pending_page(&held, None, 10)
        .await
        .unwrap()
        .into_iter()
        .map(|row| (row.run_id, row.hold_reason.unwrap().as_str(), row.last_error))
        .collect();
    reasons.sort();
    assert_eq!(
        reasons,
        [("run_held".to_owned(), "cap", None), ("run_placeless".to_owned(), "no_place", None)]
    );
    let refused = sqlx::query("update pending set hold_reason = 'cap' where run_id = 'run_waiting'")
        .execute(db.pool())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("pending_hold_is_of_a_loss"), "{refused}");
}

/// A platform whose clock is an hour off must not forbid every later probe.
#[tokio::test]
async fn an_implausible_dequeue_time_counts_from_the_schedule() {
    let db = db().await;
    for (dequeued, believed) in [
        ("- 1 s", true),
        ("- 1 min", true),
        ("- 61 s", false),
        ("- 1 h", false),
        ("+ 1 ms", false),
        ("+ 1 h", false),
    ] {
        let taken = format!(
            "select left_queue_at(at + interval '{dequeued}', at) <> at from (select now() as at) as t"
        );
        assert_eq!(db.value::<bool>(&taken).await, believed, "{dequeued}");
    }
}

/// The program computes the sums of a page, and they must agree with the views.
#[tokio::test]
async fn the_program_and_the_database_compute_the_same_interval() {
    let db = db().await;
    for (part, whole) in
        [(0, 0), (0, 1), (1, 1), (0, 10), (2, 3), (10, 10), (1, 1000), (637, 800), (999_999, 1_000_000)]
    {
        let share = Share::of(part, whole);
        for (end, ours) in [("low", share.map(|share| share.low)), ("high", share.map(|share| share.high))] {
            let theirs: Option<f64> = db.value(&format!("select wilson_95_{end}({part}, {whole})")).await;
            let agree = match (ours, theirs) {
                (Some(ours), Some(theirs)) => (ours - theirs).abs() < 1e-9,
                (ours, theirs) => ours == theirs,
            };
            assert!(agree, "{end} of {part} in {whole}: {ours:?}, {theirs:?}");
        }
    }
}

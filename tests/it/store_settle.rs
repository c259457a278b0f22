//! Settle: the row decides the outcome, the fence refuses stale writes, a repeated settle finds its own record.

use std::time::Duration;

use warmproof::domain::claim::{Claim, Fence};
use warmproof::domain::outcome::{Ending, FallbackResult, Outcome, OutcomeKind, Reason, Settled, Settlement};
use warmproof::domain::verdict::Acted;

use warmproof::store::lease::Release;
use warmproof_testkit::db::{Db, db, keep_up, upkeep_terms};
use warmproof_testkit::dispatch::{claim, claimed, everything, settlement, started};

async fn settle(db: &Db, settlement: Settlement) -> Settled {
    db.store.settle(&[settlement]).await.unwrap().pop().unwrap().unwrap()
}

async fn recorded(db: &Db, settlement: Settlement) -> Outcome {
    match settle(db, settlement).await {
        Settled::Recorded(outcome) => *outcome,
        Settled::Stale => panic!("stale"),
    }
}

async fn lost(db: &Db, run: &str, creates: u32) -> Claim {
    let claim = claimed(&db.store, run, "snapshot_1").await;
    let _ = db.store.mark_lost(&claim.key, 1).await.unwrap();
    for _ in 0..creates {
        let _ = db.store.permit_create(&claim.key, Duration::from_secs(1)).await.unwrap();
        let _ = db.store.count_create(&claim.key, "runner-a", Duration::from_secs(1)).await.unwrap();
    }
    claim
}

#[tokio::test]
async fn a_settle_moves_the_row_to_its_outcome_once() {
    let db = db().await;
    let claim = claimed(&db.store, "run_a", "snapshot_1").await;
    let outcome = recorded(&db, settlement(&claim, started())).await;
    assert_eq!(
        (outcome.outcome.as_str(), outcome.reason.map(Reason::as_str)),
        ("delivered", Some("started"))
    );
    assert_eq!((outcome.probe_count, outcome.claim_count, outcome.probe_ms), (1, 1, Some(3)));
    assert_eq!(outcome.worker.as_deref(), Some("worker-of-the-test"));
    assert_eq!(db.value::<i64>("select count(*) from pending").await, 0);
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_settle_whose_reply_was_lost_is_recorded_on_retry_with_what_was_stored() {
    let db = db().await;
    let claim = claimed(&db.store, "run_a", "snapshot_1").await;
    let first = recorded(&db, settlement(&claim, started())).await;
    let again = recorded(&db, settlement(&claim, Ending::ProbeError { error: "timeout".to_owned() })).await;
    assert_eq!(first, again, "the stored outcome wins over that of the retry");
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_settle_that_lost_its_row_to_another_worker_is_stale() {
    let db = db().await;
    let first = claimed(&db.store, "run_a", "snapshot_1").await;
    db.run("update pending set lease_expires_at = clock_timestamp() - interval '1 ms'").await;
    let second = claim(&db.store, everything("default", 1)).await.pop().unwrap();
    assert_eq!(settle(&db, settlement(&first, started())).await, Settled::Stale);
    assert!(matches!(settle(&db, settlement(&second, started())).await, Settled::Recorded(_)));
    assert_eq!(settle(&db, settlement(&first, started())).await, Settled::Stale, "another fence settled it");
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_batch_distinguishes_an_old_and_a_new_claim_of_one_row() {
    let db = db().await;
    let old = claimed(&db.store, "run_a", "snapshot_1").await;
    db.run("update pending set lease_expires_at = clock_timestamp() - interval '1 ms'").await;
    let new = claim(&db.store, everything("default", 1)).await.pop().unwrap();
    let batch = [settlement(&old, started()), settlement(&new, started())];
    let answers = db.store.settle(&batch).await.unwrap();
    assert!(matches!(answers[0], Ok(Settled::Stale)), "{answers:?}");
    assert!(matches!(answers[1], Ok(Settled::Recorded(_))), "{answers:?}");
    let renewal = db.store.renew(&[old.key, new.key], Duration::from_secs(5)).await.unwrap();
    assert!(renewal.renewed.is_empty() && renewal.busy.is_empty());
    db.assert_conserved().await;
}

#[tokio::test]
async fn upkeep_waits_for_no_reader_and_blocks_no_writer() {
    let db = db().await;
    let mut reader = db.pool().begin().await.unwrap();
    sqlx::query("select count(*) from outcome").execute(&mut *reader).await.unwrap();
    // A long read blocks neither the attaching of new partitions nor the recording of outcomes.
    let done = keep_up(&db.store, upkeep_terms(30)).await;
    assert!(done.partitions_created > 10, "{done:?}");
    let claim = claimed(&db.store, "run_a", "snapshot_1").await;
    let _ = recorded(&db, settlement(&claim, started())).await;
    reader.rollback().await.unwrap();
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_row_that_was_marked_lost_always_ends_as_a_fallback() {
    let db = db().await;
    let delivered = |acted, warm_start| Ending::Delivered { acted, warm_start };
    let error = || Ending::ProbeError { error: "timeout".to_owned() };
    let cases = [
        (delivered(Acted::Started, true), 0, "overtaken"),
        (delivered(Acted::Started, false), 0, "overtaken"),
        (delivered(Acted::Started, true), 1, "overtaken"),
        (delivered(Acted::Started, false), 1, "created"),
        (delivered(Acted::Finished, false), 2, "created"),
        (delivered(Acted::Requeued, false), 0, "requeued"),
        (delivered(Acted::Requeued, false), 1, "requeued"),
        (error(), 0, "failed"),
        (error(), 1, "failed"),
        (Ending::Fallback { result: FallbackResult::Existed, error: None }, 1, "existed"),
    ];
    for (n, (ending, creates, result)) in cases.into_iter().enumerate() {
        let claim = lost(&db, &format!("run_{n}"), creates).await;
        let outcome = recorded(&db, settlement(&claim, ending.clone())).await;
        assert_eq!(outcome.outcome, OutcomeKind::Fallback, "{ending:?}");
        assert_eq!(
            outcome.fallback_result.map(FallbackResult::as_str),
            Some(result),
            "{ending:?} after {creates} creates"
        );
        assert_eq!(outcome.reason, None);
    }
    db.assert_conserved().await;
}

#[tokio::test]
async fn the_schema_refuses_nonsense_and_the_row_stays() {
    let db = db().await;
    let claim = claimed(&db.store, "run_a", "snapshot_1").await;
    let never_marked = Ending::Fallback { result: FallbackResult::Created, error: None };
    let answers = db.store.settle(&[settlement(&claim, never_marked)]).await.unwrap();
    let error = answers[0].as_ref().unwrap_err();
    assert_eq!(error.sqlstate().as_deref(), Some("23514"), "{error}");
    assert_eq!(db.value::<i64>("select count(*) from pending").await, 1);
    db.assert_conserved().await;
}

#[tokio::test]
async fn an_error_text_that_no_row_can_hold_is_recorded_all_the_same() {
    let db = db().await;
    let claim = claimed(&db.store, "run_a", "snapshot_1").await;
    let error = format!("the backend said a\0b{}", "ä".repeat(3000));
    let answers = db.store.settle(&[settlement(&claim, Ending::ProbeError { error })]).await.unwrap();
    let Ok(Settled::Recorded(outcome)) = &answers[0] else { panic!("{answers:?}") };
    let recorded = outcome.error.as_deref().unwrap();
    assert!(recorded.starts_with("the backend said a\u{fffd}b") && recorded.len() <= 2000, "{recorded}");

    let claim = claimed(&db.store, "run_b", "snapshot_1").await;
    let release = Release {
        probe_again_in: Some(Duration::from_secs(1)),
        error: Some("\0".repeat(3000)),
        ..Release::untouched(claim.key.clone())
    };
    assert_eq!(db.store.release(&[release]).await.unwrap(), 1);
    assert!(db.value::<bool>("select octet_length(last_error) between 1 and 2000 from pending").await);
    db.assert_conserved().await;
}

#[tokio::test]
async fn one_bad_row_never_fails_its_neighbours() {
    let db = db().await;
    let mut batch = Vec::new();
    for n in 0..5 {
        let claim = claimed(&db.store, &format!("run_{n}"), "snapshot_1").await;
        let ending = match n {
            2 => Ending::Fallback { result: FallbackResult::Created, error: None },
            _ => started(),
        };
        batch.push(settlement(&claim, ending));
    }
    let mut stale = batch[0].clone();
    stale.key.fence = Fence::fresh(&mut rand::rng());
    batch.push(stale);
    let answers = db.store.settle(&batch).await.unwrap();
    let reported: Vec<&str> = answers
        .iter()
        .map(|answer| match answer {
            Ok(Settled::Recorded(_)) => "recorded",
            Ok(Settled::Stale) => "stale",
            Err(_) => "refused",
        })
        .collect();
    assert_eq!(reported, ["recorded", "recorded", "refused", "recorded", "recorded", "stale"]);
    db.assert_conserved().await;
}

#[tokio::test]
async fn a_locked_row_never_blocks_its_neighbours() {
    let db = db().await;
    let held = claimed(&db.store, "run_held", "snapshot_1").await;
    let free = claimed(&db.store, "run_free", "snapshot_1").await;
    let mut caller = db.pool().begin().await.unwrap();
    sqlx::query("select from pending where run_id = 'run_held' for update")
        .execute(&mut *caller)
        .await
        .unwrap();
    let batch = [settlement(&held, started()), settlement(&free, started())];
    let answers = db.store.settle(&batch).await.unwrap();
    assert!(answers[0].as_ref().is_err_and(warmproof::store::StoreError::is_lock_timeout));
    assert!(matches!(answers[1], Ok(Settled::Recorded(_))));
    let releases = [&held, &free].map(|claim| warmproof::store::lease::Release::untouched(claim.key.clone()));
    assert_eq!(db.store.release(&releases).await.unwrap(), 0, "one is held, the other is settled");
    caller.rollback().await.unwrap();
    let again = recorded(&db, settlement(&held, started())).await;
    assert_eq!(again.outcome, OutcomeKind::Delivered);
    db.assert_conserved().await;
}

#[tokio::test]
async fn upkeep_folds_counts_without_changing_a_sum_and_keeps_partitions_ahead() {
    let db = db().await;
    for n in 0..3 {
        let claim = claimed(&db.store, &format!("run_{n}"), "snapshot_1").await;
        let _ = recorded(&db, settlement(&claim, started())).await;
    }
    let done = keep_up(&db.store, upkeep_terms(20)).await;
    assert!(done.partitions_created >= 5, "{done:?}");
    assert_eq!(db.value::<i64>("select count(*) from outcome_count").await, 0, "all are folded");
    let scheduled = "select sum(n)::bigint from count_hourly where outcome = 'scheduled'";
    assert_eq!(db.value::<i64>(scheduled).await, 3);
    db.assert_conserved().await;
    let again = keep_up(&db.store, upkeep_terms(20)).await;
    assert_eq!((again.partitions_created, again.counts_folded), (0, 0));
}

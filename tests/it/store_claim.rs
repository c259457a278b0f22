//! Claim: which rows a claim takes, in which order, for which worker.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use warmproof::domain::ids::PoolName;
use warmproof::domain::pool::PoolSettings;
use warmproof::store::claim::Wanted;
use warmproof::store::lease::Release;

use warmproof_testkit::db::db;
use warmproof_testkit::dispatch::{claim, claim_for, claimed, due_soon, everything, fresh, schedule};

#[tokio::test]
async fn only_what_falls_due_within_the_horizon_is_claimed() {
    let db = db().await;
    for run in ["run_a", "run_b"] {
        let _ = schedule(&db.store, fresh(run, "snapshot_1")).await;
    }
    assert!(claim(&db.store, due_soon("default", 10)).await.is_empty());
    db.run("update pending set probe_at = clock_timestamp() + interval '500 ms' where run_id = 'run_b'")
        .await;
    let claims = claim(&db.store, due_soon("default", 10)).await;
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].key.run_id.as_str(), "run_b");
    let probe_in = claims[0].probe_in();
    assert!(probe_in > Duration::ZERO && probe_in <= Duration::from_millis(500), "{probe_in:?}");
    assert_eq!(claims[0].claim_count, 1);
}

#[tokio::test]
async fn the_oldest_come_first_and_no_more_than_asked_for() {
    let db = db().await;
    for run in ["run_a", "run_b", "run_c"] {
        let _ = schedule(&db.store, fresh(run, "snapshot_1")).await;
    }
    db.run("update pending set probe_at = probe_at - interval '1 hour' where run_id = 'run_c'").await;
    let claims = claim(&db.store, everything("default", 2)).await;
    let runs: HashSet<_> = claims.iter().map(|claim| claim.key.run_id.as_str().to_owned()).collect();
    assert_eq!(runs, HashSet::from(["run_c".to_owned(), "run_a".to_owned()]));
}

#[tokio::test]
async fn concurrent_claims_never_share_a_row() {
    let db = db().await;
    let batch: Vec<_> = (0..400).map(|n| fresh(&format!("run_{n}"), "snapshot_1")).collect();
    let _ = db.store.schedule(&batch, Duration::from_secs(10)).await.unwrap();
    let claims = (0..8).map(|_| {
        let store = db.store.clone();
        tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let more = claim(&store, everything("default", 20)).await;
                if more.is_empty() {
                    return mine;
                }
                mine.extend(more);
            }
        })
    });
    let mut all = Vec::new();
    for claims in claims.collect::<Vec<_>>() {
        all.extend(claims.await.unwrap());
    }
    let ids: HashSet<_> = all.iter().map(|claim| claim.key.id).collect();
    assert_eq!((all.len(), ids.len()), (400, 400));
}

#[tokio::test]
async fn a_lease_keeps_others_away_until_it_is_over_and_then_the_fence_changes() {
    let db = db().await;
    let first = claimed(&db.store, "run_a", "snapshot_1").await;
    assert!(claim(&db.store, everything("default", 10)).await.is_empty());
    db.run("update pending set lease_expires_at = clock_timestamp() - interval '1 ms'").await;
    let second = claim(&db.store, everything("default", 10)).await.pop().expect("taken over");
    assert_eq!(second.key.id, first.key.id);
    assert_ne!(second.key.fence, first.key.fence);
    assert_eq!(second.claim_count, 2);
}

#[tokio::test]
async fn a_renewal_holds_what_is_ours_and_tells_what_is_lost() {
    let db = db().await;
    let kept = claimed(&db.store, "run_a", "snapshot_1").await;
    let lost = claimed(&db.store, "run_b", "snapshot_1").await;
    db.run("update pending set lease_expires_at = clock_timestamp() - interval '1 ms'").await;
    let mut taken = everything("default", 1);
    taken.low = Some(lost.probe_at);
    let _ = claim(&db.store, taken).await;
    let keys = [kept.key.clone(), lost.key.clone()];
    let answer = db.store.renew(&keys, Duration::from_secs(5)).await.unwrap();
    assert_eq!(
        answer.renewed,
        HashSet::from([kept.key.clone()]),
        "an ended lease that no other worker took is renewed"
    );
    assert!(answer.busy.is_empty());
    let mut caller = db.pool().begin().await.unwrap();
    sqlx::query("select from pending where run_id = 'run_a' for update").execute(&mut *caller).await.unwrap();
    let answer = db.store.renew(&keys, Duration::from_secs(5)).await.unwrap();
    assert_eq!(
        (answer.renewed, answer.busy),
        (HashSet::new(), HashSet::from([kept.key.clone()])),
        "and the renewal does not wait"
    );
    caller.rollback().await.unwrap();
    assert!(claim(&db.store, everything("default", 10)).await.is_empty());
}

#[tokio::test]
async fn a_release_frees_the_row_at_once_and_can_move_the_probe() {
    let db = db().await;
    let held = claimed(&db.store, "run_a", "snapshot_1").await;
    let released = db.store.release(&[Release::untouched(held.key.clone())]).await.unwrap();
    assert_eq!(released, 1);
    let again = claim(&db.store, everything("default", 10)).await.pop().expect("free again");
    assert_eq!((again.probe_at, again.due_at), (held.probe_at, held.due_at));

    let later = Release {
        probe_again_in: Some(Duration::from_secs(30)),
        probes: 1,
        failures: 1,
        error: Some("server_error".to_owned()),
        ..Release::untouched(again.key.clone())
    };
    assert_eq!(db.store.release(&[later]).await.unwrap(), 1);
    let pending = db.store.pending_of(&again.key.run_id).await.unwrap().unwrap();
    assert_eq!((pending.probe_count, pending.last_error.as_deref()), (1, Some("server_error")));
    assert_eq!(pending.due_at, held.due_at, "`due_at` never changes");
    assert!(pending.probe_at > held.probe_at);
    let stale = db.store.release(&[Release::untouched(held.key)]).await.unwrap();
    assert_eq!(stale, 0, "an old fence frees nothing");
}

#[tokio::test]
async fn a_lease_that_ends_later_than_any_lease_may_is_over() {
    let db = db().await;
    let held = claimed(&db.store, "run_a", "snapshot_1").await;
    let waits = async || claim(&db.store, everything("default", 1)).await.is_empty();
    let status = "select status from pending_now";
    db.run("update pending set lease_expires_at = clock_timestamp() + interval '55 s'").await;
    assert!(waits().await, "the longest lease there is");
    // The database's clock stepped back by an hour: the worker that held it is gone since long.
    db.run("update pending set lease_expires_at = clock_timestamp() + interval '1 hour'").await;
    assert_ne!(db.value::<String>(status).await, "claimed");
    let taken = claim(&db.store, everything("default", 1)).await.pop().expect("it is free");
    assert_eq!(taken.key.id, held.key.id);
    assert_eq!(db.value::<String>(status).await, "claimed");
}

#[tokio::test]
async fn one_statement_serves_many_pools_and_leaves_paused_ones_alone() {
    let db = db().await;
    let pools = ["blue", "green", "grey"].map(|pool| PoolName::parse(pool).unwrap());
    let known = pools.clone().map(|pool| (pool, PoolSettings::default()));
    db.store.ensure_pools(&known).await.unwrap();
    for (n, pool) in pools.iter().enumerate() {
        let mut new = fresh(&format!("run_{n}"), "snapshot_1");
        new.pool = pool.clone();
        let _ = schedule(&db.store, new).await;
    }
    db.run("update pool set paused = true where name = 'green'").await;
    let wanted: Vec<Wanted> = ["blue", "green"].map(|pool| everything(pool, 10)).to_vec();
    let worker = warmproof::domain::ids::WorkerName::parse("w").unwrap();
    let terms = warmproof::store::claim::ClaimTerms {
        fence: warmproof::domain::claim::Fence::fresh(&mut rand::rng()),
        worker: &worker,
        lease: Duration::from_mins(1),
        horizon: Duration::from_hours(24),
    };
    let claims = db.store.claim(&wanted, terms).await.unwrap();
    let taken: Vec<_> = claims.iter().map(|claim| claim.pool.as_str()).collect();
    assert_eq!(taken, ["blue"], "green is paused, grey is not asked for");
}

#[tokio::test]
async fn the_watermark_hides_what_lies_below_it_and_a_sweep_finds_it() {
    let db = db().await;
    let _ = schedule(&db.store, fresh("run_a", "snapshot_1")).await;
    db.run("update pending set probe_at = clock_timestamp() - interval '1 minute'").await;
    let above = Wanted { low: Some(Utc::now() - TimeDelta::seconds(2)), ..due_soon("default", 10) };
    assert!(claim(&db.store, above.clone()).await.is_empty());
    let sweep = Wanted { low: None, high: above.low, ..above };
    assert_eq!(claim_for(&db.store, sweep, Duration::from_secs(5)).await.len(), 1);
}

#[tokio::test]
async fn a_claim_never_waits_for_a_locked_row() {
    let db = db().await;
    for run in ["run_a", "run_b"] {
        let _ = schedule(&db.store, fresh(run, "snapshot_1")).await;
    }
    let mut writer = db.pool().begin().await.unwrap();
    sqlx::query("select from pending where run_id = 'run_a' for update").execute(&mut *writer).await.unwrap();
    let claims = claim(&db.store, everything("default", 10)).await;
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].key.run_id.as_str(), "run_b");
    writer.rollback().await.unwrap();
}

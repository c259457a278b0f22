//! Random calls for a few runs: the answers follow a small model, and no verification is lost or counted twice.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use warmproof::domain::claim::Claim;
use warmproof::domain::dispatch::Dispatch;
use warmproof::domain::outcome::{Ending, FallbackResult, OutcomeKind, Settled};
use warmproof::domain::verdict::Acted;
use warmproof::domain::verification::{CancelReason, Cancelled, ScheduleResult};
use warmproof::store::fall_back::{Count, Fenced, Permit};

use warmproof_testkit::db::{Db, db, keep_up, upkeep_terms};
use warmproof_testkit::dispatch::{cancellation, claim, everything, fresh, message, schedule, settlement};

const HOLD: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
enum Step {
    Schedule { run: u8, dispatch: u8 },
    Cancel { run: u8, dispatch: Option<u8>, reason: CancelReason },
    Claim,
    ExpireLeases,
    Mark { claim: usize },
    Permit { claim: usize },
    Count { claim: usize },
    Settle { claim: usize, ending: Ending },
    Upkeep,
}

fn step() -> impl Strategy<Value = Step> {
    let reason =
        prop_oneof![Just(CancelReason::Connected), Just(CancelReason::Miss), Just(CancelReason::Operator)];
    let acted = prop_oneof![Just(Acted::Started), Just(Acted::Requeued), Just(Acted::Cancelled)];
    let ending = prop_oneof![
        (acted, any::<bool>()).prop_map(|(acted, warm_start)| Ending::Delivered { acted, warm_start }),
        Just(Ending::ProbeError { error: "timeout".to_owned() }),
        Just(Ending::Fallback { result: FallbackResult::Created, error: None }),
        Just(Ending::Fallback { result: FallbackResult::Failed, error: Some("gone".to_owned()) }),
    ];
    prop_oneof![
        4 => (0u8..3, 0u8..4).prop_map(|(run, dispatch)| Step::Schedule { run, dispatch }),
        2 => (0u8..3, proptest::option::of(0u8..4), reason)
            .prop_map(|(run, dispatch, reason)| Step::Cancel { run, dispatch, reason }),
        3 => Just(Step::Claim),
        1 => Just(Step::ExpireLeases),
        2 => (0usize..8).prop_map(|claim| Step::Mark { claim }),
        2 => (0usize..8).prop_map(|claim| Step::Permit { claim }),
        2 => (0usize..8).prop_map(|claim| Step::Count { claim }),
        3 => (0usize..8, ending).prop_map(|(claim, ending)| Step::Settle { claim, ending }),
        1 => Just(Step::Upkeep),
    ]
}

/// The model of a run's pending row.
#[derive(Debug, Clone, Default)]
struct Row {
    dispatch: u8,
    /// Index of the claim that holds it.
    holder: Option<usize>,
    lost: bool,
    permitted: bool,
    creates: u32,
}

#[derive(Default)]
struct Model {
    rows: HashMap<u8, Row>,
    /// The dispatches of each run that have ended.
    ended: HashMap<u8, Vec<u8>>,
    claims: Vec<(u8, Claim)>,
}

impl Model {
    fn held(&mut self, claim: usize) -> Option<&mut Row> {
        let (run, _) = self.claims.get(claim)?;
        self.rows.get_mut(run).filter(|row| row.holder == Some(claim))
    }

    fn end(&mut self, run: u8) {
        let row = self.rows.remove(&run).expect("a row to end");
        self.ended.entry(run).or_default().push(row.dispatch);
    }

    fn schedule(&mut self, run: u8, dispatch: u8) -> ScheduleResult {
        let fresh = Row { dispatch, ..Row::default() };
        match self.rows.get(&run).map(|row| row.dispatch) {
            Some(pending) if pending == dispatch => ScheduleResult::Duplicate,
            Some(pending) if dispatch < pending => ScheduleResult::Outdated,
            Some(_) => {
                self.end(run);
                self.rows.insert(run, fresh);
                ScheduleResult::Superseded
            }
            None => {
                let ended = self.ended.get(&run).map_or(&[][..], Vec::as_slice);
                if ended.contains(&dispatch) {
                    return ScheduleResult::Duplicate;
                }
                if ended.iter().any(|ended| *ended > dispatch) {
                    return ScheduleResult::Outdated;
                }
                self.rows.insert(run, fresh);
                ScheduleResult::Created
            }
        }
    }
}

fn run_id(run: u8) -> String {
    format!("run_{run}")
}

fn snapshot_id(dispatch: u8) -> String {
    format!("snapshot_{dispatch}")
}

async fn apply(db: &Db, model: &mut Model, start: DateTime<Utc>, step: Step) {
    match step {
        Step::Schedule { run, dispatch } => {
            // Old enough that a schedule always reads the outcomes.
            let dequeued_at = start - TimeDelta::seconds(100) + TimeDelta::seconds(i64::from(dispatch));
            let raw = message(&run_id(run), &snapshot_id(dispatch), dequeued_at);
            let mut new = fresh(&run_id(run), &snapshot_id(dispatch));
            new.dispatch = Dispatch::parse(raw, None).unwrap();
            assert_eq!(schedule(&db.store, new).await.result, model.schedule(run, dispatch));
        }
        Step::Cancel { run, dispatch, reason } => cancel(db, model, run, dispatch, reason).await,
        Step::Claim => {
            let free = model.rows.values().filter(|row| row.holder.is_none()).count();
            claim_all(db, model, free).await;
        }
        Step::ExpireLeases => {
            let expire = "update pending set lease_expires_at = clock_timestamp() - interval '1 s' where fence is not null";
            db.run(expire).await;
            // Ended leases and free rows are taken alike.
            let all = model.rows.len();
            claim_all(db, model, all).await;
        }
        Step::Mark { claim } | Step::Permit { claim } | Step::Count { claim } => {
            fall_back(db, model, claim, &step).await;
        }
        Step::Settle { claim, ending } => settle(db, model, claim, ending).await,
        Step::Upkeep => {
            let _ = keep_up(&db.store, upkeep_terms(14)).await;
        }
    }
}

async fn cancel(db: &Db, model: &mut Model, run: u8, dispatch: Option<u8>, reason: CancelReason) {
    let snapshot = dispatch.map(snapshot_id);
    let asked = [cancellation(&run_id(run), snapshot.as_deref(), reason)];
    let answer = db.store.cancel(&asked).await.unwrap()[0];
    let row = model.rows.get(&run).filter(|row| dispatch.is_none_or(|dispatch| row.dispatch == dispatch));
    let asked_by_operator = reason == CancelReason::Operator;
    match row.map(|row| row.permitted && !(asked_by_operator && row.creates == 0)) {
        None => assert_eq!(answer, Cancelled::NotFound),
        Some(true) => assert!(matches!(answer, Cancelled::TooLate { .. }), "{answer:?}"),
        Some(false) => {
            assert!(matches!(answer, Cancelled::Cancelled { .. }), "{answer:?}");
            model.end(run);
        }
    }
}

async fn claim_all(db: &Db, model: &mut Model, expected: usize) {
    let claims = claim(&db.store, everything("default", 100)).await;
    assert_eq!(claims.len(), expected);
    for claim in claims {
        let run = claim.key.run_id.internal().parse().unwrap();
        model.rows.get_mut(&run).expect("a row to claim").holder = Some(model.claims.len());
        model.claims.push((run, claim));
    }
}

async fn fall_back(db: &Db, model: &mut Model, claim: usize, step: &Step) {
    let Some((_, held)) = model.claims.get(claim).cloned() else { return };
    let key = &held.key;
    let row = model.held(claim);
    match (step, row) {
        (Step::Mark { .. }, Some(row)) => {
            assert!(matches!(db.store.mark_lost(key, 1).await.unwrap(), Fenced::Ours(_)));
            row.lost = true;
        }
        (Step::Mark { .. }, None) => assert_eq!(db.store.mark_lost(key, 1).await.unwrap(), Fenced::Stale),
        // A worker asks for a permit only after its mark.
        (Step::Permit { .. }, Some(row)) if !row.lost => {}
        (Step::Permit { .. }, Some(row)) => {
            assert_eq!(db.store.permit_create(key, HOLD).await.unwrap(), Fenced::Ours(Permit::Granted));
            row.permitted = true;
        }
        (Step::Permit { .. }, None) => {
            assert_eq!(db.store.permit_create(key, HOLD).await.unwrap(), Fenced::Stale);
        }
        (_, Some(row)) if row.permitted => {
            row.creates += 1;
            assert_eq!(
                db.store.count_create(key, "runner", HOLD).await.unwrap(),
                Fenced::Ours(Count::Counted(row.creates))
            );
        }
        (_, _) => assert_eq!(db.store.count_create(key, "runner", HOLD).await.unwrap(), Fenced::Stale),
    }
}

async fn settle(db: &Db, model: &mut Model, claim: usize, ending: Ending) {
    let Some((run, held)) = model.claims.get(claim).cloned() else { return };
    let row = model.held(claim).cloned();
    if let (Some(row), Ending::Fallback { result, .. }) = (&row, &ending) {
        // A worker records `fallback` only for a run it marked, and `created` only for a workload it requested.
        if !row.lost || (*result == FallbackResult::Created && row.creates == 0) {
            return;
        }
    }
    let answer = db.store.settle(&[settlement(&held, ending)]).await.unwrap().pop().unwrap().unwrap();
    match (row, answer) {
        (Some(row), Settled::Recorded(outcome)) => {
            assert_eq!(outcome.outcome == OutcomeKind::Fallback, row.lost, "{outcome:?}");
            model.end(run);
        }
        // This same claim settled it before: the retry finds its own record.
        (None, Settled::Recorded(outcome)) => assert_eq!(outcome.id, held.key.id.0),
        (None, Settled::Stale) => {}
        (Some(row), Settled::Stale) => panic!("a held row was stale: {row:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_of_calls_follows_the_rules_and_conserves(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let db = db().await;
            let mut model = Model::default();
            let start = Utc::now();
            for step in steps {
                apply(&db, &mut model, start, step).await;
                db.assert_conserved().await;
                let pending: i64 = db.value("select count(*) from pending").await;
                assert_eq!(usize::try_from(pending).unwrap(), model.rows.len());
            }
            db.store.close().await;
        });
    }
}

#[tokio::test]
async fn upkeep_takes_an_account_and_corrects_totals_that_another_program_left_behind() {
    let db = db().await;
    for run in ["run_a", "run_b", "run_c"] {
        let _ = schedule(&db.store, fresh(run, "snapshot_1")).await;
    }
    // A program of before folds without the totals of pools.
    db.run(
        "with taken as (delete from outcome_count returning *)
         insert into outcome_total (outcome, n) select outcome, sum(n) from taken group by outcome",
    )
    .await;
    assert_eq!(db.store.pool_gauges().await.unwrap()[0].pending, 0);
    let before = db.store.account_soon().await.unwrap();
    assert_eq!((before.conservation.pending, before.conservation.unaccounted), (3, 0), "counted at once");
    let _ = keep_up(&db.store, upkeep_terms(1)).await;
    assert_eq!(db.store.pool_gauges().await.unwrap()[0].pending, 3);
    db.assert_conserved().await;

    // Where many rows are pending, readers have the account of upkeep, until it is old.
    let _ = db.store.cancel(&[cancellation("run_a", None, CancelReason::Miss)]).await.unwrap();
    assert_eq!(db.store.account_soon().await.unwrap().conservation.pending, 2);
    db.run("update account set scheduled = 300000, pending = 300000").await;
    let read = db.store.account_soon().await.unwrap();
    let recorded: DateTime<Utc> = db.value("select checked_at from account").await;
    assert_eq!((read.conservation.pending, read.checked_at), (300_000, recorded));
    db.run("update account set checked_at = checked_at - interval '11 minutes'").await;
    assert_eq!(db.store.account_soon().await.unwrap().conservation.pending, 2);
    // Nor is one taken in every round.
    let _ = keep_up(&db.store, upkeep_terms(1)).await;
    assert_eq!(db.value::<i64>("select pending from account").await, 300_000);
    db.run("update upkeep_done set done_at = done_at - interval '4 minutes'").await;
    let _ = keep_up(&db.store, upkeep_terms(1)).await;
    assert_eq!(db.value::<i64>("select pending from account").await, 2);
    db.assert_conserved().await;
}

//! Dispatches made from the recorded message, and the calls of their lives.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use warmproof::domain::claim::{Claim, Fence, REDRIVE_DEFAULT};
use warmproof::domain::dispatch::Dispatch;
use warmproof::domain::ids::{PoolName, RunId, SnapshotId, SupervisorName, WorkerName};
use warmproof::domain::outcome::{Ending, Settlement};
use warmproof::domain::verdict::Acted;
use warmproof::domain::verification::{CancelReason, Cancellation, Intent, NewVerification, Scheduled};
use warmproof::store::Store;
use warmproof::store::claim::{ClaimTerms, Wanted};

const FRESH: &str = include_str!("../../../tests/fixtures/dequeued-message.fresh.json");

pub const DELAY: Duration = Duration::from_secs(10);

/// The recorded message for another run, snapshot and instant.
pub fn message(run: &str, snapshot: &str, dequeued_at: DateTime<Utc>) -> Box<RawValue> {
    let mut message: Value = serde_json::from_str(FRESH).expect("the fixture");
    message["run"]["friendlyId"] = json!(run);
    message["run"]["id"] = json!(run.trim_start_matches("run_"));
    message["snapshot"]["friendlyId"] = json!(snapshot);
    message["snapshot"]["id"] = json!(snapshot.trim_start_matches("snapshot_"));
    message["dequeuedAt"] = json!(dequeued_at);
    serde_json::value::to_raw_value(&message).expect("JSON")
}

/// A hit, `age` after its dequeue.
pub fn hit(run: &str, snapshot: &str, age: TimeDelta) -> NewVerification {
    NewVerification {
        dispatch: Dispatch::parse(message(run, snapshot, Utc::now() - age), None).expect("a dispatch"),
        pool: PoolName::default_pool(),
        supervisor: SupervisorName::parse("supervisor-1").ok(),
        region: None,
        intent: Intent::Hit,
        delay: None,
    }
}

/// A hit just now.
pub fn fresh(run: &str, snapshot: &str) -> NewVerification {
    hit(run, snapshot, TimeDelta::zero())
}

/// Schedules one hit and expects an answer.
pub async fn schedule(store: &Store, new: NewVerification) -> Scheduled {
    let mut answers = store.schedule(&[new], DELAY).await.expect("schedule");
    answers.pop().expect("an answer").expect("no refusal")
}

/// A cancel, for one snapshot or for any pending one.
pub fn cancellation(run: &str, snapshot: Option<&str>, reason: CancelReason) -> Cancellation {
    Cancellation {
        run_id: RunId::parse(run).expect("a run id"),
        snapshot_id: snapshot.map(|snapshot| SnapshotId::parse(snapshot).expect("a snapshot id")),
        reason,
    }
}

/// Asks for all rows of one pool, however far ahead they are due.
pub fn everything(pool: &str, quota: u32) -> Wanted {
    let high = Some(Utc::now() + TimeDelta::days(1));
    Wanted { pool: PoolName::parse(pool).expect("a pool"), low: None, high, quota, redrive: REDRIVE_DEFAULT }
}

/// Asks for the rows that fall due within a claim's horizon.
pub fn due_soon(pool: &str, quota: u32) -> Wanted {
    Wanted {
        pool: PoolName::parse(pool).expect("a pool"),
        low: None,
        high: None,
        quota,
        redrive: REDRIVE_DEFAULT,
    }
}

/// Claims for a minute, with a fence of its own.
pub async fn claim(store: &Store, wanted: Wanted) -> Vec<Claim> {
    claim_for(store, wanted, Duration::from_mins(1)).await
}

pub async fn claim_for(store: &Store, wanted: Wanted, lease: Duration) -> Vec<Claim> {
    let worker = WorkerName::parse("worker-of-the-test").expect("a name");
    let fence = Fence::fresh(&mut StdRng::from_os_rng());
    let horizon = if wanted.high.is_some() { Duration::from_hours(24) } else { Duration::from_millis(600) };
    store.claim(&[wanted], ClaimTerms { fence, worker: &worker, lease, horizon }).await.expect("claim")
}

/// Schedules one run and claims it at once.
pub async fn claimed(store: &Store, run: &str, snapshot: &str) -> Claim {
    let _ = schedule(store, fresh(run, snapshot)).await;
    let mut claims = claim(store, everything("default", 100)).await;
    let place = claims.iter().position(|claim| claim.key.run_id.as_str() == run).expect("the run is claimed");
    claims.swap_remove(place)
}

/// What a worker would record.
pub fn settlement(claim: &Claim, ending: Ending) -> Settlement {
    Settlement { key: claim.key.clone(), ending, probes: 1, probe_ms: Some(3), late: false, workload: None }
}

/// The run was started.
pub fn started() -> Ending {
    Ending::Delivered { acted: Acted::Started, warm_start: true }
}

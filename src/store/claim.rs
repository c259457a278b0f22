//! Claim: due rows, skip locked, a new fence, a lease.
//!
//! One statement serves all pools of a worker with one index range scan each. It
//! takes rows whose lease is over like any others, so no separate rescuer is needed.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::connect::Terms;
use super::{Store, StoreError};
use crate::domain::claim::{Claim, ClaimKey, EarlyProbe, Fence, REDRIVE_DEFAULT};
use crate::domain::ids::{
    IdError, PoolName, RegionName, RunId, SnapshotId, SupervisorName, VerificationId, WorkerName,
};
use crate::domain::verification::Intent;

const DOING: &str = "claim verifications";

/// Which rows of one pool a claim may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The pool.
    pub pool: PoolName,
    /// Earliest `probe_at`; `None`: no bound, which a sweep uses.
    pub low: Option<DateTime<Utc>>,
    /// Latest `probe_at`; `None`: the claim's horizon from now, by the database's clock.
    pub high: Option<DateTime<Utc>>,
    /// Most rows to take.
    pub quota: u32,
    /// From a dequeue to the platform's redrive; each claim carries it.
    pub redrive: Duration,
}

impl Wanted {
    /// Whether a claim came from this range.
    #[must_use]
    pub fn covers(&self, claim: &Claim) -> bool {
        claim.pool == self.pool
            && self.low.is_none_or(|low| claim.probe_at >= low)
            && self.high.is_none_or(|high| claim.probe_at <= high)
    }
}

/// Parameters of one claim: fence, owner, lease, horizon.
#[derive(Debug, Clone, Copy)]
pub struct ClaimTerms<'a> {
    /// The new fence, the same for all rows of the claim and for no other claim.
    pub fence: Fence,
    /// The worker that claims, for human readers.
    pub worker: &'a WorkerName,
    /// How long the claim holds without renewal.
    pub lease: Duration,
    /// Rows that are due within this time are taken, too.
    pub horizon: Duration,
}

struct Row {
    id: Uuid,
    run_id: String,
    snapshot_id: String,
    pool: String,
    supervisor: Option<String>,
    region: Option<String>,
    intent: Intent,
    dequeued_at: DateTime<Utc>,
    left_queue_at: DateTime<Utc>,
    due_at: DateTime<Utc>,
    probe_at: DateTime<Utc>,
    claimed_at: DateTime<Utc>,
    claim_count: i32,
    probe_failures: i32,
    create_count: i32,
    prepare_failures: i32,
    early: Option<EarlyProbe>,
    lost_at: Option<DateTime<Utc>>,
    workload: Option<String>,
    traceparent: Option<String>,
}

impl Store {
    /// Claims what is wanted, oldest first within a pool. The answer holds keys, never messages.
    ///
    /// # Errors
    /// The database could not be reached, or a row cannot be read. Rows claimed by a
    /// statement whose answer was lost come back when their lease is over.
    pub async fn claim(&self, wanted: &[Wanted], terms: ClaimTerms<'_>) -> Result<Vec<Claim>, StoreError> {
        let pools: Vec<&str> = wanted.iter().map(|wanted| wanted.pool.as_str()).collect();
        let lows: Vec<Option<DateTime<Utc>>> = wanted.iter().map(|wanted| wanted.low).collect();
        let highs: Vec<Option<DateTime<Utc>>> = wanted.iter().map(|wanted| wanted.high).collect();
        let quotas: Vec<i32> = wanted.iter().map(|wanted| super::count(wanted.quota)).collect();
        let rows = sqlx::query_file_as!(
            Row,
            "src/store/claim.sql",
            &pools as &[&str],
            &lows as &[Option<DateTime<Utc>>],
            &highs as &[Option<DateTime<Utc>>],
            &quotas,
            super::millis(terms.horizon),
            super::millis(terms.lease),
            terms.fence.get(),
            terms.worker.as_str(),
        )
        .fetch_all(self.db().on(Terms::RELAXED))
        .await
        .map_err(StoreError::doing(DOING))?;
        let redrives: HashMap<&str, Duration> =
            wanted.iter().map(|wanted| (wanted.pool.as_str(), wanted.redrive)).collect();
        rows.into_iter()
            .map(|row| {
                let redrive = redrives.get(row.pool.as_str()).copied().unwrap_or(REDRIVE_DEFAULT);
                row.into_claim(terms.fence, redrive)
            })
            .collect()
    }
}

impl Row {
    fn into_claim(self, fence: Fence, redrive: Duration) -> Result<Claim, StoreError> {
        Ok(Claim {
            key: ClaimKey {
                run_id: RunId::parse(self.run_id).map_err(unreadable("run_id"))?,
                id: VerificationId(self.id),
                fence,
            },
            snapshot_id: SnapshotId::parse(self.snapshot_id).map_err(unreadable("snapshot_id"))?,
            pool: PoolName::parse(self.pool).map_err(unreadable("pool"))?,
            supervisor: self
                .supervisor
                .map(SupervisorName::parse)
                .transpose()
                .map_err(unreadable("supervisor"))?,
            region: self.region.map(RegionName::parse).transpose().map_err(unreadable("region"))?,
            intent: self.intent,
            dequeued_at: self.dequeued_at,
            left_queue_at: self.left_queue_at,
            redrive,
            due_at: self.due_at,
            probe_at: self.probe_at,
            claimed_at: self.claimed_at,
            claim_count: self.claim_count.unsigned_abs(),
            probe_failures: self.probe_failures.unsigned_abs(),
            create_count: self.create_count.unsigned_abs(),
            prepare_failures: self.prepare_failures.unsigned_abs(),
            early: self.early,
            lost_at: self.lost_at,
            workload: self.workload,
            traceparent: self.traceparent,
        })
    }
}

fn unreadable(column: &'static str) -> impl Fn(IdError) -> StoreError {
    move |error| StoreError::Corrupt { doing: DOING, column, problem: error.to_string() }
}

//! Settle: the fenced last write. Deletes the row, adds the outcome and the counts, in one statement.
//!
//! Repeating a settle after a lost reply does no harm. The second time its row is gone, and the
//! fence in the outcome shows whether it is our own record or another worker's:
//!
//! ```text
//! settle ── commit ── reply lost          settle again: no row
//!                                          ├─ outcome carries our fence: Recorded
//!                                          └─ none, or another fence:    Stale
//! ```

use std::borrow::Cow;
use std::collections::HashMap;

use uuid::Uuid;

use super::error::again_on_deadlock;
use super::lease::Keys;
use super::text::storable;
use super::{Store, StoreError};
use crate::domain::ids::{RegionName, SupervisorName};
use crate::domain::outcome::{Ending, FallbackResult, Outcome, OutcomeKind, Reason, Settled, Settlement};
use crate::domain::verification::Intent;

const DOING: &str = "settle verifications";

/// One array per column that the statement takes beside the keys.
#[derive(Default)]
struct Said<'a> {
    verdicts: Vec<&'static str>,
    acted: Vec<Option<&'static str>>,
    warm_starts: Vec<bool>,
    results: Vec<Option<&'static str>>,
    probes: Vec<i32>,
    probe_ms: Vec<Option<i32>>,
    late: Vec<bool>,
    workloads: Vec<Option<&'a str>>,
    errors: Vec<Option<Cow<'a, str>>>,
}

impl<'a> Said<'a> {
    fn push(&mut self, settlement: &'a Settlement) {
        let (verdict, acted, warm_start, result, error) = match &settlement.ending {
            Ending::Delivered { acted, warm_start } => {
                ("delivered", Some(acted.as_str()), *warm_start, None, None)
            }
            Ending::ProbeError { error } => ("probe_error", None, false, None, Some(error.as_str())),
            Ending::Fallback { result, error } => {
                ("fallback", None, false, Some(result.as_str()), error.as_deref())
            }
        };
        self.verdicts.push(verdict);
        self.acted.push(acted);
        self.warm_starts.push(warm_start);
        self.results.push(result);
        self.probes.push(super::count(settlement.probes));
        self.probe_ms.push(settlement.probe_ms.map(super::count));
        self.late.push(settlement.late);
        self.workloads.push(settlement.workload.as_deref());
        self.errors.push(error.map(storable));
    }
}

impl Store {
    /// Settles a batch; the answers come in its order. A row whose own data is refused, or that
    /// another open transaction holds, fails alone: the batch is then settled row by row.
    ///
    /// # Errors
    /// The outer error: the database could not be reached, so nothing is known; repeat the
    /// batch as it is. An inner error: that row stays pending, because it was refused or
    /// because it is held ([`StoreError::is_lock_timeout`]: repeat it later).
    pub async fn settle(&self, batch: &[Settlement]) -> Result<Vec<Result<Settled, StoreError>>, StoreError> {
        match self.settle_all(batch).await {
            Ok(answers) => Ok(answers.into_iter().map(Ok).collect()),
            Err(error) if error.is_of_one_row() => {
                let mut answers = Vec::with_capacity(batch.len());
                for settlement in batch {
                    match self.settle_all(std::slice::from_ref(settlement)).await {
                        Ok(mut one) => answers.push(Ok(one.pop().unwrap_or(Settled::Stale))),
                        Err(error) if error.is_of_one_row() => answers.push(Err(error)),
                        Err(error) => return Err(error),
                    }
                }
                Ok(answers)
            }
            Err(error) => Err(error),
        }
    }

    async fn settle_all(&self, batch: &[Settlement]) -> Result<Vec<Settled>, StoreError> {
        // Keyed with the fence: a batch may hold an old claim of a row beside the new one.
        let mut recorded: HashMap<(Uuid, Option<i64>), Outcome> =
            again_on_deadlock(|| self.settle_once(batch))
                .await?
                .into_iter()
                .map(|outcome| ((outcome.id, outcome.fence), outcome))
                .collect();
        let mut answers = Vec::with_capacity(batch.len());
        for settlement in batch {
            let outcome = match recorded.remove(&(settlement.key.id.0, Some(settlement.key.fence.get()))) {
                Some(outcome) => Some(outcome),
                None => self.settled_by(settlement).await?,
            };
            answers.push(outcome.map_or(Settled::Stale, |outcome| Settled::Recorded(Box::new(outcome))));
        }
        Ok(answers)
    }

    async fn settle_once(&self, batch: &[Settlement]) -> Result<Vec<Outcome>, StoreError> {
        // One order of locks for every batch, so that batches never deadlock.
        let mut ordered: Vec<&Settlement> = batch.iter().collect();
        ordered.sort_unstable_by(|one, other| one.key.run_id.cmp(&other.key.run_id));
        let keys = Keys::of(ordered.iter().map(|settlement| &settlement.key));
        let mut said = Said::default();
        for settlement in ordered {
            said.push(settlement);
        }
        let errors: Vec<Option<&str>> = said.errors.iter().map(Option::as_deref).collect();
        sqlx::query_file_as!(
            Outcome,
            "src/store/settle.sql",
            &keys.run_ids as &[&str],
            &keys.ids,
            &keys.fences,
            &said.verdicts as &[&str],
            &said.acted as &[Option<&str>],
            &said.warm_starts,
            &said.results as &[Option<&str>],
            &said.probes,
            &said.probe_ms as &[Option<i32>],
            &said.late,
            &said.workloads as &[Option<&str>],
            &errors as &[Option<&str>],
        )
        .fetch_all(self.durable())
        .await
        .map_err(StoreError::doing(DOING))
    }

    /// The outcome that this same claim has recorded before, if it has.
    async fn settled_by(&self, settlement: &Settlement) -> Result<Option<Outcome>, StoreError> {
        let key = &settlement.key;
        sqlx::query_as!(
            Outcome,
            r#"select settled_at, id, run_id, snapshot_id, pool, supervisor as "supervisor: SupervisorName",
               region as "region: RegionName", deployment_version,
               intent as "intent: Intent", dequeued_at, scheduled_at, due_at, outcome as "outcome: OutcomeKind",
               reason as "reason: Reason", fallback_result as "fallback_result: FallbackResult", late, early, fence, worker,
               claim_count, probe_count, create_count, connected_at, lost_at, create_permitted_at,
               probe_ms, workload, error, traceparent
             from outcome
             where run_id = $1 and id = $2 and fence = $3
               -- Partitions older than any lease cannot hold it.
               and settled_at > statement_timestamp() - interval '1 day'"#,
            key.run_id.as_str(),
            key.id.0,
            key.fence.get(),
        )
        .fetch_optional(self.durable())
        .await
        .map_err(StoreError::doing("look up an outcome"))
    }
}

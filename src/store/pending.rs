//! What is pending: pages, totals, and what an operator does about it.

use chrono::{DateTime, Datelike, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::audit::{self, Actor};
use super::connect::Terms;
use super::lookup::Pending;
use super::{Store, StoreError};
use crate::domain::claim::EarlyProbe;
use crate::domain::ids::{RegionName, RunId, SnapshotId, SupervisorName};
use crate::domain::status::{HoldReason, Status};
use crate::domain::verification::{CancelReason, Cancellation, Cancelled, Intent};

/// What a cancel of many did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BulkCancelled {
    /// Those that ended.
    pub cancelled: u32,
    /// Those that were skipped, because another transaction holds their rows.
    pub busy: u32,
}

impl BulkCancelled {
    fn count(&mut self, answer: &Cancelled) {
        match answer {
            Cancelled::Cancelled { .. } => self.cancelled = self.cancelled.saturating_add(1),
            Cancelled::Busy => self.busy = self.busy.saturating_add(1),
            Cancelled::Noted { .. } | Cancelled::TooLate { .. } | Cancelled::NotFound => {}
        }
    }

    /// The result of single answers.
    #[must_use]
    pub fn of(answers: &[Cancelled]) -> Self {
        let mut all = Self::default();
        for answer in answers {
            all.count(answer);
        }
        all
    }
}

/// Cancellations of a filter in one statement.
const CANCEL_BATCH: i64 = 500;

/// Which pending verifications are meant; a field that is `None` matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PendingFilter {
    /// In this pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200)]
    pub pool: Option<String>,
    /// From this supervisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200)]
    pub supervisor: Option<SupervisorName>,
    /// From this region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200)]
    pub region: Option<RegionName>,
    /// Of this deployment version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200)]
    pub deployment_version: Option<String>,
    /// In this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// Where a page ends and the next begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageKey {
    /// `probe_at` of the last row.
    pub probe_at: DateTime<Utc>,
    /// Its run.
    pub run_id: String,
}

impl PageKey {
    /// As one word, for addresses.
    #[must_use]
    pub fn word(&self) -> String {
        format!("{}.{}", self.probe_at.timestamp_micros(), self.run_id)
    }

    /// Reads what [`PageKey::word`] wrote.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        let (micros, run_id) = word.split_once('.')?;
        // The database's years end before those of our type.
        let probe_at = DateTime::from_timestamp_micros(micros.parse().ok()?)
            .filter(|at| (1..=9999).contains(&at.year()))?;
        RunId::parse(run_id).ok()?;
        Some(Self { probe_at, run_id: run_id.to_owned() })
    }
}

/// How many verifications of one pool have which status. They add up to `pending`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PendingCounts {
    /// The pool.
    pub pool: String,
    /// All that have not ended.
    pub pending: i64,
    /// In [`Status::Waiting`].
    pub waiting: i64,
    /// In [`Status::Claimed`].
    pub claimed: i64,
    /// In [`Status::Lost`].
    pub lost: i64,
    /// In [`Status::Held`].
    pub held: i64,
    /// In [`Status::Overdue`].
    pub overdue: i64,
    /// How long the one that is overdue longest is, in seconds; 0 if none is.
    pub overdue_longest_seconds: f64,
}

impl Store {
    /// A page of at most `limit` pending verifications in the order of their probes.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn pending_page(
        &self,
        filter: &PendingFilter,
        after: Option<&PageKey>,
        limit: u32,
    ) -> Result<Vec<Pending>, StoreError> {
        // A pool at a time, so that the claim's own index returns each in the wanted order.
        sqlx::query_as!(
            Pending,
            r#"select page.id as "id!", page.run_id as "run_id!", page.snapshot_id as "snapshot_id!",
                 page.pool as "pool!", page.supervisor as "supervisor: SupervisorName",
                 page.region as "region: RegionName", page.deployment_version,
                 page.intent as "intent!: Intent", page.dequeued_at as "dequeued_at!", page.scheduled_at as "scheduled_at!",
                 page.due_at as "due_at!", page.probe_at as "probe_at!", page.status as "status!: Status",
                 page.hold_reason as "hold_reason: HoldReason", page.lease_expires_at, page.worker,
                 page.claim_count as "claim_count!", page.probe_count as "probe_count!",
                 page.create_count as "create_count!", page.connected_at, page.lost_at, page.create_permitted_at,
                 page.workload, page.last_error, page.early as "early: EarlyProbe", page.observation,
                 page.observed_at
               from pool
               cross join lateral (
                 select *, pending_status(p.lease_expires_at, p.probe_at, p.lost_at, p.hold_reason) as status
                 from pending p
                 where p.pool = pool.name
                   and p.probe_at >= coalesce($6::timestamptz, '-infinity')
                   -- Only rows past their probe can be overdue: the scan ends there.
                   and p.probe_at < case when $5 = 'overdue' then statement_timestamp() else 'infinity' end
                   and (p.probe_at, p.run_id) > (coalesce($6::timestamptz, '-infinity'), coalesce($7::text, ''))
                   and ($2::text is null or p.supervisor = $2)
                   and ($3::text is null or p.region = $3)
                   and ($4::text is null or p.deployment_version = $4)
                   and ($5::text is null
                     or pending_status(p.lease_expires_at, p.probe_at, p.lost_at, p.hold_reason) = $5)
                 order by p.probe_at, p.run_id
                 limit $8
               ) as page
               where $1::text is null or pool.name = $1
               order by page.probe_at, page.run_id
               limit $8"#,
            filter.pool.as_deref(),
            filter.supervisor.as_ref().map(SupervisorName::as_str),
            filter.region.as_ref().map(RegionName::as_str),
            filter.deployment_version.as_deref(),
            filter.status.map(Status::as_str),
            after.map(|key| key.probe_at),
            after.map(|key| key.run_id.as_str()),
            i64::from(limit),
        )
        .fetch_all(self.db().on(WALK_THE_INDEX))
        .await
        .map_err(StoreError::doing("list pending verifications"))
    }

    /// How many pending verifications match a filter, counted to at most `most`.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn count_pending(&self, filter: &PendingFilter, most: u32) -> Result<u32, StoreError> {
        let counted = sqlx::query_scalar!(
            r#"select count(*) as "n!" from (
                 select from pending p
                 where ($1::text is null or p.pool = $1)
                   and ($2::text is null or p.supervisor = $2)
                   and ($3::text is null or p.region = $3)
                   and ($4::text is null or p.deployment_version = $4)
                   and ($5::text is null
                     or pending_status(p.lease_expires_at, p.probe_at, p.lost_at, p.hold_reason) = $5)
                 limit $6
               ) as matching"#,
            filter.pool.as_deref(),
            filter.supervisor.as_ref().map(SupervisorName::as_str),
            filter.region.as_ref().map(RegionName::as_str),
            filter.deployment_version.as_deref(),
            filter.status.map(Status::as_str),
            i64::from(most),
        )
        .fetch_one(self.patient())
        .await
        .map_err(StoreError::doing("count pending verifications"))?;
        Ok(u32::try_from(counted).unwrap_or(u32::MAX))
    }

    /// How many are pending in which status, by pool; pools with nothing pending are left out.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn pending_counts(&self) -> Result<Vec<PendingCounts>, StoreError> {
        sqlx::query_as!(
            PendingCounts,
            r#"select pool as "pool!", pending as "pending!", waiting as "waiting!", claimed as "claimed!",
                 lost as "lost!", held as "held!", overdue as "overdue!",
                 overdue_longest_seconds as "overdue_longest_seconds!"
               from pending_counts order by pool"#
        )
        .fetch_all(self.patient())
        .await
        .map_err(StoreError::doing("count what is pending"))
    }

    /// Records that an operator cancels these runs.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn note_cancels(&self, runs: &[&RunId], actor: &Actor) -> Result<(), StoreError> {
        let target = if let [one] = runs { Some(one.as_str()) } else { None };
        self.note(actor, "cancel", target, &json!({ "runs": runs })).await
    }

    /// Cancels one run's verification as an operator, and records the actor.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn operator_cancel(
        &self,
        run_id: &RunId,
        snapshot_id: Option<SnapshotId>,
        actor: &Actor,
    ) -> Result<Cancelled, StoreError> {
        let cancelled = self.operator_cancel_these(&[(run_id.clone(), snapshot_id)], actor).await;
        Ok(cancelled?.pop().unwrap_or(Cancelled::NotFound))
    }

    /// Cancels the verifications of some runs as an operator, and records the actor.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn operator_cancel_these(
        &self,
        runs: &[(RunId, Option<SnapshotId>)],
        actor: &Actor,
    ) -> Result<Vec<Cancelled>, StoreError> {
        // The entry comes first, so that no action is without one.
        let noted: Vec<&RunId> = runs.iter().map(|(run_id, _)| run_id).collect();
        self.note_cancels(&noted, actor).await?;
        let cancellation = |(run_id, snapshot_id): &(RunId, Option<SnapshotId>)| Cancellation {
            run_id: run_id.clone(),
            snapshot_id: snapshot_id.clone(),
            reason: CancelReason::Operator,
        };
        self.cancel(&runs.iter().map(cancellation).collect::<Vec<_>>()).await
    }

    /// Cancels what matches a filter as an operator, at most `most`. Rows that another transaction holds are skipped.
    ///
    /// # Errors
    /// The database could not be reached; those cancelled before it stay cancelled, and are recorded.
    pub async fn operator_cancel_where(
        &self,
        filter: &PendingFilter,
        most: u32,
        actor: &Actor,
    ) -> Result<BulkCancelled, StoreError> {
        // Before the deed, so that none is without an entry; the second entry says how many it were.
        let begins = json!({ "filter": filter, "begins": true });
        self.note(actor, "cancel.filter", filter.pool.as_deref(), &begins).await?;
        let (mut all, mut after) = (BulkCancelled::default(), None);
        let mut seen = 0_u32;
        let done = loop {
            let limit = u32::try_from(CANCEL_BATCH).unwrap_or(u32::MAX).min(most.saturating_sub(seen));
            let page = match self.pending_page(filter, after.as_ref(), limit).await {
                Ok(page) => page,
                Err(error) => break Err(error),
            };
            let Some(last) = page.last() else { break Ok(()) };
            after = Some(PageKey { probe_at: last.probe_at, run_id: last.run_id.clone() });
            seen = seen.saturating_add(u32::try_from(page.len()).unwrap_or(u32::MAX));
            let batch: Vec<Cancellation> = page
                .into_iter()
                .filter_map(|row| {
                    // Guarded by the snapshot that was read, so that a newer dispatch stays.
                    let run_id = RunId::parse(row.run_id).ok()?;
                    let snapshot_id = SnapshotId::parse(row.snapshot_id).ok()?;
                    Some(Cancellation {
                        run_id,
                        snapshot_id: Some(snapshot_id),
                        reason: CancelReason::Operator,
                    })
                })
                .collect();
            match self.cancel(&batch).await {
                Ok(answers) => answers.iter().for_each(|answer| all.count(answer)),
                Err(error) => break Err(error),
            }
        };
        let detail = json!({ "filter": filter, "cancelled": all.cancelled, "busy": all.busy });
        self.note(actor, "cancel.filter", filter.pool.as_deref(), &detail).await?;
        done.map(|()| all)
    }

    async fn note(
        &self,
        actor: &Actor,
        action: &str,
        target: Option<&str>,
        detail: &serde_json::Value,
    ) -> Result<(), StoreError> {
        audit::note(self.patient(), actor, action, target, detail).await
    }
}

/// Makes the server read a page from the index in its order, up to the page's end.
///
/// The server expects almost no row to match a filter, so it would rather gather and sort the whole
/// table: 90 ms instead of 0.3 ms with 100 000 rows. It keeps the plan that it makes under these settings.
const WALK_THE_INDEX: Terms = Terms::PATIENT.planned(&[("enable_sort", "off"), ("enable_bitmapscan", "off")]);

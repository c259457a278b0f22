//! Gauges: the numbers of each pool, in one statement with a short time limit, from what is little.
//!
//! For a scrape every few seconds. A server in trouble must not be asked for more than this.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::connect::Terms;
use super::fleet::SILENT_AFTER_SECONDS;
use super::lookup::Conservation;
use super::pending::PendingCounts;
use super::{Store, StoreError};

/// How far ahead a worker may be configured to claim: what is due later is in flight at none.
const CLAIMED_AHEAD_SECONDS: f64 = 5.0;
/// Rows of a pool that are read for its numbers: what is due soon, and as many losses.
pub const READ_MAX: i64 = 100_000;
/// How long an account is good. Upkeep makes one more often.
const ACCOUNT_GOOD_SECONDS: f64 = 600.0;

/// The time limit of such a statement.
const EARLY: Terms = Terms::PATIENT.within(Duration::from_secs(2));

/// The numbers of one pool.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolGauges {
    /// The pool.
    pub pool: String,
    /// Whether it is paused.
    pub paused: bool,
    /// All that have not ended.
    pub pending: i64,
    /// In the status `claimed`.
    pub claimed: i64,
    /// In the status `overdue`.
    pub overdue: i64,
    /// In the status `lost`.
    pub lost: i64,
    /// In the status `held`.
    pub held: i64,
    /// How long the one that is overdue longest is, in seconds; 0 if none is.
    pub overdue_longest_seconds: f64,
    /// Follow-ups that are due and were not probed yet.
    pub follow_ups_waiting: i64,
    /// Running workers that serve it.
    pub workers: i64,
    /// Whether its losses are held for a brown-out.
    pub brown_out: bool,
}

impl From<PoolGauges> for PendingCounts {
    fn from(pool: PoolGauges) -> Self {
        let PoolGauges { pending, claimed, overdue, lost, held, overdue_longest_seconds, .. } = pool;
        let waiting = (pending - claimed - overdue - lost - held).max(0);
        Self { pool: pool.pool, pending, waiting, claimed, lost, held, overdue, overdue_longest_seconds }
    }
}

/// The last full count of what is pending, against what was scheduled and has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// What was counted.
    pub conservation: Conservation,
    /// When.
    pub checked_at: DateTime<Utc>,
}

impl Store {
    /// The numbers of each pool, by name. Reads what comes due soon and what is lost, at most [`READ_MAX`] rows of
    /// either in a pool: a number that reaches it means so many or more. Rows that only wait are not read; all that
    /// are pending come from the counts.
    ///
    /// # Errors
    /// The database could not be reached, or did not answer in time.
    pub async fn pool_gauges(&self) -> Result<Vec<PoolGauges>, StoreError> {
        sqlx::query_file_as!(
            PoolGauges,
            "src/store/gauges.sql",
            f64::from(SILENT_AFTER_SECONDS),
            CLAIMED_AHEAD_SECONDS,
            READ_MAX,
        )
        .fetch_all(self.db().on(EARLY))
        .await
        .map_err(StoreError::doing("read the gauges of pools"))
    }

    /// [`Store::pending_counts`] from the same numbers: of each pool in which something is pending, with the rows that
    /// are not read as `waiting`.
    ///
    /// # Errors
    /// The database could not be reached, or did not answer in time.
    pub async fn pending_counts_soon(&self) -> Result<Vec<PendingCounts>, StoreError> {
        let gauges = self.pool_gauges().await?;
        Ok(gauges.into_iter().filter(|pool| pool.pending > 0).map(PendingCounts::from).collect())
    }

    /// The account of upkeep. Where few rows are pending, or there is no account of the last minutes, it is counted now.
    ///
    /// # Errors
    /// The database could not be reached, or did not answer in time.
    pub async fn account_soon(&self) -> Result<Account, StoreError> {
        let doing = StoreError::doing("check conservation");
        let last = sqlx::query!(
            "select checked_at, scheduled, pending, ended from account
             where checked_at > statement_timestamp() - $1 * interval '1 second' and pending > $2",
            ACCOUNT_GOOD_SECONDS,
            READ_MAX,
        )
        .fetch_optional(self.db().on(EARLY))
        .await
        .map_err(&doing)?;
        if let Some(last) = last {
            let (scheduled, pending, ended) = (last.scheduled, last.pending, last.ended);
            let unaccounted = scheduled - ended - pending;
            let conservation = Conservation { scheduled, pending, ended, unaccounted };
            return Ok(Account { conservation, checked_at: last.checked_at });
        }
        let now = sqlx::query!(
            r#"select statement_timestamp() as "checked_at!", scheduled as "scheduled!", pending as "pending!",
                 ended as "ended!", unaccounted as "unaccounted!" from conservation"#
        )
        .fetch_one(self.db().on(EARLY))
        .await
        .map_err(&doing)?;
        let conservation = Conservation {
            scheduled: now.scheduled,
            pending: now.pending,
            ended: now.ended,
            unaccounted: now.unaccounted,
        };
        Ok(Account { conservation, checked_at: now.checked_at })
    }
}

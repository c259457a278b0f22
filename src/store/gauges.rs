//! Gauges: the numbers of each pool, in one statement with a short time limit.
//!
//! For a scrape every few seconds. A server in trouble must not be asked for more than this.

use std::time::Duration;

use super::connect::Terms;
use super::fleet::SILENT_AFTER_SECONDS;
use super::lookup::Conservation;
use super::{Store, StoreError};

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
    /// Running workers that serve it.
    pub workers: i64,
    /// Whether its losses are held for a brown-out.
    pub brown_out: bool,
}

impl Store {
    /// The numbers of each pool, by name.
    ///
    /// # Errors
    /// The database could not be reached, or did not answer in time.
    pub async fn pool_gauges(&self) -> Result<Vec<PoolGauges>, StoreError> {
        sqlx::query_as!(
            PoolGauges,
            r#"select p.name as pool, p.paused,
                 coalesce(t.pending, 0) as "pending!", coalesce(t.claimed, 0) as "claimed!",
                 coalesce(t.overdue, 0) as "overdue!", coalesce(t.lost, 0) as "lost!",
                 coalesce(t.held, 0) as "held!", coalesce(t.overdue_longest_seconds, 0) as "overdue_longest_seconds!",
                 (select count(*) from worker w
                   where p.name = any (w.pools) and w.seen_at > statement_timestamp() - $1 * interval '1 second')
                   as "workers!",
                 exists (select 1 from brown_out b where b.pool = p.name
                   and brown_out_over_at(b, p.cool_down_ms) > statement_timestamp()) as "brown_out!"
               from pool p
               left join pending_counts t on t.pool = p.name
               order by p.name"#,
            f64::from(SILENT_AFTER_SECONDS),
        )
        .fetch_all(self.db().on(EARLY))
        .await
        .map_err(StoreError::doing("read the gauges of pools"))
    }

    /// [`Store::conservation`] with a short time limit.
    ///
    /// # Errors
    /// The database could not be reached, or did not answer in time.
    pub async fn conservation_soon(&self) -> Result<Conservation, StoreError> {
        sqlx::query_as!(
            Conservation,
            r#"select scheduled as "scheduled!", pending as "pending!", ended as "ended!",
                 unaccounted as "unaccounted!" from conservation"#
        )
        .fetch_one(self.db().on(EARLY))
        .await
        .map_err(StoreError::doing("check conservation"))
    }
}

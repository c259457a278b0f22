//! Gauges: how the pools stand, in one statement that gives up early.
//!
//! For a scrape every few seconds. A server in trouble must not be asked for more than this.

use std::time::Duration;

use super::connect::Terms;
use super::fleet::SILENT_AFTER_SECONDS;
use super::lookup::Conservation;
use super::pending::OVERDUE_AFTER_SECONDS;
use super::{Store, StoreError};

/// Such a statement gives up early.
const EARLY: Terms = Terms::PATIENT.within(Duration::from_secs(2));

/// How one pool stands.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolGauges {
    /// The pool.
    pub pool: String,
    /// Whether it is paused.
    pub paused: bool,
    /// All that is pending.
    pub pending: i64,
    /// Held by a worker.
    pub claimed: i64,
    /// Past their look, see [`super::pending::Standing::Overdue`].
    pub overdue: i64,
    /// Marked lost.
    pub lost: i64,
    /// Waiting for a permit.
    pub held: i64,
    /// The longest that a look is late, in seconds; 0 if none is.
    pub overdue_longest_seconds: f64,
    /// Running workers that serve it.
    pub workers: i64,
    /// Whether its losses are held for a brown-out.
    pub brown_out: bool,
}

impl Store {
    /// How each pool stands, by name.
    ///
    /// # Errors
    /// The database could not be reached, or did not answer in time.
    pub async fn pool_gauges(&self) -> Result<Vec<PoolGauges>, StoreError> {
        // A brown-out is noted anew each second while it lasts, and holds for a while after its end.
        sqlx::query_as!(
            PoolGauges,
            r#"select p.name as pool, p.paused,
                 coalesce(t.pending, 0) as "pending!", coalesce(t.claimed, 0) as "claimed!",
                 coalesce(t.overdue, 0) as "overdue!", coalesce(t.lost, 0) as "lost!",
                 coalesce(t.held, 0) as "held!", coalesce(t.longest, 0)::float8 as "overdue_longest_seconds!",
                 (select count(*) from worker w
                   where p.name = any (w.pools) and w.seen_at > statement_timestamp() - $2 * interval '1 second')
                   as "workers!",
                 exists (select 1 from brown_out b where b.pool = p.name
                   and b.seen_at > statement_timestamp() - greatest(p.settle_down_ms, 5000) * interval '1 millisecond')
                   as "brown_out!"
               from pool p
               left join (
                 select pool, count(*) as pending,
                   count(*) filter (where lease_expires_at > statement_timestamp()) as claimed,
                   count(*) filter (where look_at < statement_timestamp() - $1 * interval '1 second'
                     and (lease_expires_at is null or lease_expires_at <= statement_timestamp())) as overdue,
                   count(lost_at) as lost,
                   count(*) filter (where lost_at is not null and create_permitted_at is null
                     and last_error like 'held: %') as held,
                   greatest(extract(epoch from statement_timestamp() - min(look_at)), 0) as longest
                 from pending group by pool
               ) as t on t.pool = p.name
               order by p.name"#,
            OVERDUE_AFTER_SECONDS,
            f64::from(SILENT_AFTER_SECONDS),
        )
        .fetch_all(self.db().on(EARLY))
        .await
        .map_err(StoreError::doing("read the gauges of pools"))
    }

    /// [`Store::conservation`], given up early.
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

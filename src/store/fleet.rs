//! The fleet: which workers run, which pools they serve and what prevents them from that.
//!
//! For people and checks only. Nothing is decided by it: a claim depends on its lease alone.

use std::borrow::Cow;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::connect::Terms;
use super::text::storable;
use super::{Store, StoreError};
use crate::domain::ids::{PoolName, WorkerName};
use crate::domain::pool::PoolSettings;

/// A worker silent for this long does not count as running, in seconds: three beats and a lease.
pub const SILENT_AFTER_SECONDS: i32 = 20;

/// One pool that a worker serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerPool {
    /// Its name.
    pub pool: PoolName,
    /// What makes its workloads.
    pub backend: &'static str,
    /// What prevents the worker from cold-starting there; `None`: no problem is known.
    pub problem: Option<String>,
}

/// A sign of life.
#[derive(Debug, Clone)]
pub struct Beat<'a> {
    /// The worker.
    pub worker: &'a WorkerName,
    /// Claims in flight.
    pub in_flight: usize,
    /// What it serves.
    pub pools: &'a [WorkerPool],
}

/// A worker as it last reported itself.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct WorkerSeen {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// When it last reported.
    pub seen_at: DateTime<Utc>,
    /// Whether that is recent enough for a running worker.
    pub running: bool,
    /// Claims in flight.
    pub in_flight: i32,
    /// The pools it serves.
    pub pools: Vec<String>,
    /// What makes their workloads, in the order of pools.
    pub backends: Vec<String>,
    /// What prevents it from cold-starting there, in the order of pools.
    pub problems: Vec<Option<String>>,
}

/// How a pool is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PoolService {
    /// Its name.
    pub pool: String,
    /// How many running workers serve it.
    pub workers: i64,
    /// Their backends, each once. More than one means that a worker is misconfigured.
    pub backends: Vec<String>,
    /// Their problems, each once and with the worker that has it.
    pub problems: Vec<String>,
    /// Whether a verification is pending in it.
    pub has_pending: bool,
    /// Whether it is paused.
    pub paused: bool,
}

impl Store {
    /// Makes sure that the database knows these pools. Settings of known pools stay as they are.
    ///
    /// # Errors
    /// The database could not be reached or refused a name.
    pub async fn ensure_pools(&self, pools: &[(PoolName, PoolSettings)]) -> Result<(), StoreError> {
        for (pool, initial) in pools {
            sqlx::query!(
                "insert into pool (
                   name, shadow, delay_ms, cap, cap_window_ms, on_connect, cool_down_ms, follow_up_after_ms)
                 values ($1, $2, $3, $4, $5, $6, $7, $8)
                 on conflict (name) do nothing",
                pool.as_str(),
                initial.shadow,
                initial.delay_ms.map(super::count),
                initial.cap.map(super::count),
                super::count(initial.cap_window_ms),
                initial.on_connect.as_str(),
                super::count(initial.cool_down_ms),
                initial.follow_up_after_ms.map(super::count),
            )
            .execute(self.patient())
            .await
            .map_err(StoreError::doing("register a pool"))?;
        }
        Ok(())
    }

    /// Records when the platform takes back the runs of a pool, as its workers are configured.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn note_redrive(&self, pool: &PoolName, redrive: Duration) -> Result<(), StoreError> {
        sqlx::query!(
            "update pool set redrive_ms = $2 where name = $1 and redrive_ms <> $2",
            pool.as_str(),
            super::millis(redrive),
        )
        .execute(self.patient())
        .await
        .map(drop)
        .map_err(StoreError::doing("register a pool"))
    }

    /// Records a sign of life. It need not wait for the disk, because the next one repeats it.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn beat(&self, beat: &Beat<'_>) -> Result<(), StoreError> {
        let pools: Vec<&str> = beat.pools.iter().map(|served| served.pool.as_str()).collect();
        let backends: Vec<&str> = beat.pools.iter().map(|served| served.backend).collect();
        let problems: Vec<Option<Cow<'_, str>>> =
            beat.pools.iter().map(|served| served.problem.as_deref().map(storable)).collect();
        let problems: Vec<Option<&str>> = problems.iter().map(Option::as_deref).collect();
        sqlx::query!(
            "insert into worker as w (name, version, in_flight, pools, backends, problems)
             values ($1, $2, $3, $4, $5, $6)
             on conflict (name) do update set
               seen_at = statement_timestamp(), version = excluded.version, in_flight = excluded.in_flight,
               pools = excluded.pools, backends = excluded.backends, problems = excluded.problems",
            beat.worker.as_str(),
            env!("CARGO_PKG_VERSION"),
            i32::try_from(beat.in_flight).unwrap_or(i32::MAX),
            &pools as &[&str],
            &backends as &[&str],
            &problems as &[Option<&str>],
        )
        .execute(self.db().on(Terms::RELAXED))
        .await
        .map_err(StoreError::doing("note a sign of life"))?;
        Ok(())
    }

    /// Removes a worker that has stopped from the list.
    ///
    /// # Errors
    /// The database could not be reached; the worker drops off the list by itself.
    pub async fn sign_off(&self, worker: &WorkerName) -> Result<(), StoreError> {
        sqlx::query!("delete from worker where name = $1", worker.as_str())
            .execute(self.patient())
            .await
            .map_err(StoreError::doing("sign a worker off"))?;
        Ok(())
    }

    /// The workers that reported lately, running ones first.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn workers(&self) -> Result<Vec<WorkerSeen>, StoreError> {
        sqlx::query_as!(
            WorkerSeen,
            r#"select name, version, started_at, seen_at, in_flight, pools, backends,
                 problems as "problems: Vec<Option<String>>",
                 seen_at > statement_timestamp() - $1 * interval '1 second' as "running!"
               from worker order by 9 desc, name"#,
            f64::from(SILENT_AFTER_SECONDS)
        )
        .fetch_all(self.patient())
        .await
        .map_err(StoreError::doing("list workers"))
    }

    /// How each pool is served, by name.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn pools_served(&self) -> Result<Vec<PoolService>, StoreError> {
        sqlx::query_as!(
            PoolService,
            r#"with serving as (
                 select w.name as worker, s.pool, s.backend, s.problem
                 from worker w
                 cross join lateral unnest(w.pools, w.backends, w.problems) as s (pool, backend, problem)
                 where w.seen_at > statement_timestamp() - $1 * interval '1 second'
               )
               select p.name as pool, p.paused,
                 count(s.worker) as "workers!",
                 coalesce(array_agg(distinct s.backend) filter (where s.backend is not null), '{}')
                   as "backends!: Vec<String>",
                 coalesce(array_agg(distinct s.worker || ': ' || s.problem) filter (where s.problem is not null), '{}')
                   as "problems!: Vec<String>",
                 exists (select 1 from pending where pending.pool = p.name) as "has_pending!"
               from pool p
               left join serving s on s.pool = p.name
               group by p.name, p.paused
               order by p.name"#,
            f64::from(SILENT_AFTER_SECONDS)
        )
        .fetch_all(self.patient())
        .await
        .map_err(StoreError::doing("read how pools are served"))
    }
}

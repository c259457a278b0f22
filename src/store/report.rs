//! Reports: the views of the SQL face, typed, for command line, API and page.
//!
//! Losses and latencies are read from counts and histograms, so that a day costs the same whether it
//! saw a thousand verifications or a hundred million. The views define each rate; see ADR 0018.

mod totals;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Store, StoreError};
use crate::domain::ids::SupervisorName;

pub use totals::{Total, totals};

/// The time span of one line of a report. A report begins with the whole step that contains its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Minutes, of the last two days.
    Minute,
    /// Hours, UTC.
    #[default]
    Hour,
    /// Days, UTC.
    Day,
    /// All in one, from the hour of the start on.
    Whole,
}

impl Step {
    /// The word in statements and API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Whole => "whole",
        }
    }
}

/// How a report of losses is broken down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossBy {
    /// Nothing: one line a step.
    #[default]
    Nothing,
    /// Pools.
    Pool,
    /// Supervisors.
    Supervisor,
    /// Regions.
    Region,
    /// Versions of the deployment.
    DeploymentVersion,
    /// Hits, and write-ahead dispatches.
    Intent,
}

impl LossBy {
    /// The column's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Pool => "pool",
            Self::Supervisor => "supervisor",
            Self::Region => "region",
            Self::DeploymentVersion => "deployment_version",
            Self::Intent => "intent",
        }
    }
}

/// One line of a report of losses. Rates are shares from 0 to 1, with their 95 % Wilson interval; `None`
/// when there was nothing to count. `late` observations are outside all rates.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct LossRates {
    /// When the step begins.
    pub at: DateTime<Utc>,
    /// Which pool, supervisor and so on; `None`: all, or verifications without one.
    pub key: Option<String>,
    /// Verifications scheduled in this step.
    pub scheduled: i64,
    /// Moved on before the probe, and not by the redrive.
    pub delivered: i64,
    /// Cancelled because the runner connected.
    pub connected: i64,
    /// Taken back by the redrive before the probe: lost.
    pub requeued: i64,
    /// Marked lost.
    pub fallback: i64,
    /// Fallbacks that the original runner overtook.
    pub overtaken: i64,
    /// Ended without an observation.
    pub probe_error: i64,
    /// Cancelled because the broker said no.
    pub missed: i64,
    /// Cancelled by an operator.
    pub withdrawn: i64,
    /// Replaced by a newer dispatch.
    pub superseded: i64,
    /// Outside all rates: seen too late to know which dispatch started, or asked for early by an operator.
    pub late: i64,
    /// `fallback` and `requeued`.
    pub lost: i64,
    /// `lost`, `delivered` and `connected`.
    pub observed: i64,
    /// `lost` of `observed`.
    pub loss_rate: Option<f64>,
    /// Lower end of its interval.
    pub loss_rate_low: Option<f64>,
    /// Upper end of its interval.
    pub loss_rate_high: Option<f64>,
    /// The same with overtaken fallbacks left out altogether.
    pub loss_rate_without_overtaken: Option<f64>,
    /// Lower end of its interval.
    pub loss_rate_without_overtaken_low: Option<f64>,
    /// Upper end of its interval.
    pub loss_rate_without_overtaken_high: Option<f64>,
    /// As the platform's own verifier counts it: `fallback` of `fallback`, `requeued` and `delivered`.
    pub fallback_rate: Option<f64>,
    /// Lower end of its interval.
    pub fallback_rate_low: Option<f64>,
    /// Upper end of its interval.
    pub fallback_rate_high: Option<f64>,
}

/// Which latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Latency {
    /// From `due_at` until the verdict was on disk: the wait for a worker, the probes and the write.
    Verdict,
    /// From schedule until a runner's connect cancelled it.
    Connect,
}

impl Latency {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Verdict => "verdict",
            Self::Connect => "connect",
        }
    }
}

/// Quantiles of one pool, in milliseconds. Each is the upper edge of a bucket, at most 19 % too high.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quantiles {
    /// The pool.
    pub pool: String,
    /// How many were measured.
    pub n: i64,
    /// Half took at most this long.
    pub p50_ms: f64,
    /// 90 %.
    pub p90_ms: f64,
    /// 99 %.
    pub p99_ms: f64,
    /// 99.9 %.
    pub p999_ms: f64,
    /// All.
    pub max_ms: f64,
}

/// Quantiles over all pools, in milliseconds; see [`Quantiles`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatencyOfAll {
    /// How many were measured.
    pub n: i64,
    /// Half took at most this long.
    pub p50_ms: f64,
    /// 99 %.
    pub p99_ms: f64,
}

/// A fallback that the original runner overtook: it was slow, not dead.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FalsePositive {
    /// When it ended.
    pub settled_at: DateTime<Utc>,
    /// The verification.
    pub id: Uuid,
    /// The run.
    pub run_id: String,
    /// The pool.
    pub pool: String,
    /// The supervisor that dispatched it.
    pub supervisor: Option<SupervisorName>,
    /// The deployment's version.
    pub deployment_version: Option<String>,
    /// The promise.
    pub due_at: DateTime<Utc>,
    /// When the loss was marked.
    pub lost_at: Option<DateTime<Utc>>,
    /// Creates that were requested before the original runner acted.
    pub create_count: i32,
    /// Name of the workload requested.
    pub workload: Option<String>,
}

impl Store {
    /// Losses since an instant, a line for each step and key, in order of time.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn losses(
        &self,
        since: DateTime<Utc>,
        step: Step,
        by: LossBy,
    ) -> Result<Vec<LossRates>, StoreError> {
        sqlx::query_file_as!(LossRates, "src/store/report_losses.sql", step.as_str(), since, by.as_str())
            .fetch_all(self.patient())
            .await
            .map_err(StoreError::doing("report losses"))
    }

    /// Quantiles of a latency by pool, from the hour on in which `since` falls.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn latencies(
        &self,
        latency: Latency,
        since: DateTime<Utc>,
    ) -> Result<Vec<Quantiles>, StoreError> {
        sqlx::query_as!(
            Quantiles,
            r#"with histogram as (
                 select pool, bucket, sum(n) as n
                 from latency_hourly
                 where kind = $1 and hour >= date_trunc('hour', $2::timestamptz, 'UTC')
                 group by pool, bucket
               ), running as (
                 select pool, bucket, n, sum(n) over (partition by pool order by bucket) as up_to,
                   sum(n) over (partition by pool) as total
                 from histogram
               )
               select pool as "pool!", sum(n)::bigint as "n!",
                 latency_bucket_ms(min(bucket) filter (where up_to >= 0.5 * total)) as "p50_ms!",
                 latency_bucket_ms(min(bucket) filter (where up_to >= 0.9 * total)) as "p90_ms!",
                 latency_bucket_ms(min(bucket) filter (where up_to >= 0.99 * total)) as "p99_ms!",
                 latency_bucket_ms(min(bucket) filter (where up_to >= 0.999 * total)) as "p999_ms!",
                 latency_bucket_ms(max(bucket)) as "max_ms!"
               from running
               group by pool
               order by pool"#,
            latency.as_str(),
            since
        )
        .fetch_all(self.patient())
        .await
        .map_err(StoreError::doing("report latencies"))
    }

    /// Quantiles of a latency over all pools, from the hour on in which `since` falls; `None`: none was measured.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn latency_of_all(
        &self,
        latency: Latency,
        since: DateTime<Utc>,
    ) -> Result<Option<LatencyOfAll>, StoreError> {
        sqlx::query_as!(
            LatencyOfAll,
            r#"with histogram as (
                 select bucket, sum(n) as n
                 from latency_hourly
                 where kind = $1 and hour >= date_trunc('hour', $2::timestamptz, 'UTC')
                 group by bucket
               ), running as (
                 select bucket, n, sum(n) over (order by bucket) as up_to, sum(n) over () as total
                 from histogram
               )
               select sum(n)::bigint as "n!",
                 latency_bucket_ms(min(bucket) filter (where up_to >= 0.5 * total)) as "p50_ms!",
                 latency_bucket_ms(min(bucket) filter (where up_to >= 0.99 * total)) as "p99_ms!"
               from running
               having count(*) > 0"#,
            latency.as_str(),
            since
        )
        .fetch_optional(self.patient())
        .await
        .map_err(StoreError::doing("report a latency"))
    }

    /// Fallbacks that the original runner overtook, newest first, at most `limit`.
    ///
    /// Reads the outcomes since then through a block-range index: keep `since` near.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn false_positives(
        &self,
        since: DateTime<Utc>,
        limit: i64,
    ) -> Result<Vec<FalsePositive>, StoreError> {
        sqlx::query_as!(
            FalsePositive,
            r#"select settled_at as "settled_at!", id as "id!", run_id as "run_id!", pool as "pool!",
                 supervisor as "supervisor: SupervisorName",
                 deployment_version, due_at as "due_at!", lost_at, create_count as "create_count!", workload
               from false_positives
               where settled_at >= $1
               order by settled_at desc, id desc
               limit $2"#,
            since,
            limit
        )
        .fetch_all(self.patient())
        .await
        .map_err(StoreError::doing("report false positives"))
    }
}

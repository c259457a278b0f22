//! Metrics: one function for each event, so that a call site is one line.
//!
//! Nothing is recorded before [`install`]; a program that embeds the library may install a recorder of its
//! own instead. Labels are fixed words and names of pools, never ids of runs, so that their number is
//! bounded.

pub mod names;

use std::sync::OnceLock;
use std::time::Duration;

use chrono::TimeDelta;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::domain::ids::PoolName;
use crate::domain::outcome::{Outcome, Reason};
use crate::domain::status::HoldReason;
use crate::domain::verdict::ProbeFailure;
use crate::domain::verification::{CancelReason, Cancelled, ScheduleResult};
use names::Kind;

/// How often gathered samples of histograms are folded, so that they do not pile up between scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

static EXPORTER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Starts recording, until the process ends. Call it on a runtime; a second call changes nothing.
pub fn install() {
    let mut buckets = names::ALL.iter().filter_map(|metric| match metric.kind {
        Kind::Histogram(bounds) => Some((metric.name, bounds)),
        Kind::Counter | Kind::Gauge => None,
    });
    let builder = buckets.try_fold(PrometheusBuilder::new(), |builder, (name, bounds)| {
        builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), bounds)
    });
    let recorder = match builder {
        Ok(builder) => builder.build_recorder(),
        Err(error) => return tracing::error!(%error, "could not set up metrics"),
    };
    let exporter = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        return tracing::debug!("a recorder of metrics was set up already");
    }
    describe();
    let _ = EXPORTER.set(exporter.clone());
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP_EVERY).await;
            exporter.run_upkeep();
        }
    });
}

/// All metrics in Prometheus' text format; `None` if they are off.
#[must_use]
pub fn render() -> Option<String> {
    super::lines::report_dropped();
    EXPORTER.get().map(PrometheusHandle::render)
}

/// The content type of [`render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

fn describe() {
    for metric in names::ALL {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.help),
            Kind::Histogram(_) => describe_histogram!(metric.name, metric.help),
        }
    }
    gauge!(names::BUILD_INFO.name, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    // The counter must exist before the first cancel, or a rate would miss that cancel.
    counter!(names::CANCELLATIONS.name, "reason" => "connected", "result" => "cancelled").increment(0);
}

/// Lines of a stream were dropped.
pub fn lines_dropped(stream: &'static str, lines: usize) {
    counter!(names::LINES_DROPPED.name, "stream" => stream).increment(lines as u64);
}

/// A part of upkeep failed.
pub fn upkeep_failed(part: &'static str) {
    counter!(names::UPKEEP_FAILURES.name, "part" => part).increment(1);
}

/// A schedule call was answered.
pub fn scheduled(pool: &PoolName, result: ScheduleResult) {
    let pool = pool.as_str().to_owned();
    counter!(names::SCHEDULES.name, "pool" => pool, "result" => result.as_str()).increment(1);
}

/// A cancel call was answered.
pub fn cancelled(reason: CancelReason, answer: &Cancelled) {
    let (reason, result) = (reason.as_str(), answer.as_str());
    counter!(names::CANCELLATIONS.name, "reason" => reason, "result" => result).increment(1);
}

/// A claim statement returned.
pub fn claimed(took: Duration, rows: usize) {
    histogram!(names::CLAIM_DURATION.name).record(took);
    #[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
    histogram!(names::CLAIM_BATCH.name).record(rows as f64);
}

/// A probe returned. `lag` is how late the first probe of a claim was.
pub fn probed(pool: &PoolName, took: Duration, failure: Option<&ProbeFailure>, lag: Option<TimeDelta>) {
    let pool = pool.as_str();
    let result = if failure.is_some() { "failed" } else { "answered" };
    histogram!(names::PROBE_DURATION.name, "pool" => pool.to_owned(), "result" => result).record(took);
    if let Some(failure) = failure {
        let reason = failure.kind();
        counter!(names::PROBE_FAILURES.name, "pool" => pool.to_owned(), "reason" => reason).increment(1);
    }
    if let Some(lag) = lag {
        let lag = lag.to_std().unwrap_or_default();
        histogram!(names::DUE_LAG.name, "pool" => pool.to_owned()).record(lag);
    }
}

/// A loss is held.
pub fn held(pool: &PoolName, reason: HoldReason) {
    let pool = pool.as_str().to_owned();
    counter!(names::LOSSES_HELD.name, "pool" => pool, "reason" => reason.as_str()).increment(1);
}

/// A request for a cold start returned.
pub fn create_requested(pool: &PoolName, took: Duration, result: &'static str) {
    let pool = pool.as_str().to_owned();
    histogram!(names::CREATE_DURATION.name, "pool" => pool, "result" => result).record(took);
}

/// An outcome is recorded.
pub fn settled(outcome: &Outcome) {
    let pool = || outcome.pool.clone();
    let reason = outcome.reason.map_or("", Reason::as_str);
    let word = outcome.outcome.as_str();
    counter!(names::OUTCOMES.name, "pool" => pool(), "outcome" => word, "reason" => reason).increment(1);
    if let Some(result) = outcome.fallback_result {
        counter!(names::FALLBACKS.name, "pool" => pool(), "result" => result.as_str()).increment(1);
    }
}

/// A settle came too late.
pub fn stale(pool: &PoolName) {
    counter!(names::STALE_SETTLES.name, "pool" => pool.as_str().to_owned()).increment(1);
}

/// A follow-up was made.
pub fn follow_up(pool: &PoolName, result: &'static str) {
    let pool = pool.as_str().to_owned();
    counter!(names::FOLLOW_UPS.name, "pool" => pool, "result" => result).increment(1);
}

/// A connection of a caller was dropped.
pub fn connection_dropped(reason: &'static str) {
    counter!(names::CONNECTIONS_DROPPED.name, "reason" => reason).increment(1);
}

/// How many claims are in flight.
pub fn in_flight(claims: usize) {
    #[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
    gauge!(names::IN_FLIGHT.name).set(claims as f64);
}

/// How the process's connections are used.
pub fn connections(open: usize, idle: usize, most: usize) {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let (open, idle, most) = (number(open), number(idle), number(most));
    gauge!(names::DB_CONNECTIONS.name, "state" => "idle").set(idle);
    gauge!(names::DB_CONNECTIONS.name, "state" => "used").set(open.saturating_sub(idle));
    gauge!(names::DB_CONNECTIONS_MAX.name).set(most);
}

/// Whether a reading of the database succeeded.
pub fn reading(what: &'static str, succeeded: bool) {
    gauge!(names::READING_OK.name, "reading" => what).set(u32::from(succeeded));
}

/// One gauge of one pool.
pub fn of_pool(metric: names::Metric, pool: &str, value: f64) {
    gauge!(metric.name, "pool" => pool.to_owned()).set(value);
}

/// Scheduled less pending less ended; NaN while it is not known.
pub fn unaccounted(count: f64) {
    gauge!(names::UNACCOUNTED.name).set(count);
}

#[cfg(test)]
mod tests;

//! The wide event of one settlement: first the keys of the platform's own verifier, then ours.

use chrono::TimeDelta;

use super::db_clock::DbClock;
use super::probe::Probing;
use crate::config::worker::WorkerConfig;
use crate::domain::claim::Claim;
use crate::domain::dispatch::trace_id;
use crate::domain::ids::{RegionName, SupervisorName};
use crate::domain::outcome::{FallbackResult, Outcome, OutcomeKind, Reason};
use crate::telemetry::event::WideEvent;

/// The operation, as the platform's own verifier names it (platform.md §7).
const OP: &str = "warmstart.verify";

/// Builds the event with the whole story of a recorded outcome, as it was stored.
pub(super) fn settled(
    config: &WorkerConfig,
    claim: &Claim,
    clock: &DbClock,
    probing: &Probing,
    outcome: &Outcome,
) -> WideEvent {
    let probed_at = clock.at(probing.at);
    let failed =
        outcome.outcome == OutcomeKind::ProbeError || outcome.fallback_result == Some(FallbackResult::Failed);
    let trace = outcome.traceparent.as_deref().and_then(trace_id);
    WideEvent::new(OP, &config.node_id, trace, probed_at)
        .with("ok", !failed)
        .with("duration_ms", millis(outcome.settled_at - probed_at).max(0))
        .with("meta.run_id", outcome.run_id.as_str())
        .with("meta.snapshot_id", outcome.snapshot_id.as_str())
        .with("meta.verification_id", outcome.id.to_string())
        .with("meta.pool", outcome.pool.as_str())
        .with("phase.probe.duration_ms", outcome.probe_ms)
        .with("phase.probe.ok", outcome.probe_ms.map(|_| probing.failure.is_none()))
        .with("phase.probe.attempts", outcome.probe_count)
        .with_error("phase.probe.error_message", probing.failure.as_ref().map(ToString::to_string).as_deref())
        .with("outcome", outcome.outcome.as_str())
        .with("delay_ms", millis(outcome.due_at - outcome.scheduled_at))
        .with_error("error", outcome.error.as_deref())
        .with("reason", outcome.reason.map(Reason::as_str))
        .with("fallback_result", outcome.fallback_result.map(FallbackResult::as_str))
        .with("workload", outcome.workload.as_deref())
        .with("late", outcome.late)
        .with("early", outcome.early)
        .with("lag_ms", fine_millis(probed_at - claim.probe_at))
        .with("overdue_ms", millis(probed_at - outcome.due_at))
        .with("actual_delay_ms", millis(probed_at - outcome.scheduled_at))
        .with("claim_count", outcome.claim_count)
        .with("create_count", outcome.create_count)
        .with("intent", outcome.intent.as_str())
        .with("supervisor", outcome.supervisor.as_ref().map(SupervisorName::as_str))
        .with("region", outcome.region.as_ref().map(RegionName::as_str))
        .with("deployment_version", outcome.deployment_version.as_deref())
        .with("worker", outcome.worker.as_deref())
}

/// Milliseconds with three decimals: a probe is often late by less than one.
fn fine_millis(span: TimeDelta) -> serde_json::Value {
    span.num_microseconds().map(|micros| f64::from(i32::try_from(micros).unwrap_or(i32::MAX)) / 1000.0).into()
}

fn millis(span: TimeDelta) -> i64 {
    span.num_milliseconds()
}

#[cfg(test)]
mod tests;

//! Traces: one span for each claim, from the claim to its settle, sent by OTLP over HTTP.
//!
//! Our spans have a target of their own and the lowest level, so that logs do not show them and that they
//! cost almost nothing while traces are off. They continue the trace in the run's message. A build without the
//! cargo feature `otlp` makes the same spans and sends none.

#[cfg(not(feature = "otlp"))]
#[path = "traces/unsent.rs"]
mod sent;
#[cfg(feature = "otlp")]
#[path = "traces/otlp.rs"]
mod sent;

use tracing::{Span, field, trace_span};

use crate::domain::claim::Claim;

#[cfg(feature = "otlp")]
pub use sent::SEND_MAX;
pub use sent::{Exporter, traceparent};

/// The target of our spans.
pub const TARGET: &str = "warmproof::span";

/// The span of one claim's life. Child spans are made while it is entered.
#[must_use]
pub fn verification(claim: &Claim) -> Span {
    let span = trace_span!(
        target: TARGET, parent: None, "verify",
        run.id = claim.key.run_id.as_str(), verification.id = %claim.key.id, pool = claim.pool.as_str(),
        outcome = field::Empty
    );
    if let (false, Some(traceparent)) = (span.is_disabled(), &claim.traceparent) {
        sent::continue_trace(&span, traceparent);
    }
    span
}

/// The span of one probe.
#[must_use]
pub fn probe() -> Span {
    trace_span!(target: TARGET, "probe", result = field::Empty)
}

/// The span of one request for a cold start.
#[must_use]
pub fn create(workload: &str) -> Span {
    trace_span!(target: TARGET, "create", workload, result = field::Empty)
}

//! Traces: one span for each claim, from the claim to its settle, sent by OTLP over HTTP.
//!
//! Our spans have a target of their own and the lowest level, so that logs do not show them and that they
//! cost almost nothing while traces are off. They continue the trace in the run's message.

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, Tracer};
use tracing::{Span, field, trace_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::domain::claim::Claim;

/// The target of our spans.
pub const TARGET: &str = "warmproof::span";
/// How often the gathered spans are sent.
const SEND_EVERY: Duration = Duration::from_secs(1);
/// How long one send may take, and the last one at shutdown.
pub const SEND_MAX: Duration = Duration::from_secs(2);

/// Sends spans until it is dropped. Then it sends the rest under a deadline.
#[derive(Debug)]
pub struct Exporter {
    provider: SdkTracerProvider,
}

impl Exporter {
    /// An exporter to the collector at `endpoint`, asked through this client. Not on a runtime's thread.
    ///
    /// # Errors
    /// The exporter refused its settings.
    pub fn new(endpoint: &str, client: reqwest::blocking::Client) -> Result<Self, ExporterBuildError> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(endpoint)
            .with_timeout(SEND_MAX)
            .build()?;
        let batches = BatchConfigBuilder::default().with_scheduled_delay(SEND_EVERY).build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let resource = Resource::builder().with_service_name("warmproof").build();
        let provider =
            SdkTracerProvider::builder().with_resource(resource).with_span_processor(processor).build();
        Ok(Self { provider })
    }

    pub(super) fn tracer(&self) -> Tracer {
        self.provider.tracer("warmproof")
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown_with_timeout(SEND_MAX) {
            tracing::warn!(%error, "the last spans may be lost");
        }
    }
}

/// The span of one claim's life. Child spans are made while it is entered.
#[must_use]
pub fn verification(claim: &Claim) -> Span {
    let span = trace_span!(
        target: TARGET, parent: None, "verify",
        run.id = claim.key.run_id.as_str(), verification.id = %claim.key.id, pool = claim.pool.as_str(),
        outcome = field::Empty
    );
    if let (false, Some(traceparent)) = (span.is_disabled(), &claim.traceparent) {
        let carrier = HashMap::from([("traceparent".to_owned(), traceparent.clone())]);
        // Fails only if there is no exporter.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&carrier));
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

/// The W3C trace context of a span; `None` while traces are off or this one is not sampled.
#[must_use]
pub fn traceparent(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    if !context.span().span_context().is_sampled() {
        return None;
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    carrier.remove("traceparent")
}

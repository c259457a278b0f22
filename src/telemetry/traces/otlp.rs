//! Sends spans to a collector by OTLP over HTTP.

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

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

    /// Turns spans of this process into spans of a trace.
    pub(in crate::telemetry) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        // File, line and thread add nothing about a verification.
        let layer = tracing_opentelemetry::layer().with_tracer(self.provider.tracer("warmproof"));
        layer.with_location(false).with_threads(false).with_tracked_inactivity(false).with_target(false)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown_with_timeout(SEND_MAX) {
            tracing::warn!(%error, "the last spans may be lost");
        }
    }
}

/// Makes a span part of the trace that this W3C trace context names.
pub(super) fn continue_trace(span: &Span, traceparent: &str) {
    let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    // Fails only if there is no exporter.
    let _ = span.set_parent(TraceContextPropagator::new().extract(&carrier));
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

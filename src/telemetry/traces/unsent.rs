//! For a build without the cargo feature `otlp`: spans are made, and none is sent.

use tracing::{Span, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Identity;

/// Sends spans in other builds. No value of it exists in this one.
#[derive(Debug)]
pub enum Exporter {}

impl Exporter {
    pub(in crate::telemetry) fn layer<S: Subscriber>(&self) -> impl Layer<S> + use<S> {
        match *self {}
        #[expect(unreachable_code, reason = "it names the type of the answer")]
        Identity::new()
    }
}

/// Continues no trace.
pub(super) fn continue_trace(_: &Span, _: &str) {}

/// Without an exporter no span has a trace context.
#[must_use]
pub fn traceparent(_: &Span) -> Option<String> {
    None
}

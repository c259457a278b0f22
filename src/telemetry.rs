//! What the process reports about itself: logs on stderr, wide events on stdout, metrics, traces.
//!
//! This layer does not know the content. Secrets never reach it: callers keep them in
//! types that print nothing.

pub mod event;
pub mod lines;
pub mod metrics;
pub mod readiness;
pub mod traces;

use std::io::IsTerminal;

use lines::Flush;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Sends logs to stderr, and spans of ours to `traces`. `filter` is a tracing directive such as
/// `warmproof=debug`.
///
/// A second call in one process changes nothing, so tests may call it freely. What it returns writes the last lines
/// when it is dropped.
pub fn init_logs(filter: &str, format: LogFormat, traces: Option<&traces::Exporter>) -> Flush {
    // Without this, spans that are only for traces would appear in every line of a verbose log.
    let without_spans = |filter: &str| EnvFilter::try_new(format!("{filter},{}=off", traces::TARGET));
    let filter = without_spans(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // Colours are for a person at a terminal; a log collector would store them as noise.
    let colours = std::io::stderr().is_terminal();
    let (lines, flush) = lines::start("logs", std::io::stderr());
    let logs = tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(lines.writer());
    let logs = match format {
        LogFormat::Text => logs.boxed(),
        LogFormat::Json => logs.json().flatten_event(true).boxed(),
    };
    let spans = traces.map(|exporter| {
        let ours = Targets::new().with_target(traces::TARGET, tracing::Level::TRACE);
        exporter.layer().with_filter(ours)
    });
    let installed = tracing_subscriber::registry().with(spans).with(logs.with_filter(filter)).try_init();
    if installed.is_err() {
        tracing::debug!("logs were set up already");
    }
    flush
}

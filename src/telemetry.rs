//! What the process says about itself: logs on stderr, wide events on stdout, metrics.
//!
//! Nothing here knows what is said. Secrets never reach this layer: callers hold
//! them in types that print nothing.

pub mod event;
pub mod metrics;
pub mod readiness;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Sends logs to stderr. `filter` is a tracing directive such as `warmproof=debug`.
///
/// A second call in one process changes nothing, so tests may call it freely.
pub fn init_logs(filter: &str, format: LogFormat) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // Colours are for a person at a terminal; a log collector would store them as noise.
    let colours = std::io::stderr().is_terminal();
    let logs =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    let installed = match format {
        LogFormat::Text => logs.try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
    if installed.is_err() {
        tracing::debug!("logs were set up already");
    }
}

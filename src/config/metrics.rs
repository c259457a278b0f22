//! Metrics and traces: whether they are recorded, and where they go.

use url::Url;

use super::environment::Environment;
use super::reader::Reader;
use super::verify::{Switch, VerifyConfig};

/// The metrics of one process. The variables have the names that the platform's supervisor uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsConfig {
    /// `METRICS_ENABLED`: record metrics and serve them, true by default.
    pub enabled: bool,
    /// `METRICS_HOST`: where a worker serves them, `127.0.0.1` by default. The API serves its own at
    /// `/metrics`.
    pub host: String,
    /// `METRICS_PORT`: on which port, 9090 by default; 0 takes any that is free.
    ///
    /// If the port is taken, the worker runs without serving metrics: several workers may share a host.
    pub port: u16,
}

impl MetricsConfig {
    /// Reads this concern; faults stay with the reader.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            enabled: reader.flag("METRICS_ENABLED", true),
            host: reader.text_or("METRICS_HOST", "127.0.0.1"),
            port: u16::try_from(reader.whole("METRICS_PORT", 9090, 0..=65_535)).unwrap_or_default(),
        }
    }
}

/// Where traces of verifications go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracesConfig {
    /// `WARMPROOF_OTLP_TRACES_ENDPOINT`: the collector's full address, such as `http://otel:4318/v1/traces`.
    ///
    /// Not `OTEL_EXPORTER_OTLP_ENDPOINT`: that is a setting for runners and does not switch our traces on.
    pub endpoint: Url,
}

impl TracesConfig {
    /// Reads this concern; `None` if traces are off.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let endpoint = reader.optional_http_url("WARMPROOF_OTLP_TRACES_ENDPOINT")?;
        endpoint.parse().ok().map(|endpoint| Self { endpoint })
    }

    /// Reads only this, because traces are set up with logs, before all other settings. A fault is reported
    /// later, with all faults of the process's settings.
    #[must_use]
    pub fn ahead(environment: &Environment) -> Option<Self> {
        let mut reader = Reader::new(environment);
        match VerifyConfig::read(&mut reader) {
            Switch::Enabled(_) => Self::read(&mut reader),
            Switch::Disabled { .. } => None,
        }
    }
}

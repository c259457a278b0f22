//! The settings that every runner gets in its environment (platform.md §5.3).

use std::fmt;

use secrecy::SecretString;

use super::platform;
use super::reader::Reader;

/// Settings that are passed to runners unchanged.
#[derive(Debug, Clone)]
pub struct RunnerEnvConfig {
    /// `TRIGGER_WORKLOAD_API_PROTOCOL`: how runners reach the supervisor, `http` by default.
    pub api_protocol: Protocol,
    /// `TRIGGER_WORKLOAD_API_DOMAIN`: the name under which runners reach the supervisor.
    ///
    /// If it is wrong, runners start but never report. Some backends have a default of their own.
    pub api_domain: Option<String>,
    /// `TRIGGER_WORKLOAD_API_PORT_EXTERNAL`: the port runners reach, 8020 by default.
    pub api_port: u32,
    /// `TRIGGER_WORKER_INSTANCE_NAME`: the supervisor's name; a random UUID per process when unset.
    pub instance_name: String,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`: where runners send telemetry.
    pub otel_endpoint: String,
    /// `SEND_RUN_DEBUG_LOGS`: runners send debug logs to the platform, false by default.
    pub send_run_debug_logs: bool,
    /// `RUNNER_PRETTY_LOGS`: runners log for people, false by default.
    pub pretty_logs: bool,
    /// `TRIGGER_WARM_START_URL`: where runners poll for their next run; without it they exit after one.
    pub warm_start_url: Option<String>,
    /// `TRIGGER_METADATA_URL`: where runners learn of a changed environment after a restore.
    pub metadata_url: Option<String>,
    /// `RUNNER_HEARTBEAT_INTERVAL_SECONDS`: pause between a runner's heartbeats; the runner's own 20 s if
    /// unset.
    ///
    /// Too high and the platform treats a healthy run as stalled.
    pub heartbeat_seconds: Option<f64>,
    /// `RUNNER_SNAPSHOT_POLL_INTERVAL_SECONDS`: pause between a runner's polls for changes; its own 5 s if
    /// unset.
    ///
    /// Too low loads the platform; too high and missed notifications are noticed late.
    pub snapshot_poll_seconds: Option<f64>,
    /// `RUNNER_ADDITIONAL_ENV_VARS`: `name=value` pairs, separated by commas, that override all others.
    ///
    /// Kept as secrets, because people put secrets there.
    pub additional: Vec<(String, SecretString)>,
}

/// How runners reach the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Plain text.
    Http,
    /// TLS.
    Https,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

impl RunnerEnvConfig {
    /// Empty settings, for a backend that starts no runner itself.
    pub(super) fn nothing() -> Self {
        Self {
            api_protocol: Protocol::Http,
            api_domain: None,
            api_port: 0,
            instance_name: String::new(),
            otel_endpoint: String::new(),
            send_run_debug_logs: false,
            pretty_logs: false,
            warm_start_url: None,
            metadata_url: None,
            heartbeat_seconds: None,
            snapshot_poll_seconds: None,
            additional: Vec::new(),
        }
    }

    /// Reads this concern; faults stay with the reader.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let otel_endpoint = reader.http_url(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "set it to the address to which runners send telemetry, as the supervisor has it",
        );
        Some(Self {
            api_protocol: read_protocol(reader),
            api_domain: reader.optional_text("TRIGGER_WORKLOAD_API_DOMAIN"),
            api_port: reader.count("TRIGGER_WORKLOAD_API_PORT_EXTERNAL", 8020, 1..=65_535),
            instance_name: platform::read_instance_name(reader),
            send_run_debug_logs: reader.flag("SEND_RUN_DEBUG_LOGS", false),
            pretty_logs: reader.flag("RUNNER_PRETTY_LOGS", false),
            warm_start_url: reader.optional_http_url("TRIGGER_WARM_START_URL"),
            metadata_url: reader.optional_http_url("TRIGGER_METADATA_URL"),
            heartbeat_seconds: reader.optional_number("RUNNER_HEARTBEAT_INTERVAL_SECONDS"),
            snapshot_poll_seconds: reader.optional_number("RUNNER_SNAPSHOT_POLL_INTERVAL_SECONDS"),
            additional: read_additional(reader),
            otel_endpoint: otel_endpoint?,
        })
    }
}

fn read_protocol(reader: &mut Reader<'_>) -> Protocol {
    let variable = "TRIGGER_WORKLOAD_API_PROTOCOL";
    match reader.text_or(variable, "http").to_lowercase().as_str() {
        "http" => Protocol::Http,
        "https" => Protocol::Https,
        _ => {
            reader.fault(variable, "is not a known protocol", "set it to `http` or `https`");
            Protocol::Http
        }
    }
}

/// As the platform's supervisor reads it, quirks included: text after a second `=` is lost, and a pair
/// without a name or a value is skipped. Of two equal names the later one wins.
fn read_additional(reader: &mut Reader<'_>) -> Vec<(String, SecretString)> {
    let text = reader.optional_text("RUNNER_ADDITIONAL_ENV_VARS").unwrap_or_default();
    let mut additional: Vec<(String, SecretString)> = Vec::new();
    for pair in text.split(',') {
        let mut parts = pair.split('=').map(str::trim);
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
        if name.is_empty() || value.is_empty() {
            continue;
        }
        additional.retain(|(earlier, _)| earlier != name);
        additional.push((name.to_owned(), SecretString::from(value)));
    }
    additional
}

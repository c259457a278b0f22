//! `warmproof worker`

use tokio::net::TcpListener;
use url::Url;

use super::Lifetime;
use crate::config::WorkerSettings;
use crate::config::environment::Environment;
use crate::config::metrics::{MetricsConfig, TracesConfig};
use crate::config::verify::Switch;
use crate::store::Store;
use crate::store::connect::Role;
use crate::telemetry::event::Events;
use crate::telemetry::lines;
use crate::telemetry::metrics;
#[cfg(feature = "otlp")]
use crate::telemetry::traces;
use crate::telemetry::traces::Exporter;
#[cfg(feature = "otlp")]
use crate::transport;
use crate::worker::{PARTING_MAX, Served, Worker};

/// Runs a worker until SIGTERM or SIGINT.
pub(super) async fn worker(lifetime: &Lifetime) -> anyhow::Result<()> {
    let stop = lifetime.stop()?;
    super::warn_of_proxies();
    let settings = match WorkerSettings::from_environment(&Environment::from_process())? {
        Switch::Enabled(settings) => settings,
        Switch::Disabled { reason } => {
            tracing::warn!(%reason, "warm-start verification is off: nothing is opened, claimed or written");
            stop.cancelled().await;
            return Ok(());
        }
    };
    // Lazy: a worker that starts before its database waits for it.
    let store = Store::connect_lazy(&settings.database, Role::Worker);
    let pools = Served::set_up(&settings.pools)?;
    let (lines, _flush) = lines::start("events", std::io::stdout());
    let events = if settings.worker.wide_events { Events::Lines(lines) } else { Events::Off };
    let listener = listen(&settings.metrics).await;
    let worker = Worker::builder(settings.worker, store.clone(), pools).events(events).listener(listener);
    let drained = worker.run(stop).await?;
    tracing::debug!(?drained, "worker drained");
    // A statement that hangs holds its connection; the end of the process closes that, too.
    if tokio::time::timeout(PARTING_MAX, store.close()).await.is_err() {
        tracing::warn!("connections are still in use and are cut");
    }
    Ok(())
}

/// Records metrics and serves them, if they are on. If the port is taken, another worker of this host has it,
/// and this worker runs without serving metrics.
async fn listen(config: &MetricsConfig) -> Option<TcpListener> {
    if !config.enabled {
        return None;
    }
    metrics::install();
    let (host, port) = (config.host.as_str(), config.port);
    match TcpListener::bind((host, port)).await {
        Ok(listener) => {
            let address = listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
            tracing::info!(address, "metrics are served");
            Some(listener)
        }
        Err(error) => {
            tracing::warn!(%error, host, port, "metrics are not served (METRICS_HOST, METRICS_PORT)");
            None
        }
    }
}

/// The exporter of traces, if they are on. Made before the runtime starts, because it has a thread of its
/// own.
pub(super) fn traces() -> Option<Exporter> {
    let endpoint = TracesConfig::ahead(&Environment::from_process())?.endpoint;
    let exporter = exporter(&endpoint);
    match exporter {
        Ok(exporter) => Some(exporter),
        // A worker also works without traces.
        Err(error) => {
            no_traces(&error);
            None
        }
    }
}

#[cfg(feature = "otlp")]
fn exporter(endpoint: &Url) -> anyhow::Result<Exporter> {
    let client = transport::blocking_client(endpoint.scheme(), traces::SEND_MAX)?;
    Ok(Exporter::new(endpoint.as_str(), client)?)
}

#[cfg(not(feature = "otlp"))]
fn exporter(_: &Url) -> anyhow::Result<Exporter> {
    anyhow::bail!(
        "WARMPROOF_OTLP_TRACES_ENDPOINT is set, but this program was built without the cargo feature `otlp`"
    )
}

#[expect(clippy::print_stderr, reason = "logging is set up later")]
fn no_traces(error: &anyhow::Error) {
    eprintln!("warning: no traces are sent: {error:#}");
}

//! `warmproof worker`

use super::Lifetime;
use crate::config::WorkerSettings;
use crate::config::environment::Environment;
use crate::config::verify::Switch;
use crate::store::Store;
use crate::telemetry::event::Events;
use crate::worker::{PARTING_MAX, Served, Worker};

/// Runs a worker until SIGTERM or SIGINT.
pub(super) async fn worker(lifetime: &Lifetime) -> anyhow::Result<()> {
    let stop = lifetime.stop()?;
    let settings = match WorkerSettings::from_environment(&Environment::from_process())? {
        Switch::Enabled(settings) => settings,
        Switch::Disabled { reason } => {
            tracing::warn!(%reason, "warm-start verification is off: nothing is opened, claimed or written");
            stop.cancelled().await;
            return Ok(());
        }
    };
    // Lazy: a worker that starts before its database waits for it.
    let store = Store::connect_lazy(&settings.database)?;
    let pools = Served::set_up(&settings.pools)?;
    let events = if settings.worker.wide_events { Events::Stdout } else { Events::Off };
    let worker = Worker::builder(settings.worker, store.clone(), pools).events(events);
    let drained = worker.run(stop).await.map_err(|error| {
        let missing = error.is_schema_missing();
        let error = anyhow::Error::new(error);
        if missing { error.context("the schema is missing: run `warmproof migrate` first") } else { error }
    })?;
    tracing::debug!(?drained, "worker drained");
    // A statement that hangs holds its connection; the end of the process closes that, too.
    if tokio::time::timeout(PARTING_MAX, store.close()).await.is_err() {
        tracing::warn!("connections are still in use and are cut");
    }
    Ok(())
}

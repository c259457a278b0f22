//! `warmproof-lab supervise`

use std::time::Duration;

use anyhow::Context;
use bytes::BytesMut;
use clap::Args;
use futures_util::TryStreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::supervisor::settings::SuperviseSettings;
use crate::supervisor::{Connected, Supervisor};
use warmproof::config::environment::Environment;
use warmproof::config::verify::Switch;
use warmproof::platform;
use warmproof::scheduler::Scheduler;
use warmproof::shutdown;
use warmproof::workload::Workload;

/// Options of the supervisor besides its environment.
#[derive(Debug, Args)]
pub struct SuperviseArgs {
    /// Pause after each dequeued run, in milliseconds
    #[arg(long, default_value_t = 20)]
    dequeue_interval_ms: u64,
}

/// Supervises until SIGTERM or SIGINT. Connects are read from the simulated platform.
pub async fn supervise(args: SuperviseArgs) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    let settings = SuperviseSettings::from_environment(&Environment::from_process())?;
    let http = platform::Client::without_credentials()?;
    let (sender, connected) = mpsc::channel(1024);
    let url =
        settings.platform.api_url.join("/simulator/connected").context("TRIGGER_API_URL has no host")?;
    tokio::spawn(hear(http.clone(), url, sender, stop.clone()));
    let supervisor = Supervisor {
        name: settings.platform.instance_name.parse().context("TRIGGER_WORKER_INSTANCE_NAME")?,
        platform: platform::Client::new(&settings.platform)?,
        broker: settings.broker,
        http,
        scheduler: Scheduler::connect(&settings.scheduler).await?,
        workload: Workload::new(&settings.workload)?,
        dequeue_interval: Duration::from_millis(args.dequeue_interval_ms),
    };
    let verification = if matches!(settings.scheduler, Switch::Enabled(_)) { "on" } else { "off" };
    tracing::info!(supervisor = supervisor.name.as_str(), verification, "supervisor started");
    supervisor.run(connected, stop).await;
    Ok(())
}

/// Listens for connected runners, which a real supervisor learns from its own workload socket.
async fn hear(http: reqwest::Client, url: Url, sender: mpsc::Sender<Connected>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = hear_once(&http, &url, &sender).await {
            tracing::warn!(error = %error.without_url(), "the stream of connects from the platform ended");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn hear_once(
    http: &reqwest::Client,
    url: &Url,
    sender: &mpsc::Sender<Connected>,
) -> Result<(), reqwest::Error> {
    let mut stream = http.get(url.clone()).send().await?.error_for_status()?.bytes_stream();
    let mut heard = BytesMut::new();
    while let Some(chunk) = stream.try_next().await? {
        heard.extend_from_slice(&chunk);
        while let Some(end) = heard.iter().position(|byte| *byte == b'\n') {
            let line = heard.split_to(end + 1);
            match serde_json::from_slice(&line) {
                Ok(connected) => drop(sender.send(connected).await),
                Err(error) => tracing::warn!(%error, "could not read a connect from the platform"),
            }
        }
    }
    Ok(())
}

//! The processes of a benchmark: workers, bare timers and an API, all of them this program.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::context::{Context, SCHEMA};
use super::figures::Percentiles;
use super::pace::Pace;
use crate::product;

/// How long a process may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(30);
/// The API token of a benchmark.
pub const API_TOKEN: &str = "benchmark-token-0123456789";

/// What one process reports when it stops.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Account {
    /// How late each probe began, in microseconds, by the machine's clock; only for run ids with a due time.
    pub lags_us: Vec<i32>,
    /// How late each settled probe was, in microseconds, as the worker computed it.
    pub event_lags_us: Vec<i32>,
    /// Its peak memory, in KiB.
    pub rss_peak_kib: u64,
}

/// Processes that run until they are stopped.
#[derive(Debug)]
pub struct Fleet {
    processes: Vec<(Child, Lines<BufReader<ChildStdout>>)>,
}

/// What all processes of a fleet reported.
#[derive(Debug, Serialize)]
pub struct Accounts {
    /// By the machine's clock.
    pub lag: Option<Percentiles>,
    /// As the workers computed it.
    pub event_lag: Option<Percentiles>,
    /// Highest peak memory of one process, in KiB.
    pub rss_peak_kib: u64,
}

impl Fleet {
    /// Starts this many workers and waits until they are connected. `probe` selects their probe.
    ///
    /// # Errors
    /// A process could not be started, or was not ready in time.
    pub async fn workers(
        context: &Context,
        count: u32,
        probe: &[&str],
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut arguments = vec!["bench-worker"];
        arguments.extend(probe);
        let processes = (0..count).map(|_| arguments.clone()).collect();
        Self::start(context, processes, environment).await
    }

    /// Starts this many processes that share the pace's bare timers.
    ///
    /// # Errors
    /// A process could not be started, or was not ready in time.
    pub async fn timers(
        context: &Context,
        count: u32,
        start_at: DateTime<Utc>,
        pace: Pace,
    ) -> anyhow::Result<Self> {
        let texts: Vec<String> = (0..count)
            .map(|nth| {
                let Pace { rate, seconds, group } = pace;
                let start = start_at.timestamp_micros();
                format!("bench-worker --timers {nth},{count},{start},{rate},{seconds},{group}")
            })
            .collect();
        let processes = texts.iter().map(|text| text.split(' ').collect()).collect();
        Self::start(context, processes, &[]).await
    }

    async fn start(
        context: &Context,
        processes: Vec<Vec<&str>>,
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut fleet = Self { processes: Vec::new() };
        for arguments in processes {
            fleet.processes.push(spawn(context, own()?, &arguments, environment)?);
        }
        for (_, lines) in &mut fleet.processes {
            let line =
                timeout(PATIENCE, lines.next_line()).await.context("a process was not ready in time")??;
            anyhow::ensure!(
                line.as_deref() == Some("ready"),
                "a process stopped before it was ready: {line:?}"
            );
        }
        Ok(fleet)
    }

    /// Stops all processes and collects their reports.
    ///
    /// # Errors
    /// A process did not stop in time, or its report is not valid.
    pub async fn stop(mut self) -> anyhow::Result<Accounts> {
        for (child, _) in &mut self.processes {
            drop(child.stdin.take());
        }
        let mut whole = Account::default();
        for (child, lines) in &mut self.processes {
            let line =
                timeout(PATIENCE, lines.next_line()).await.context("a process did not stop in time")??;
            let account: Account = serde_json::from_str(&line.context("a process reported nothing")?)?;
            whole.lags_us.extend(account.lags_us);
            whole.event_lags_us.extend(account.event_lags_us);
            whole.rss_peak_kib = whole.rss_peak_kib.max(account.rss_peak_kib);
            timeout(PATIENCE, child.wait()).await.context("a process did not end in time")??;
        }
        let figures =
            |lags: Vec<i32>| Percentiles::of(lags.into_iter().map(|us| f64::from(us) / 1000.0).collect());
        Ok(Accounts {
            lag: figures(whole.lags_us),
            event_lag: figures(whole.event_lags_us),
            rss_peak_kib: whole.rss_peak_kib,
        })
    }
}

/// Starts an API process and returns its address.
///
/// # Errors
/// It could not be started, or was not ready in time.
pub async fn api(context: &Context) -> anyhow::Result<(Child, String)> {
    let (child, mut lines) = spawn(context, product::command()?, &["api"], &[])?;
    let line = timeout(PATIENCE, lines.next_line()).await.context("the api was not ready in time")??;
    let url = line.as_deref().and_then(|line| line.strip_prefix("api ready on "));
    Ok((child, url.context("the api stopped before it was ready")?.to_owned()))
}

/// Stops an API process.
///
/// # Errors
/// It did not stop in time.
pub async fn stop_api(mut child: Child) -> anyhow::Result<()> {
    drop(child.stdin.take());
    timeout(PATIENCE, child.wait()).await.context("the api did not stop in time")??;
    Ok(())
}

/// This program, for processes that only a benchmark has.
fn own() -> anyhow::Result<Command> {
    Ok(Command::new(std::env::current_exe().context("could not find this program")?))
}

fn spawn(
    context: &Context,
    mut program: Command,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> anyhow::Result<(Child, Lines<BufReader<ChildStdout>>)> {
    let mut child = program
        .args(arguments)
        .arg("--until-stdin-closes")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .env_clear()
        .envs(base_environment(context))
        .envs(environment.iter().copied())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("could not start a process of the benchmark")?;
    let stdout = child.stdout.take().context("a process has no stdout")?;
    Ok((child, BufReader::new(stdout).lines()))
}

/// A complete and harmless environment: addresses that are not given lead to a closed port.
fn base_environment(context: &Context) -> Vec<(&'static str, String)> {
    let nowhere = "http://127.0.0.1:9";
    [
        ("TRIGGER_WARM_START_VERIFY_ENABLED", "true"),
        ("TRIGGER_WARM_START_URL", nowhere),
        ("TRIGGER_API_URL", nowhere),
        ("TRIGGER_WORKER_TOKEN", "tr_wgt_benchmark0benchmark0benchmark"),
        ("MANAGED_WORKER_SECRET", "benchmark-secret"),
        ("TRIGGER_WORKLOAD_API_DOMAIN", "localhost"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", nowhere),
        ("COMPUTE_GATEWAY_URL", nowhere),
        ("WARMPROOF_DATABASE_URL", &context.url),
        ("WARMPROOF_SCHEMA", SCHEMA),
        ("WARMPROOF_API_LISTEN", "127.0.0.1:0"),
        ("WARMPROOF_API_TOKEN", API_TOKEN),
        ("WARMPROOF_LOG", "error"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

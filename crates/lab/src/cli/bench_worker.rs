//! `warmproof-lab bench-worker`: one process of a benchmark, started by `warmproof-lab bench`.
//!
//! It is the product's worker with its own claims, tasks, settles and leases; only the platform that it
//! probes may be replaced. It prints `ready`, works until it is stopped, and then prints how late it was.

use std::future::ready;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::Args;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::bench::fleet::Account;
use crate::bench::pace::Pace;
use crate::bench::rows::due_micros;
use warmproof::cli::process::Lifetime;
use warmproof::config::WorkerSettings;
use warmproof::config::environment::Environment;
use warmproof::config::verify::Switch;
use warmproof::domain::ids::{PoolName, RunId, SnapshotId};
use warmproof::domain::verdict::{LatestSnapshot, Observation};
use warmproof::store::Store;
use warmproof::store::connect::Role;
use warmproof::telemetry::event::{EventSink, Events, WideEvent};
use warmproof::telemetry::metrics;
use warmproof::worker::{Probe, ProbeSource, Served, Worker};

/// Two readings of the clocks that belong together are taken within this time.
const READINGS_APART_MAX: Duration = Duration::from_micros(50);
/// How often events are turned into figures, so that they do not pile up.
const DRAIN_EVERY: Duration = Duration::from_millis(50);
/// Bare timers are set as far ahead as a worker claims, as often as it claims.
const TIMERS_AHEAD: Duration = Duration::from_millis(600);
const TIMERS_EVERY: Duration = Duration::from_millis(250);

/// Which platform the process probes, or which bare timers it sets.
#[derive(Debug, Args)]
pub(super) struct BenchWorkerArgs {
    /// Probe the platform of the environment; without this flag every probe observes one fixed snapshot
    #[arg(long)]
    http: bool,
    /// The snapshot that every probe observes
    #[arg(long, default_value = "snapshot_moved")]
    snapshot: String,
    /// Answer the probes of this pool after so many milliseconds: `NAME=MS`
    #[arg(long, value_parser = slow_pool)]
    slow: Option<(PoolName, Duration)>,
    /// No worker, but bare timers: this process, of how many, start in microseconds, rate, seconds, group
    #[arg(long, value_delimiter = ',', num_args = 1)]
    timers: Option<Vec<i64>>,
    #[command(flatten)]
    lifetime: Lifetime,
}

pub(super) async fn bench_worker(args: BenchWorkerArgs) -> anyhow::Result<()> {
    let stop = args.lifetime.stop()?;
    let mut account = match &args.timers {
        Some(numbers) => timers(numbers, &stop).await?,
        None => work(&args, stop).await?,
    };
    account.rss_peak_kib = rss_peak_kib().unwrap_or(0);
    say(&serde_json::to_string(&account)?)
}

async fn work(args: &BenchWorkerArgs, stop: CancellationToken) -> anyhow::Result<Account> {
    let settings = match WorkerSettings::from_environment(&Environment::from_process())? {
        Switch::Enabled(settings) => settings,
        Switch::Disabled { reason } => anyhow::bail!("verification is off: {reason}"),
    };
    let store = Store::connect(&settings.database, Role::Worker).await?;
    // As in an ordinary worker.
    if settings.metrics.enabled {
        metrics::install();
    }
    let (noted, mut probes) = mpsc::unbounded_channel();
    let mut pools = Served::set_up(&settings.pools)?;
    if !args.http {
        let latest = moved_on(&args.snapshot)?;
        for (pool, served) in &mut pools {
            let slow = args.slow.as_ref().filter(|(slow, _)| slow == pool);
            let answers_after = slow.map_or(Duration::ZERO, |(_, after)| *after);
            let timed = Timed { latest: latest.clone(), answers_after, probes: noted.clone() };
            served.probe = Probe::Custom(Arc::new(timed));
        }
    }
    let events = Arc::new(Kept::default());
    let worker = Worker::builder(settings.worker, store.clone(), pools)
        .events(Events::Custom(Arc::<Kept>::clone(&events)))
        .run(stop);
    say("ready")?;

    let clock = WallClock::read();
    let mut account = Account::default();
    let mut rounds = tokio::time::interval(DRAIN_EVERY);
    let mut worker = tokio::spawn(worker);
    let drained = loop {
        tokio::select! {
            _ = rounds.tick() => drain(&mut account, &events.0, &mut probes, &clock),
            drained = &mut worker => break drained,
        }
    };
    drained.context("the worker panicked")??;
    drain(&mut account, &events.0, &mut probes, &clock);
    store.close().await;
    Ok(account)
}

fn slow_pool(text: &str) -> Result<(PoolName, Duration), String> {
    let (pool, ms) = text.split_once('=').ok_or("must be `NAME=MS`")?;
    let ms = ms.parse().map_err(|error: std::num::ParseIntError| error.to_string())?;
    Ok((PoolName::parse(pool).map_err(|error| error.to_string())?, Duration::from_millis(ms)))
}

/// Answers every probe with the same snapshot and sends the instant at which the probe began.
#[derive(Debug)]
struct Timed {
    latest: LatestSnapshot,
    answers_after: Duration,
    probes: mpsc::UnboundedSender<(RunId, Instant)>,
}

impl ProbeSource for Timed {
    fn latest_snapshot<'a>(&'a self, run_id: &'a RunId) -> BoxFuture<'a, Observation> {
        // The receiver may be gone at the end of a benchmark.
        let _ = self.probes.send((run_id.clone(), Instant::now()));
        if self.answers_after.is_zero() {
            return Box::pin(ready(Ok(self.latest.clone())));
        }
        Box::pin(async {
            tokio::time::sleep(self.answers_after).await;
            Ok(self.latest.clone())
        })
    }
}

/// Events, kept until they are counted.
#[derive(Debug, Default)]
struct Kept(Mutex<Vec<WideEvent>>);

impl EventSink for Kept {
    fn emit(&self, event: WideEvent) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

fn moved_on(snapshot: &str) -> anyhow::Result<LatestSnapshot> {
    Ok(LatestSnapshot {
        snapshot_id: SnapshotId::parse(snapshot)?,
        execution_status: "EXECUTING".to_owned(),
        description: "Attempt started (warm start)".to_owned(),
        run_status: "EXECUTING".to_owned(),
        attempt_number: Some(1),
    })
}

fn drain(
    account: &mut Account,
    events: &Mutex<Vec<WideEvent>>,
    probes: &mut mpsc::UnboundedReceiver<(RunId, Instant)>,
    clock: &WallClock,
) {
    let events = std::mem::take(&mut *events.lock().unwrap_or_else(PoisonError::into_inner));
    for event in events {
        if let Some(lag_ms) = event.get("lag_ms").and_then(serde_json::Value::as_f64) {
            account.event_lags_us.push(micros(lag_ms));
        }
    }
    while let Ok((run_id, at)) = probes.try_recv() {
        if let Some(due) = due_micros(&run_id) {
            account.lags_us.push(i32::try_from(clock.micros_at(at) - due).unwrap_or(i32::MAX));
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a float saturates")]
fn micros(millis: f64) -> i32 {
    (millis * 1000.0).round() as i32
}

/// The machine's clock, which the server of a benchmark shares, read off the stopwatch.
struct WallClock {
    read: DateTime<Utc>,
    at: Instant,
}

impl WallClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "lateness by the machine's own clock, independent of our own measurement"
    )]
    fn read() -> Self {
        // While several processes start, one may be held up between its two readings for tens of milliseconds; every
        // lag would then be off by as much.
        loop {
            let at = Instant::now();
            let read = Utc::now();
            if at.elapsed() < READINGS_APART_MAX {
                return Self { read, at };
            }
        }
    }

    fn micros_at(&self, instant: Instant) -> i64 {
        let since = i64::try_from(instant.saturating_duration_since(self.at).as_micros()).unwrap_or(i64::MAX);
        self.read.timestamp_micros().saturating_add(since)
    }

    fn instant_of(&self, micros: i64) -> Instant {
        let ahead = micros.saturating_sub(self.read.timestamp_micros());
        self.at + Duration::from_micros(ahead.unsigned_abs())
    }
}

/// As many sleeping tasks as a worker would have, with nothing else to do.
async fn timers(numbers: &[i64], stop: &CancellationToken) -> anyhow::Result<Account> {
    let [index, of, start, rate, seconds, group] = *numbers else { anyhow::bail!("six numbers are needed") };
    let pace = Pace { rate: rate.try_into()?, seconds: seconds.try_into()?, group: group.try_into()? };
    let clock = WallClock::read();
    let begin = clock.instant_of(start);
    say("ready")?;

    let mut fired = JoinSet::new();
    let mut lags_us = Vec::new();
    for nth in (u32::try_from(index)?..pace.count()).step_by(usize::try_from(of)?) {
        let due = begin + pace.offset(nth);
        while Instant::now() + TIMERS_AHEAD < due && !stop.is_cancelled() {
            tokio::time::sleep(TIMERS_EVERY).await;
        }
        fired.spawn(async move {
            sleep_until(due).await;
            Instant::now() - due
        });
    }
    while let Some(late) = fired.join_next().await {
        lags_us.push(i32::try_from(late?.as_micros()).unwrap_or(i32::MAX));
    }
    stop.cancelled().await;
    Ok(Account { lags_us, ..Account::default() })
}

fn rss_peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[expect(clippy::print_stdout, reason = "what the parent reads")]
fn say(line: &str) -> anyhow::Result<()> {
    println!("{line}");
    Ok(std::io::stdout().flush()?)
}

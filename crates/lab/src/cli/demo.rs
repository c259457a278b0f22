//! `warmproof-lab demo`: Warmproof at work, with losses, a killed worker and a verdict.
//!
//! Simulator and supervisor run in this process. The API and the workers run in processes of
//! their own, so that a worker can be killed with SIGKILL. The simulator's ledger has what
//! really happened to each run, and decides the verdict.

mod fleet;
mod stage;
mod tally;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use warmproof::shutdown;

use fleet::Fleet;
use stage::Stage;
use tally::Summary;

/// Options of the demo.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// About how long it takes, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=3600))]
    seconds: u64,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
    /// Delay from hit to probe, in milliseconds; by default 10000, or a quarter of a demo under 30 s
    #[arg(long, value_parser = clap::value_parser!(u64).range(1000..=60_000))]
    delay_ms: Option<u64>,
    /// Runs queued per second
    #[arg(long, default_value_t = 20.0)]
    runs_per_second: f64,
    /// Share of warm runners that died silently, 0 to 1
    #[arg(long, default_value_t = 0.05)]
    dead_share: f64,
    /// Worker processes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    workers: u32,
    /// Seed of the choice which hits are lost
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl DemoArgs {
    fn delay(&self) -> Duration {
        let short = (self.seconds * 1000 / 4).max(1000);
        let usual = if self.seconds >= 30 { 10_000 } else { short };
        Duration::from_millis(self.delay_ms.unwrap_or(usual))
    }

    /// How long runs are queued: what is left when the last loss has its delay, a boot and a margin.
    fn producing(&self) -> Duration {
        let total = Duration::from_secs(self.seconds);
        total.saturating_sub(self.delay() + Duration::from_secs(4)).max(Duration::from_secs(1))
    }
}

/// Longest wait for the last runs beyond the time that was asked for.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// How often the live line is printed.
const LIVE_EVERY: Duration = Duration::from_secs(2);

/// Runs the demo, then prints what happened. Fails if a run was lost, started twice or is unaccounted for.
pub async fn demo(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let stop = shutdown::on_signal()?;
    let stage = Stage::set(&args).await?;
    let mut fleet = Fleet::start(&stage, args.workers).await?;
    say(&format!("api      {}/readyz  (token in the environment of the api process)", fleet.api_url()))?;
    say(&format!("database {}", stage.database_url()))?;
    // The token is valid only for this demo, unless the user set one.
    say(&format!(
        "page     {}/  (reading needs no token; the token to act is {})",
        fleet.api_url(),
        stage.reported_token()
    ))?;

    let mut workers_killed = 0;
    let begin = Instant::now();
    let end = begin + Duration::from_secs(args.seconds) + DRAIN_MAX;
    let kill_at = begin + args.producing().mul_f64(0.5);
    run_for(&args, &stage, &stop, begin, kill_at.min(end), false).await?;
    if !stop.is_cancelled() {
        let pid = fleet.kill_one().await?;
        workers_killed += 1;
        say(&format!("{:>4.0} s  worker process {pid} killed with SIGKILL", begin.elapsed().as_secs_f64()))?;
        fleet.replace()?;
        run_for(&args, &stage, &stop, begin, end, true).await?;
    }

    let tally = Summary::take(&stage, workers_killed).await?;
    fleet.stop().await;
    stage.strike().await;
    say(&tally.table())?;
    if args.json {
        say(&serde_json::to_string(&tally)?)?;
    }
    Ok(if tally.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the live line until `until`, a signal or, if asked to, the end of the last run.
async fn run_for(
    args: &DemoArgs,
    stage: &Stage,
    stop: &CancellationToken,
    begin: Instant,
    until: Instant,
    to_the_last_run: bool,
) -> anyhow::Result<()> {
    let mut live = interval(LIVE_EVERY);
    live.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut check = interval(Duration::from_millis(200));
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = sleep_until(until) => return Ok(()),
            _ = live.tick() => say(&tally::live_line(stage, begin.elapsed()).await?)?,
            _ = check.tick(), if to_the_last_run && begin.elapsed() > args.producing() => {
                if stage.is_over().await? {
                    return Ok(());
                }
            }
        }
    }
}

/// Writes a line to stdout at once, also when it is a pipe.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

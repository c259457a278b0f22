//! `warmproof-lab simulate`: a simulated platform for trials, until SIGTERM or SIGINT.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::simulator::{Loser, Shares, Simulator, SimulatorOptions};
use warmproof::platform::wire::WORKER_TOKEN_PREFIX;

/// Options of a simulation.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The worker token to accept; must begin with `tr_wgt_`
    #[arg(long)]
    worker_token: SecretString,
    /// The managed worker secret to accept
    #[arg(long)]
    managed_secret: SecretString,
    /// Bearer token of the compute gateway; none is required when unset
    #[arg(long)]
    gateway_token: Option<SecretString>,
    /// Runs to queue in total
    #[arg(long, default_value_t = 0)]
    queued_runs: usize,
    /// How many of them per second; all at once when unset
    #[arg(long)]
    runs_per_second: Option<f64>,
    /// Simulated warm runners
    #[arg(long, default_value_t = 10)]
    runners: usize,
    /// Simulate no runners: only your own pollers get warm starts
    #[arg(long, conflicts_with = "runners")]
    no_runners: bool,
    /// Share of polls by runners that died silently, 0 to 1
    #[arg(long, default_value_t = 0.0)]
    dead_share: f64,
    /// Share of polls by runners that act late, 0 to 1
    #[arg(long, default_value_t = 0.0)]
    slow_share: f64,
    /// How long a dequeued run may wait for its start before it is requeued; 0 never requeues
    #[arg(long, default_value_t = 60_000)]
    redrive_ms: u64,
    /// How long a dequeue blocks on an empty queue
    #[arg(long, default_value_t = 10_000)]
    dequeue_block_ms: u64,
    /// How long a run executes
    #[arg(long, default_value_t = 500)]
    execute_ms: u64,
    /// How long a cold workload takes to boot
    #[arg(long, default_value_t = 1_000)]
    boot_ms: u64,
    /// Let a runner whose start is refused retry for over a minute, as the platform's runners do
    #[arg(long)]
    losers_ask_on: bool,
    /// Seed of the choice which polls are dead or slow
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Runs a simulation; prints one line on stdout once it listens.
///
/// # Errors
/// A flag is wrong, or the address cannot be served.
pub async fn simulate(args: SimulateArgs) -> anyhow::Result<()> {
    if !args.worker_token.expose_secret().starts_with(WORKER_TOKEN_PREFIX) {
        bail!("`--worker-token` must begin with `{WORKER_TOKEN_PREFIX}`, as the platform's worker tokens do");
    }
    // Registered before the ready line, because its reader may send a signal at once.
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for SIGINT")?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("could not listen on `--listen {}`", args.listen))?;
    let simulator = Simulator::start(listener, options(args)).context("could not start the simulator")?;

    writeln!(std::io::stdout(), "simulator ready on {}", simulator.base_url())
        .context("could not write the ready line")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    simulator.shutdown().await;
    Ok(())
}

fn options(args: SimulateArgs) -> SimulatorOptions {
    SimulatorOptions {
        worker_token: args.worker_token,
        managed_secret: args.managed_secret,
        gateway_token: args.gateway_token,
        dequeue_block: Duration::from_millis(args.dequeue_block_ms),
        redrive: Duration::from_millis(args.redrive_ms),
        queued_runs: args.queued_runs,
        runs_per_second: args.runs_per_second,
        runners: if args.no_runners { 0 } else { args.runners },
        cold_runners_poll: !args.no_runners,
        shares: Shares { silently_dead: args.dead_share, slow: args.slow_share, ..Shares::default() },
        execute: Duration::from_millis(args.execute_ms),
        boot: Duration::from_millis(args.boot_ms),
        loser: if args.losers_ask_on { Loser::AsksOn } else { Loser::GivesUp },
        seed: args.seed,
        ..SimulatorOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        simulate: SimulateArgs,
    }

    #[tokio::test]
    async fn a_token_of_another_form_is_refused_by_its_flag_and_not_repeated() {
        let arguments = ["x", "--worker-token", "hidden", "--managed-secret", "s"];
        let command = Command::try_parse_from(arguments).unwrap();
        assert!(!format!("{:?}", command.simulate).contains("hidden"));
        let error = simulate(command.simulate).await.unwrap_err().to_string();
        assert!(error.contains("`--worker-token` must begin with `tr_wgt_`"), "{error}");
        assert!(!error.contains("hidden"), "{error}");
    }

    #[test]
    fn without_runners_there_are_no_polls() {
        let arguments = ["x", "--worker-token", "tr_wgt_a", "--managed-secret", "s", "--no-runners"];
        let options = options(Command::try_parse_from(arguments).unwrap().simulate);
        assert_eq!((options.runners, options.cold_runners_poll, options.queued_runs), (0, false, 0));
    }
}

//! The command line: wires the layers, and is the only place that knows all of them.

pub mod api;
mod audit;
pub mod bench;
mod bench_worker;
pub mod demo;
mod doctor;
mod losses;
pub mod migrate;
mod output;
mod pending;
mod pools;
mod report;
mod show;
pub mod simulate;
pub mod supervise;
mod token;
pub mod worker;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio_util::sync::CancellationToken;

use crate::config::environment::Environment;
use crate::shutdown;
use crate::store::StoreError;
use crate::telemetry::{self, LogFormat};

/// Durable proof that a warm start really started.
#[derive(Debug, Parser)]
#[command(name = "warmproof", version, about, propagate_version = true)]
pub struct Cli {
    /// What to log on stderr, as a tracing directive such as `info` or `warmproof=debug`.
    #[arg(long, global = true, env = "WARMPROOF_LOG", default_value = "info")]
    log: String,
    /// How log lines look.
    #[arg(long, global = true, env = "WARMPROOF_LOG_FORMAT", value_enum, default_value_t = Format::Text)]
    log_format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole thing at work: losses happen, a worker is killed, every run is recovered.
    Demo(demo::DemoArgs),
    /// Claim what falls due, look at it, cold-start what was lost.
    Worker(Lifetime),
    /// Serve the HTTP API.
    Api(Lifetime),
    /// Bring the database's schema up to date.
    Migrate(migrate::MigrateArgs),
    /// Show what is pending: totals by pool, and what is looked at next.
    Pending(pending::PendingArgs),
    /// Show what became of a run, as a timeline.
    Show(show::ShowArgs),
    /// Take promises back: of one run, or of all that a filter means.
    Cancel(pending::CancelArgs),
    /// Report losses: rates with their intervals, where and since when.
    Report(report::ReportArgs),
    /// Show the latest losses, run by run.
    Losses(losses::LossesArgs),
    /// Show pools and who serves them; pause, resume, shadow, delay or cap one.
    Pools(pools::PoolsArgs),
    /// Show who did what: pools changed, promises taken back, tokens made.
    Audit(audit::AuditArgs),
    /// Make, list and revoke tokens of the API.
    Token(token::TokenArgs),
    /// Check that everything is in place; exits with 1 on warnings and 2 on errors.
    Doctor(doctor::DoctorArgs),
    /// Print a shell's completions.
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Play the platform: worker API, warm-start broker, runners and a compute gateway.
    Simulate(simulate::SimulateArgs),
    /// Measure the product beside the server's own limit, on a private PostgreSQL.
    Bench(bench::BenchArgs),
    /// Play a supervisor: dequeue, warm-start, schedule or cold-start, cancel on connect.
    Supervise(supervise::SuperviseArgs),
    /// One process of a benchmark.
    #[command(hide = true)]
    BenchWorker(bench_worker::BenchWorkerArgs),
}

/// When a process of ours ends.
#[derive(Debug, Args)]
struct Lifetime {
    /// Stop, as on SIGTERM, when standard input closes: for a parent that may die
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

impl Lifetime {
    /// A token that is cancelled when it is time to stop.
    fn stop(&self) -> std::io::Result<CancellationToken> {
        let stop = shutdown::on_signal()?;
        if self.until_stdin_closes {
            shutdown::on_stdin_closed(stop.clone());
        }
        Ok(stop)
    }
}

/// How long a process that has done its work waits for what still runs.
const PARTING_MAX: std::time::Duration = std::time::Duration::from_secs(1);

/// Says that a proxy is named and not used. A probe that cannot leave the network otherwise fails without a word on it.
fn warn_of_proxies() {
    let named = Environment::from_process().proxy_variables();
    if !named.is_empty() {
        tracing::warn!(
            variables = named.join(", "),
            "a proxy is named in the environment and ignored: Warmproof connects directly (docs/operating.md)"
        );
    }
}

/// Runs the command that was asked for.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let format = match cli.log_format {
        Format::Text => LogFormat::Text,
        Format::Json => LogFormat::Json,
    };
    // Only workers have something to tell a tracing backend.
    let traces = if matches!(cli.command, Command::Worker(_)) { worker::traces() } else { None };
    telemetry::init_logs(&cli.log, format, traces.as_ref());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("could not start the runtime")),
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Demo(args) => demo::demo(args).await,
            Command::Worker(lifetime) => worker::worker(&lifetime).await.map(|()| ExitCode::SUCCESS),
            Command::Api(lifetime) => api::api(&lifetime).await.map(|()| ExitCode::SUCCESS),
            Command::Migrate(args) => migrate::migrate(args).await,
            Command::Pending(args) => pending::pending(args).await,
            Command::Show(args) => show::show(args).await,
            Command::Cancel(args) => pending::cancel(args).await,
            Command::Report(args) => report::report(args).await,
            Command::Losses(args) => losses::losses(args).await,
            Command::Pools(args) => pools::pools(args).await,
            Command::Audit(args) => audit::audit(args).await,
            Command::Token(args) => token::token(args).await,
            Command::Doctor(args) => doctor::doctor(args).await,
            Command::Completions { shell } => completions(shell),
            Command::Simulate(args) => simulate::simulate(args).await.map(|()| ExitCode::SUCCESS),
            Command::Bench(args) => bench::bench(args).await,
            Command::Supervise(args) => supervise::supervise(args).await.map(|()| ExitCode::SUCCESS),
            Command::BenchWorker(args) => bench_worker::bench_worker(args).await.map(|()| ExitCode::SUCCESS),
        }
    });
    // A name that is looked up in vain cannot be given up, and nothing is worth waiting for it.
    runtime.shutdown_timeout(PARTING_MAX);
    done.unwrap_or_else(|error| fail(&error))
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut <Cli as clap::CommandFactory>::command(), "warmproof", &mut script);
    output::line(String::from_utf8(script)?.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stderr, reason = "the last word of a command that failed, whatever the log filter")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {}", reported_once(error));
    let store_error = error.chain().find_map(|cause| cause.downcast_ref::<StoreError>());
    if store_error.is_some_and(StoreError::is_schema_missing) {
        eprintln!("hint: run `warmproof migrate` first, or say in WARMPROOF_SCHEMA which schema it is");
    }
    ExitCode::FAILURE
}

/// The causes of an error, each told once: many errors repeat their cause in their own text.
fn reported_once(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |reported, cause| {
        if reported.is_empty() {
            cause
        } else if reported.contains(&cause) {
            reported
        } else {
            format!("{reported}: {cause}")
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn a_cause_is_told_once() {
        let error =
            anyhow::anyhow!("refused").context("could not connect: refused").context("could not start");
        assert_eq!(super::reported_once(&error), "could not start: could not connect: refused");
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}

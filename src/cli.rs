//! The command line: connects the layers, and is the only place that knows all of them.

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
    /// The format of log lines.
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
    /// Show Warmproof at work: warm starts are lost, a worker is killed, every run is recovered.
    Demo(demo::DemoArgs),
    /// Claim verifications as they come due, probe their runs, and start lost runs cold.
    Worker(Lifetime),
    /// Serve the HTTP API.
    Api(Lifetime),
    /// Bring the database's schema up to date.
    Migrate(migrate::MigrateArgs),
    /// Show what is pending: totals by pool, and the next probes.
    Pending(pending::PendingArgs),
    /// Show what became of a run, as a timeline.
    Show(show::ShowArgs),
    /// Cancel verifications: of one run, or all that match a filter.
    Cancel(pending::CancelArgs),
    /// Report loss rates with their intervals, in total, by key and over time.
    Report(report::ReportArgs),
    /// Show the latest losses, run by run.
    Losses(losses::LossesArgs),
    /// Show pools and their workers; pause, resume, shadow, delay or cap a pool.
    Pools(pools::PoolsArgs),
    /// Show what operators did: pools changed, verifications cancelled, tokens made.
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
    /// Simulate the platform: worker API, warm-start broker, runners and a compute gateway.
    Simulate(simulate::SimulateArgs),
    /// Measure Warmproof against the limit of the server itself, on a private PostgreSQL.
    Bench(bench::BenchArgs),
    /// Run a small supervisor: dequeue, warm-start, schedule or cold-start, cancel on connect.
    Supervise(supervise::SuperviseArgs),
    /// One process of a benchmark.
    #[command(hide = true)]
    BenchWorker(bench_worker::BenchWorkerArgs),
}

/// When the process ends.
#[derive(Debug, Args)]
struct Lifetime {
    /// Stop, as on SIGTERM, when standard input closes: for a parent that may die
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

impl Lifetime {
    /// A token that is cancelled when the process should stop.
    fn stop(&self) -> std::io::Result<CancellationToken> {
        let stop = shutdown::on_signal()?;
        if self.until_stdin_closes {
            shutdown::on_stdin_closed(stop.clone());
        }
        Ok(stop)
    }
}

/// How long a process that has finished waits for tasks that still run.
const PARTING_MAX: std::time::Duration = std::time::Duration::from_secs(1);

/// Warns that a proxy is set but not used: a probe that needs the proxy fails, and its error does not mention
/// it.
fn warn_of_proxies() {
    let named = Environment::from_process().proxy_variables();
    if !named.is_empty() {
        tracing::warn!(
            variables = named.join(", "),
            "the environment names a proxy, which is ignored: Warmproof connects directly (docs/operating.md)"
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
    // Only workers have spans to send.
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
    // A blocked name look-up cannot be cancelled, so the process does not wait for it.
    runtime.shutdown_timeout(PARTING_MAX);
    done.unwrap_or_else(|error| fail(&error))
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut <Cli as clap::CommandFactory>::command(), "warmproof", &mut script);
    output::line(String::from_utf8(script)?.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stderr, reason = "the error of a failed command, which no log filter may hide")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {}", reported_once(error));
    let store_error = error.chain().find_map(|cause| cause.downcast_ref::<StoreError>());
    if store_error.is_some_and(StoreError::is_schema_missing) {
        eprintln!(
            "hint: run `warmproof migrate` first, or set WARMPROOF_SCHEMA to the schema that has our tables"
        );
    }
    ExitCode::FAILURE
}

/// The causes of an error, each once: many errors repeat their cause in their own text.
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
    fn a_cause_is_reported_once() {
        let error =
            anyhow::anyhow!("refused").context("could not connect: refused").context("could not start");
        assert_eq!(super::reported_once(&error), "could not start: could not connect: refused");
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}

//! The command line: connects the layers, and is the only place that knows all of them.

pub mod api;
mod audit;
mod doctor;
mod losses;
pub mod migrate;
mod output;
mod pending;
mod pools;
mod probe_now;
pub mod process;
mod report;
mod show;
mod token;
pub mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::environment::Environment;

use process::{Lifetime, Logging};

/// Durable proof that a warm start really started.
#[derive(Debug, Parser)]
#[command(name = "warmproof", version, about, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    logging: Logging,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
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
    /// Probe a run now; before it is due, only report what the probe sees.
    ProbeNow(probe_now::ProbeNowArgs),
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
}

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
    // Only workers have spans to send.
    let traces = if matches!(cli.command, Command::Worker(_)) { worker::traces() } else { None };
    let _flush = cli.logging.start(traces.as_ref());
    process::complete(async {
        match cli.command {
            Command::Worker(lifetime) => worker::worker(&lifetime).await.map(|()| ExitCode::SUCCESS),
            Command::Api(lifetime) => api::api(&lifetime).await.map(|()| ExitCode::SUCCESS),
            Command::Migrate(args) => migrate::migrate(args).await,
            Command::Pending(args) => pending::pending(args).await,
            Command::Show(args) => show::show(args).await,
            Command::Cancel(args) => pending::cancel(args).await,
            Command::ProbeNow(args) => probe_now::probe_now(args).await,
            Command::Report(args) => report::report(args).await,
            Command::Losses(args) => losses::losses(args).await,
            Command::Pools(args) => pools::pools(args).await,
            Command::Audit(args) => audit::audit(args).await,
            Command::Token(args) => token::token(args).await,
            Command::Doctor(args) => doctor::doctor(args).await,
            Command::Completions { shell } => completions(shell),
        }
    })
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut <Cli as clap::CommandFactory>::command(), "warmproof", &mut script);
    output::line(String::from_utf8(script)?.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}

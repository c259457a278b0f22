//! The command line of the lab.

pub mod bench;
mod bench_worker;
pub mod demo;
pub mod simulate;
pub mod supervise;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use warmproof::cli::process::{self, Logging};

/// Where Warmproof is shown, tried and measured.
#[derive(Debug, Parser)]
#[command(name = "warmproof-lab", version, about, propagate_version = true)]
pub struct Lab {
    #[command(flatten)]
    logging: Logging,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show Warmproof at work: warm starts are lost, a worker is killed, every run is recovered.
    Demo(demo::DemoArgs),
    /// Simulate the platform: worker API, warm-start broker, runners and a compute gateway.
    Simulate(simulate::SimulateArgs),
    /// Run a small supervisor: dequeue, warm-start, schedule or cold-start, cancel on connect.
    Supervise(supervise::SuperviseArgs),
    /// Measure Warmproof against the limit of the server itself, on a private PostgreSQL.
    Bench(bench::BenchArgs),
    /// One process of a benchmark.
    #[command(hide = true)]
    BenchWorker(bench_worker::BenchWorkerArgs),
}

/// Runs the command that was asked for.
#[must_use]
pub fn run(lab: Lab) -> ExitCode {
    let _flush = lab.logging.start(None);
    process::complete(async {
        match lab.command {
            Command::Demo(args) => demo::demo(args).await,
            Command::Simulate(args) => simulate::simulate(args).await.map(|()| ExitCode::SUCCESS),
            Command::Supervise(args) => supervise::supervise(args).await.map(|()| ExitCode::SUCCESS),
            Command::Bench(args) => bench::bench(args).await,
            Command::BenchWorker(args) => bench_worker::bench_worker(args).await.map(|()| ExitCode::SUCCESS),
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Lab;

    #[test]
    fn the_command_line_is_well_formed() {
        Lab::command().debug_assert();
    }
}

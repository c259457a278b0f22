//! What every command's process shares: its logs, when it ends, and its exit code.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use crate::shutdown;
use crate::store::StoreError;
use crate::telemetry::lines::Flush;
use crate::telemetry::{self, LogFormat, traces};

/// How long a process that has finished waits for tasks that still run.
const PARTING_MAX: Duration = Duration::from_secs(1);

/// What a process logs.
#[derive(Debug, Args)]
pub struct Logging {
    /// What to log on stderr, as a tracing directive such as `info` or `warmproof=debug`.
    #[arg(long, global = true, env = "WARMPROOF_LOG", default_value = "info")]
    log: String,
    /// The format of log lines.
    #[arg(long, global = true, env = "WARMPROOF_LOG_FORMAT", value_enum, default_value_t = Format::Text)]
    log_format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl Logging {
    /// Sends logs to stderr, and spans to `traces`. What it returns writes the last lines when it is dropped.
    pub fn start(&self, traces: Option<&traces::Exporter>) -> Flush {
        let format = match self.log_format {
            Format::Text => LogFormat::Text,
            Format::Json => LogFormat::Json,
        };
        telemetry::init_logs(&self.log, format, traces)
    }
}

/// When a process ends.
#[derive(Debug, Args)]
pub struct Lifetime {
    /// Stop, as on SIGTERM, when standard input closes: for a parent that may die
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

impl Lifetime {
    /// A token that is cancelled when the process should stop.
    ///
    /// # Errors
    /// The process may not register signal handlers.
    pub fn stop(&self) -> std::io::Result<CancellationToken> {
        let stop = shutdown::on_signal()?;
        if self.until_stdin_closes {
            shutdown::on_stdin_closed(stop.clone());
        }
        Ok(stop)
    }
}

/// Runs a command on a runtime of its own; prints the error of one that failed.
pub fn complete(command: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("could not start the runtime")),
    };
    let done = runtime.block_on(command);
    // A blocked name look-up cannot be cancelled, so the process does not wait for it.
    runtime.shutdown_timeout(PARTING_MAX);
    done.unwrap_or_else(|error| fail(&error))
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
    #[test]
    fn a_cause_is_reported_once() {
        let error =
            anyhow::anyhow!("refused").context("could not connect: refused").context("could not start");
        assert_eq!(super::reported_once(&error), "could not start: could not connect: refused");
    }
}

//! Processes of the product, for the demo and the benchmark.
//!
//! The product's whole command line is linked into `warmproof-lab`, behind the hidden word `product`. So what
//! a demo shows and what a benchmark measures is always the code that was built with them, and never an older
//! program that lies beside them.

use std::ffi::OsString;
use std::io;

use clap::Parser;
use tokio::process::Command;
use warmproof::cli::Cli;

/// The first argument of a process that is the product.
const WORD: &str = "product";

/// A process of the product; its arguments are to be added, such as `worker`.
///
/// # Errors
/// The kernel does not say where this program is.
pub fn command() -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(WORD);
    Ok(command)
}

/// The product's command, if these arguments of a process ask for it. Ends the process if they are wrong.
#[must_use]
pub fn asked_for(arguments: impl Iterator<Item = OsString>) -> Option<Cli> {
    let mut arguments: Vec<OsString> = arguments.collect();
    if arguments.get(1).is_none_or(|word| word != WORD) {
        return None;
    }
    arguments.remove(1);
    Some(Cli::parse_from(arguments))
}

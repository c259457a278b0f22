//! The `warmproof` binary: parse, run, exit code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use warmproof::cli::{self, Cli};

fn main() -> ExitCode {
    cli::run(Cli::parse())
}

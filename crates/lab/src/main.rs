//! The `warmproof-lab` binary: parse, run, exit code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use warmproof_lab::cli::{self, Lab};
use warmproof_lab::product;

fn main() -> ExitCode {
    match product::asked_for(std::env::args_os()) {
        Some(product) => warmproof::cli::run(product),
        None => cli::run(Lab::parse()),
    }
}

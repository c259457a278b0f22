//! The project's own chores: `cargo xtask` lists them.

#![forbid(unsafe_code)]

mod dictionary;
mod prepare;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own chores.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Generate the metadata of the checked queries, sqlx-data.json.
    Prepare(prepare::PrepareArgs),
    /// Train the zstd dictionary that messages are compressed with.
    Dictionary(dictionary::DictionaryArgs),
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "results and errors are for people")]
fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Prepare(args) => prepare::prepare(&args),
        Command::Dictionary(args) => dictionary::dictionary(&args),
    };
    match done {
        Ok(line) => println!("{line}"),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The root of the repository, from any current directory.
fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{Cli, root};

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_root_is_the_directory_of_the_queries_metadata() {
        assert!(root().join("sqlx-data.json").is_file());
    }
}

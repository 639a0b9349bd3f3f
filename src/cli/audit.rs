//! `ott-gateway audit`: works with audit files.

mod check;
mod completeness;
mod faults;
pub(super) mod files;
mod filter;
pub(super) mod intervals;
mod report;
#[cfg(test)]
mod tests;
mod tokens;

use clap::{Args, Subcommand};

use super::{failure::Failure, output::Output};

/// Work with audit files.
#[derive(Debug, Args)]
#[command(after_help = check::EXAMPLES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Arguments),
}

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    match &arguments.command {
        Command::Check(arguments) => check::run(arguments, output),
    }
}

//! The commands.
//!
//! Each command is a module with its arguments and a `run` function. Commands print through `output`
//! and fail with a [`Failure`]. `app` runs the gateway itself.

mod audit;
mod check_config;
mod client;
mod compare_rules;
mod completions;
mod endpoint;
mod example_config;
mod explain_command;
mod failure;
mod healthcheck;
mod issue;
mod login;
mod output;
mod prompt;
#[cfg(feature = "sandbox")]
mod sandbox;
mod serve;
mod slip;
mod status_report;
mod terminal;
mod timeout;
#[cfg(feature = "sandbox")]
mod walk;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, error::ContextKind};

use self::slip::Remedy;
#[cfg(feature = "sandbox")]
pub use self::walk::{Addresses, walk};
pub use self::{failure::Failure, output::Output};
use crate::app;

/// A gRPC service that logs users in to the Acronis Cyber Platform with one-time tokens, so that your
/// services do not need the platform's credentials.
#[derive(Debug, Parser)]
#[command(name = "ott-gateway", version, max_term_width = 100, after_help = EXAMPLES)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Try it (no account on the platform needed):
  ott-gateway sandbox

Run it in production:
  ott-gateway example-config > gateway.toml
  ott-gateway check-config --config gateway.toml --online
  ott-gateway serve --config gateway.toml

Exit codes: 0 success, 1 failure, 2 invalid usage or configuration, 3 an incomplete audit log.";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Arguments),
    #[cfg(feature = "sandbox")]
    Sandbox(sandbox::Arguments),
    CheckConfig(check_config::Arguments),
    Audit(audit::Arguments),
    CompareRules(compare_rules::Arguments),
    ExampleConfig(example_config::Arguments),
    Issue(issue::Arguments),
    Login(login::Arguments),
    Healthcheck(healthcheck::Arguments),
    Completions(completions::Arguments),
}

/// Parses the command line and runs the command.
#[must_use]
pub fn run() -> ExitCode {
    let mut output = Output::terminal();
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(message) => return refused(message, &mut output),
    };
    // Any command may hold a secret in memory.
    let core_dumps = app::process::forbid_core_dumps();
    let done = match line.command {
        Command::Serve(arguments) => serve::run(&arguments, core_dumps, &mut output),
        #[cfg(feature = "sandbox")]
        Command::Sandbox(arguments) => sandbox::run(&arguments, &mut output),
        Command::CheckConfig(arguments) => check_config::run(&arguments, &mut output),
        Command::Audit(arguments) => audit::run(&arguments, &mut output),
        Command::CompareRules(arguments) => match compare_rules::run(&arguments, &mut output) {
            Ok(code) => return code,
            Err(failure) => Err(failure),
        },
        Command::ExampleConfig(_) => {
            example_config::run(&mut output);
            Ok(())
        }
        Command::Issue(arguments) => issue::run(arguments, &mut output),
        Command::Login(arguments) => login::run(arguments, &mut output),
        Command::Healthcheck(arguments) => healthcheck::run(arguments, &mut output),
        Command::Completions(arguments) => completions::run(&arguments, CommandLine::command(), &mut output),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            failure.exit_code()
        }
    }
}

/// Prints why the command line was refused, and the remedy.
fn refused(mut error: clap::Error, output: &mut Output) -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    match slip::remedy(&error, &arguments) {
        Some(Remedy::Tip(tip)) => {
            // The parser's suggestions are only about similar names.
            error.remove(ContextKind::Suggested);
            error.remove(ContextKind::SuggestedArg);
            output.usage(&error, Some(&tip))
        }
        Some(Remedy::Instead(text)) => {
            let failure = Failure::Usage(text);
            output.failure(&failure);
            failure.exit_code()
        }
        None => output.usage(&error, None),
    }
}

#[cfg(test)]
mod tests;

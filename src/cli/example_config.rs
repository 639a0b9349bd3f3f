//! `ott-gateway example-config`: prints a configuration with every key.

use clap::Args;

use super::output::Output;
use crate::config::EXAMPLE;

/// Print a configuration file with every key, its default and a description.
///
/// Required keys are set; all others are comments with their defaults.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {}

const EXAMPLES: &str = "\
Examples:
  ott-gateway example-config > gateway.toml
  ott-gateway check-config --config gateway.toml";

pub(super) fn run(output: &mut Output) {
    output.document(EXAMPLE);
}

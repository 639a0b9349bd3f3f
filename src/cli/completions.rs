//! `ott-gateway completions`: prints the completion script of a shell.

use clap::{Args, Command};
use clap_complete::Shell;

use super::{failure::Failure, output::Output};

/// Print the completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Complete for this shell
    shell: Shell,
}

const EXAMPLES: &str = "\
Examples:
  ott-gateway completions bash > ~/.local/share/bash-completion/completions/ott-gateway
  ott-gateway completions zsh > \"${fpath[1]}/_ott-gateway\"
  ott-gateway completions fish > ~/.config/fish/completions/ott-gateway.fish";

pub(super) fn run(arguments: &Arguments, mut command: Command, output: &mut Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    let script =
        String::from_utf8(script).map_err(|_| Failure::Failed("the script is not UTF-8".to_owned()))?;
    output.document(&script);
    Ok(())
}

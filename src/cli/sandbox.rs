//! `ott-gateway sandbox`: the gateway in front of a copy of the platform.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use super::{failure::Failure, output::Output};

/// Try everything on this machine, against a copy of the platform.
///
/// Starts the copy and the gateway in front of it, walks once through issuing and
/// spending a token, and serves until Ctrl-C. Nothing leaves this machine, no account on the platform is needed, and no real
/// credentials belong in it: the API client "sandbox" with the secret "sandbox-secret"
/// is known to all.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Where the gateway serves gRPC
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    pub(super) listen: SocketAddr,
    /// Where the copy of the platform serves HTTP
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(super) platform_listen: SocketAddr,
    /// A JSON file with the accounts [default: a built-in set]
    #[arg(long, value_name = "FILE")]
    pub(super) accounts: Option<PathBuf>,
    /// Let every n-th request to the platform fail: KIND/N, such as 503/10
    #[arg(long, value_name = "SPEC")]
    pub(super) fault: Option<String>,
    /// Exit after the walk
    #[arg(long)]
    pub(super) once: bool,
}

const EXAMPLES: &str = "\
Examples:
  ott-gateway sandbox
  ott-gateway sandbox --once
  ott-gateway sandbox --listen 127.0.0.1:6000 --platform-listen 127.0.0.1:6001

Every error on demand: issue for the login fault+KIND@sandbox to let issuing fail, or for
login-fault+KIND@sandbox to get a token whose login fails. KIND is an HTTP status (503), a
status with an API code (400-1018), 429, html, malformed, cut, reset, slow, huge, redirect.";

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    start_sandbox(arguments, output)
}

/// Starts platform and gateway, walks, and serves until Ctrl-C.
fn start_sandbox(_arguments: &Arguments, _output: &mut Output) -> Result<(), Failure> {
    Err(Failure::Failed("this build has no sandbox".to_owned()))
}

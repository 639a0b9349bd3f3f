//! `ott-gateway serve`: the gateway itself.

use std::path::PathBuf;

use clap::Args;

use super::{failure::Failure, output::Output};
use crate::config::{Config, Process};

/// Serve gRPC until SIGTERM or Ctrl-C, then let calls in flight end (30 seconds at most).
///
/// Everything is set in one TOML file. A variable of the environment goes over the file:
/// `OTT_GATEWAY__SERVER__LISTEN` is the key `listen` of `[server]`. Wrong configuration is
/// refused before anything is opened, all faults at once.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

/// The configuration file.
#[derive(Debug, Args)]
pub(super) struct ConfigArgument {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "OTT_GATEWAY_CONFIG", hide_env_values = true)]
    config: PathBuf,
}

const EXAMPLES: &str = "\
The least that is needed (gateway.toml):
  [api_clients.eu2]
  data_center_url = \"https://eu2-cloud.acronis.com\"
  client_id = \"…\"
  client_secret_file = \"/run/secrets/eu2\"

  [[access.rules]]
  callers = [\"anonymous\"]    # nobody is asked who they are: good for a first try only

Examples:
  ott-gateway serve --config gateway.toml
  OTT_GATEWAY__TELEMETRY__LOG_LEVEL=debug ott-gateway serve --config gateway.toml";

impl ConfigArgument {
    /// Reads the file and the environment over it.
    pub(super) fn load(&self) -> Result<Config, Failure> {
        Ok(Config::load(Some(&self.config), &Process)?)
    }
}

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    start_gateway(arguments.config.load()?, output)
}

/// Runs the gateway until it is told to stop.
fn start_gateway(_config: Config, _output: &mut Output) -> Result<(), Failure> {
    Err(Failure::Failed("this build cannot serve".to_owned()))
}

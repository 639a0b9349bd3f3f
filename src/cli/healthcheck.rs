//! `ott-gateway healthcheck`: calls the gRPC health service, for probes.

mod local;

use std::{path::PathBuf, time::Duration};

use clap::{ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    client::{self, ClientOptions, Purpose},
    failure::Failure,
    output::Output,
    serve, timeout,
};

/// Check whether a running gateway is serving.
///
/// For probes in images without a shell. Exits with 0 if the gateway reports SERVING, and with 1 if
/// it reports another status or does not respond. The health service needs no access rule.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Must be read before the client's options, which take their values out of the matches.
    #[command(flatten)]
    endpoint: EndpointOption,
    /// Check the gateway on this machine that runs with this configuration file
    ///
    /// Connects to `health_listen` of `[server]` or, if it is not set, to `listen`, with TLS if
    /// [server.tls] is set. If the file does not exist, the variables and defaults of `serve` apply.
    /// The server's certificate is not verified: the gateway runs on this machine, and no secret is
    /// sent. Takes precedence over `OTT_GATEWAY_ENDPOINT`.
    #[arg(
        long,
        value_name = "FILE",
        value_parser = serve::file,
        conflicts_with_all = ["ca_file", "certificate_file", "server_name", "bearer_token_file"]
    )]
    config: Option<PathBuf>,
    /// Check this service: empty for the whole gateway, or ott.v1.OttService
    #[arg(long, value_name = "NAME", default_value = "")]
    service: String,
    /// Maximum time to wait for the response
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = timeout::parse)]
    timeout: Duration,
    #[command(flatten)]
    client: ClientOptions,
}

const EXAMPLES: &str = "\
Examples:
  ott-gateway healthcheck
  ott-gateway healthcheck --config /etc/ott-gateway/gateway.toml
  ott-gateway healthcheck --service ott.v1.OttService --timeout 1s
  ott-gateway healthcheck --endpoint https://127.0.0.1:50051 --server-name gateway.example \\
      --ca-file ca.pem --certificate-file probe.pem --private-key-file probe.key";

/// Detects `--endpoint` on the command line. Its variable does not conflict with `--config`, because
/// it may be set for other commands.
#[derive(Clone, Copy, Debug)]
struct EndpointOption {
    is_given: bool,
}

impl FromArgMatches for EndpointOption {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { is_given: matches.value_source("endpoint") == Some(ValueSource::CommandLine) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Adds no argument: `--endpoint` is one of the client's options.
impl Args for EndpointOption {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

pub(super) fn run(arguments: Arguments, output: &mut Output) -> Result<(), Failure> {
    client::block_on(check(arguments, output))
}

async fn check(arguments: Arguments, output: &mut Output) -> Result<(), Failure> {
    let client = match &arguments.config {
        Some(_) if arguments.endpoint.is_given => {
            return Err(Failure::Usage("use either --config or --endpoint, not both".to_owned()));
        }
        Some(file) => local::connect(file, arguments.timeout, output).await?,
        None => arguments.client.connect(arguments.timeout, Purpose::Probe).await?,
    };
    let request = client.request(HealthCheckRequest { service: arguments.service.clone() });
    let mut health = HealthClient::new(client.channel());
    let answer = client.answer(health.check(request)).await.map_err(|failure| match failure {
        Failure::Status(status) if status.code() == Code::NotFound => unknown_service(&arguments.service),
        other => other,
    })?;
    match answer.status() {
        ServingStatus::Serving => {
            output.line("SERVING");
            Ok(())
        }
        other => Err(Failure::Failed(format!("the gateway reports {}", other.as_str_name()))),
    }
}

/// Returns the failure for a service that the gateway does not have (`NOT_FOUND`).
fn unknown_service(name: &str) -> Failure {
    Failure::Failed(format!(
        "the gateway has no service {name:?} (NOT_FOUND): write --service ott.v1.OttService, or omit --service to \
         check the whole gateway"
    ))
}

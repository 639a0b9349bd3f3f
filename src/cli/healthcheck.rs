//! `ott-gateway healthcheck`: asks the gRPC health service, for probes.

use std::time::Duration;

use clap::Args;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    client::{self, ClientOptions},
    failure::Failure,
    output::Output,
    timeout,
};

/// Ask a running gateway whether it is serving.
///
/// Meant for probes in images without a shell. Exits with 0 if it reports SERVING, with 1 if
/// it reports anything else or does not answer. The health service needs no access rule.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The service to ask about: empty for the whole gateway, or ott.v1.OttService
    #[arg(long, value_name = "NAME", default_value = "")]
    service: String,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = timeout::parse)]
    timeout: Duration,
    #[command(flatten)]
    client: ClientOptions,
}

const EXAMPLES: &str = "\
Examples:
  ott-gateway healthcheck
  ott-gateway healthcheck --service ott.v1.OttService --timeout 1s
  ott-gateway healthcheck --endpoint https://127.0.0.1:50051 --server-name gateway.example \\
      --ca-file ca.pem --certificate-file probe.pem --private-key-file probe.key";

pub(super) fn run(arguments: Arguments, output: &mut Output) -> Result<(), Failure> {
    client::block_on(check(arguments, output))
}

async fn check(arguments: Arguments, output: &mut Output) -> Result<(), Failure> {
    let client = arguments.client.connect(arguments.timeout).await?;
    let request = client.request(HealthCheckRequest { service: arguments.service });
    let mut health = HealthClient::new(client.channel());
    match client.answer(health.check(request)).await?.status() {
        ServingStatus::Serving => {
            output.line("SERVING");
            Ok(())
        }
        other => Err(Failure::Failed(format!("the gateway reports {}", other.as_str_name()))),
    }
}

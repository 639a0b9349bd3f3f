//! `ott-gateway issue`: requests a one-time token and prints the response as JSON.

use std::time::Duration;

use clap::Args;

use super::{
    client::{self, ClientOptions, Purpose},
    failure::Failure,
    output::Output,
    timeout,
};
use crate::proto::ott::v1::{
    IssueOttRequest, issue_ott_request::Subject, ott_service_client::OttServiceClient,
};

/// Request a one-time token from a running gateway.
///
/// Prints the response as JSON. The token is valid for one login within 30 seconds. It is a secret
/// until it is spent, so protect the output.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    subject: SubjectArguments,
    /// Use this API client [default: the gateway's default]
    #[arg(long, value_name = "NAME")]
    api_client: Option<String>,
    /// Also request a URL that logs a browser in and redirects to this target: /mc/ or an https URL
    #[arg(long, value_name = "URI")]
    target_uri: Option<String>,
    /// Maximum time to wait for the response
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = timeout::parse)]
    timeout: Duration,
    #[command(flatten)]
    client: ClientOptions,
}

const EXAMPLES: &str = "\
Examples:
  ott-gateway issue --login johncustomer@mysite.com
  ott-gateway issue --login johncustomer@mysite.com --target-uri /mc/ | jq -r .loginUrl
  ott-gateway issue --user-id 2955b448-7df8-43uc-9c63-a21511dbe06d | ott-gateway login
  ott-gateway issue --login a@b.example --endpoint https://gateway.example:50051 \\
      --ca-file ca.pem --certificate-file me.pem --private-key-file me.key";

/// Tip for a user that is not given by an option.
pub(super) const TIP: &str = "specify the user: ott-gateway issue --login johncustomer@mysite.com";

/// The user, by exactly one option.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct SubjectArguments {
    /// Login of the user
    #[arg(long)]
    login: Option<String>,
    /// Id of the user at an identity provider
    #[arg(long, value_name = "ID")]
    external_id: Option<String>,
    /// Id of the user on the platform
    #[arg(long, value_name = "ID")]
    user_id: Option<String>,
}

pub(super) fn run(arguments: Arguments, output: &mut Output) -> Result<(), Failure> {
    client::block_on(issue(arguments, output))
}

async fn issue(arguments: Arguments, output: &mut Output) -> Result<(), Failure> {
    let client = arguments.client.connect(arguments.timeout, Purpose::Method).await?;
    let user = arguments.subject;
    let subject = user
        .login
        .map(Subject::Login)
        .or(user.external_id.map(Subject::ExternalId))
        .or(user.user_id.map(Subject::UserId));
    let request = IssueOttRequest {
        subject,
        api_client: arguments.api_client.unwrap_or_default(),
        target_uri: arguments.target_uri.unwrap_or_default(),
        ..IssueOttRequest::default()
    };
    let mut gateway = OttServiceClient::new(client.channel());
    let answer = client.answer(gateway.issue_ott(client.request(request))).await?;
    output.line(client::json("ott.v1.IssueOttResponse", &answer)?);
    Ok(())
}

//! `ott-gateway login`: spends a one-time token and prints the answer as JSON.

use std::{
    io::{self, IsTerminal, Read},
    time::Duration,
};

use clap::Args;
use zeroize::Zeroizing;

use super::{
    client::{self, ClientOptions},
    failure::Failure,
    output::Output,
    timeout,
};
use crate::proto::ott::v1::{LoginWithOttRequest, ott_service_client::OttServiceClient};

/// Spend a one-time token at a running gateway.
///
/// Prints account and session as JSON. The token is read from standard input, because
/// arguments can be seen by every user of a machine: either the token alone, or the JSON
/// that `ott-gateway issue` prints.
///
/// Anyone who holds the session can act as that user, so mind where the output goes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The API client (and so the data center) that the token is from [default: its default one]
    #[arg(long, value_name = "NAME")]
    api_client: Option<String>,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = timeout::parse)]
    timeout: Duration,
    #[command(flatten)]
    client: ClientOptions,
}

const EXAMPLES: &str = "\
Examples:
  ott-gateway issue --login johncustomer@mysite.com | ott-gateway login
  ott-gateway login < token.txt
  ott-gateway issue --login johncustomer@mysite.com | ott-gateway login |
      jq -r .session.cookieHeader

A token works once. After a failure, issue a new one.";

/// More than any answer of `issue` has.
const MAX_INPUT_BYTES: u64 = 64 * 1024;

pub(super) fn run(arguments: Arguments, output: &mut Output) -> Result<(), Failure> {
    let ott = read_token(output)?;
    client::block_on(login(arguments, ott, output))
}

async fn login(arguments: Arguments, ott: String, output: &mut Output) -> Result<(), Failure> {
    let client = arguments.client.connect(arguments.timeout).await?;
    let request = LoginWithOttRequest { ott, api_client: arguments.api_client.unwrap_or_default() };
    let mut gateway = OttServiceClient::new(client.channel());
    let answer = client.answer(gateway.login_with_ott(client.request(request))).await?;
    output.line(client::json("ott.v1.LoginWithOttResponse", &answer)?);
    Ok(())
}

fn read_token(output: &mut Output) -> Result<String, Failure> {
    let mut input = Zeroizing::new(String::new());
    let read = if io::stdin().is_terminal() {
        output.ask("one-time token: ");
        io::stdin().read_line(&mut input).map(|_| ())
    } else {
        io::stdin().lock().take(MAX_INPUT_BYTES).read_to_string(&mut input).map(|_| ())
    };
    read.map_err(|error| Failure::Usage(format!("standard input cannot be read ({})", error.kind())))?;
    token_in(&input).map_err(|rule| Failure::Usage(rule.to_owned()))
}

/// The token in what was typed or piped in: itself, or the member `ott` of an object.
fn token_in(input: &str) -> Result<String, &'static str> {
    #[derive(serde::Deserialize)]
    struct Issued {
        ott: String,
    }
    let input = input.trim();
    if input.is_empty() {
        Err("standard input is empty: it must be the token, or what `ott-gateway issue` prints")
    } else if input.starts_with('{') {
        serde_json::from_str::<Issued>(input)
            .map(|issued| issued.ott)
            .map_err(|_| "standard input is a JSON object without a token: it must have a member \"ott\"")
    } else if input.contains(char::is_whitespace) {
        Err("standard input must be one token, or what `ott-gateway issue` prints")
    } else {
        Ok(input.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_taken_alone_or_out_of_the_json_of_issue() {
        assert_eq!(token_in("T1R=\n"), Ok("T1R=".to_owned()));
        assert_eq!(token_in("{\n  \"ott\": \"T1R=\",\n  \"expireTime\": \"x\"\n}"), Ok("T1R=".to_owned()));
        for wrong in ["", " \n", "two words", "{\"token\": \"T1R=\"}", "{"] {
            let rule = token_in(wrong).unwrap_err();
            assert!(!rule.contains("T1R="), "{rule}");
        }
    }
}

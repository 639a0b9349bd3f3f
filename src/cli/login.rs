//! `ott-gateway login`: spends a one-time token and prints the response as JSON.

use std::{
    io::{self, IsTerminal, Read},
    time::Duration,
};

use clap::Args;
use zeroize::Zeroizing;

use super::{
    client::{self, ClientOptions, Purpose},
    failure::Failure,
    output::Output,
    prompt::{self, Interrupts},
    timeout,
};
use crate::proto::ott::v1::{LoginWithOttRequest, ott_service_client::OttServiceClient};

/// Log in at a running gateway with a one-time token.
///
/// Prints the account and the session as JSON. Reads the token from standard input, because every
/// user of a machine can read arguments: either the token alone, or the JSON that
/// `ott-gateway issue` prints. On a terminal, prompts for the token without echo.
///
/// Anyone with the session can act as the user, so protect the output.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// API client, and thereby data center, of the token [default: the gateway's default]
    #[arg(long, value_name = "NAME")]
    api_client: Option<String>,
    /// Maximum time to wait for the response
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = timeout::parse)]
    timeout: Duration,
    #[command(flatten)]
    client: ClientOptions,
    /// A misplaced token, which is refused without printing it.
    #[arg(hide = true, value_parser = misplaced)]
    token: Vec<Misplaced>,
    /// A misplaced token in an option.
    #[arg(long, hide = true, aliases = ["token", "one-time-token", "otp"], value_parser = misplaced)]
    ott: Option<Misplaced>,
}

/// An argument whose value is discarded.
#[derive(Clone, Copy, Debug)]
struct Misplaced;

#[expect(clippy::unnecessary_wraps, reason = "clap requires a result")]
fn misplaced(_: &str) -> Result<Misplaced, String> {
    Ok(Misplaced)
}

/// Tip for a misplaced token.
pub(super) const TIP: &str = "pipe the token to standard input: ott-gateway login < token.txt";
/// Refusal of a token in an argument.
pub(super) const REFUSAL: &str = "the token must not be an argument, because every user of this machine can read \
    arguments; pipe it to standard input: ott-gateway login < token.txt";

const EXAMPLES: &str = "\
Examples:
  ott-gateway issue --login johncustomer@mysite.com | ott-gateway login
  ott-gateway login < token.txt
  ott-gateway issue --login johncustomer@mysite.com | ott-gateway login |
      jq -r .session.cookieHeader

A token works once. After a failure, issue a new one.";

/// Maximum size of the input, in bytes. The output of `issue` is smaller.
const MAX_INPUT_BYTES: u64 = 64 * 1024;

pub(super) fn run(arguments: Arguments, output: &mut Output) -> Result<(), Failure> {
    arguments.check()?;
    client::block_on(async move {
        let (ott, interrupts) = read_token(output).await?;
        let login = login(arguments, ott, output);
        match interrupts {
            Some(mut interrupts) => tokio::select! {
                done = login => done,
                failure = interrupts.next() => Err(failure),
            },
            None => login.await,
        }
    })
}

impl Arguments {
    /// Refuses a token in an argument.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.token.is_empty() && self.ott.is_none() {
            return Ok(());
        }
        Err(Failure::Usage(REFUSAL.to_owned()))
    }
}

async fn login(arguments: Arguments, ott: String, output: &mut Output) -> Result<(), Failure> {
    let client = arguments.client.connect(arguments.timeout, Purpose::Method).await?;
    let request = LoginWithOttRequest { ott, api_client: arguments.api_client.unwrap_or_default() };
    let mut gateway = OttServiceClient::new(client.channel());
    let answer = client.answer(gateway.login_with_ott(client.request(request))).await?;
    output.line(client::json("ott.v1.LoginWithOttResponse", &answer)?);
    Ok(())
}

/// Returns the token and, if it was typed, the interrupts to await for the rest of the command.
async fn read_token(output: &mut Output) -> Result<(String, Option<Interrupts>), Failure> {
    let (input, interrupts) = if io::stdin().is_terminal() {
        let (input, interrupts) = prompt::ask("one-time token: ", output).await?;
        (input, Some(interrupts))
    } else {
        let mut input = Zeroizing::new(String::new());
        io::stdin()
            .lock()
            .take(MAX_INPUT_BYTES)
            .read_to_string(&mut input)
            .map_err(|error| Failure::Usage(format!("cannot read standard input: {error}")))?;
        (input, None)
    };
    let ott = token_in(&input).map_err(|rule| Failure::Usage(rule.to_owned()))?;
    Ok((ott, interrupts))
}

/// Returns the token in the input: the input itself, or the member `ott` of a JSON object.
fn token_in(input: &str) -> Result<String, &'static str> {
    #[derive(serde::Deserialize)]
    struct Issued {
        ott: String,
    }
    let input = input.trim();
    if input.is_empty() {
        Err(
            "standard input is empty; pipe the token or the output of `ott-gateway issue`: ott-gateway login < token.txt",
        )
    } else if input.starts_with('{') {
        serde_json::from_str::<Issued>(input)
            .ok()
            .map(|issued| issued.ott)
            .filter(|ott| !ott.trim().is_empty())
            .ok_or( "standard input is a JSON object without a member \"ott\"; pipe the token or the output of `ott-gateway issue`")
    } else if input.contains("://") {
        Err(
            "standard input is a URL; pipe only the token, which is the member \"ott\" of the output of `ott-gateway issue`",
        )
    } else if input.contains(['"', '\'', '`', '\u{201c}', '\u{201d}']) {
        Err("the token is in quotation marks; remove them (with jq, use -r)")
    } else if input.contains(char::is_whitespace) {
        Err("standard input has more than one word; pipe the token or the output of `ott-gateway issue`")
    } else if input.starts_with("ott=") || input.starts_with("ott:") {
        Err("standard input begins with the name of the member; pipe only the token")
    } else if !input.bytes().all(|byte| byte.is_ascii_graphic()) {
        Err("the token contains a control or non-ASCII character; copy it again")
    } else {
        Ok(input.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_a_token_or_the_json_of_issue() {
        assert_eq!(token_in("T1R=\n"), Ok("T1R=".to_owned()));
        assert_eq!(token_in("{\n  \"ott\": \"T1R=\",\n  \"expireTime\": \"x\"\n}"), Ok("T1R=".to_owned()));
        for wrong in [
            "",
            " \n",
            "two words",
            "{\"token\": \"T1R=\"}",
            "{\"ott\": \" \"}",
            "{",
            "\"T1R=\"\n",
            "'T1R='",
            "`T1R=`",
            "\u{201c}T1R=\u{201d}",
            "https://eu2.example/api/2/idp/external-login#ott=T1R=&targetURI=%2Fmc%2F",
            "\"https://eu2.example/#ott=T1R=\"",
            "ott=T1R=",
            "\"ott\": \"T1R=\"",
            "[\"T1R=\"]",
            "\u{feff}T1R=",
            "T1R=\u{7}",
        ] {
            let rule = token_in(wrong).unwrap_err();
            assert!(!rule.contains("T1R="), "{rule}");
        }
    }
}

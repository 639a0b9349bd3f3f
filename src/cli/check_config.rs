//! `ott-gateway check-config`: reports the errors of a configuration, or prints a summary.
//!
//! `explain` reports which access rule decides a call.

mod explain;

use clap::Args;

use self::explain::{Answer, NoSuchCall, Question};
use super::{
    failure::{Failure, chain},
    output::{Output, Style},
    serve::{ConfigArgument, not_started, on_control_runtime, tls_label},
};
use crate::{
    access::Rules,
    app,
    base::text::Printable,
    config::{Config, absolute},
    credential::SecretSource,
    observe::audit::Sink,
};

/// Check a configuration file and report every problem.
///
/// Every problem is reported with file, line and key. If there are none, a summary of the
/// configuration is printed. Nothing is started.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Also fetch an access token with every API client and report failures
    #[arg(long)]
    online: bool,
    /// Report which access rule decides a call, and why
    ///
    /// CALLER is the name of a caller (`spiffe://…`, `dns:NAME`, `jwt:SUBJECT`, `token:NAME`)
    /// or `anonymous`. METHOD is `IssueOtt` or `LoginWithOtt`. USER is `login:NAME`,
    /// `external_id:ID` or `user_id:ID` (a name without a colon is a login), or `-` for
    /// `LoginWithOtt`, whose request does not contain the user.
    #[arg(long, num_args = 3, value_names = ["CALLER", "METHOD", "USER"])]
    explain: Option<Vec<String>>,
    /// Use this API client for --explain [default: the default API client]
    #[arg(long, value_name = "NAME", requires = "explain")]
    api_client: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  ott-gateway check-config --config gateway.toml
  ott-gateway check-config --config gateway.toml --online
  ott-gateway check-config --config gateway.toml --explain token:billing IssueOtt login:a@b.example

Exits with 2 if the configuration is not valid, and with 1 if --online cannot fetch an access token
or if this machine temporarily cannot read a file.";

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    let question = arguments.question()?;
    let config = arguments.config.load()?;
    for warning in &config.warnings {
        output.note(format_args!("warning: {warning}"));
    }
    if let Some(question) = question {
        return explain_rules(&config, &question, output);
    }
    // Files that are valid on their own may not fit together.
    on_control_runtime(async {
        app::check(&config).map_err(|error| not_started(&error, "[server] listen"))
    })?;
    summary(&config, output);
    if arguments.online { fetch_access_tokens(&config, output) } else { Ok(()) }
}

/// Prints which access rule decides the call, and why.
fn explain_rules(config: &Config, question: &Question, output: &mut Output) -> Result<(), Failure> {
    let rules =
        Rules::try_new(config.access.rules.clone()).map_err(|error| Failure::Failed(chain(&error)))?;
    match question.answer(&rules, config)? {
        Answer::Decided { api_client, is_default, explanation } => {
            let why = if is_default { " (the default; select another with --api-client)" } else { "" };
            output.line(format_args!("with API client {}{why}", Printable(api_client)));
            output.line(explanation);
        }
        Answer::NoApiClient => {
            let names: Vec<&str> = config.api_clients.by_name.keys().map(|name| &**name).collect();
            output.line("no API client is the default, so a call must name one");
            output.line(format_args!("select one with --api-client: {}", Printable(names.join(", "))));
            output.line("DENIED: the call names no API client (API_CLIENT_UNKNOWN)");
        }
    }
    Ok(())
}

/// Fetches an access token with every API client and prints the results.
fn fetch_access_tokens(config: &Config, output: &mut Output) -> Result<(), Failure> {
    on_control_runtime(async {
        let mut refused = 0_usize;
        for (name, client) in &config.api_clients.by_name {
            let fetched = app::fetch_access_token(name, client).await;
            let (style, result) = match &fetched {
                Ok(()) => (Style::Good, "access token fetched".to_owned()),
                Err(error) => (Style::Bad, chain(error)),
            };
            refused += usize::from(fetched.is_err());
            let result = output.paint(style, result);
            styled_row(output, "API client", format_args!("{}: {result}", Printable(name)));
        }
        match refused {
            0 => Ok(()),
            some => {
                Err(Failure::Failed(format!("{some} of the API clients failed to fetch an access token")))
            }
        }
    })
}

impl Arguments {
    fn question(&self) -> Result<Option<Question>, Failure> {
        let Some(values) = &self.explain else { return Ok(None) };
        // clap checks the number of values.
        let Ok(values) = <&[String; 3]>::try_from(values.as_slice()) else { return Ok(None) };
        Ok(Some(Question::read(values, self.api_client.as_deref())?))
    }
}

impl From<NoSuchCall> for Failure {
    fn from(error: NoSuchCall) -> Self {
        Self::Usage(error.to_string())
    }
}

fn summary(config: &Config, output: &mut Output) {
    let title = output.paint(Style::Good, "The configuration is valid.");
    output.line(title);
    let server = &config.server;
    let tls = tls_label(config);
    row(output, "gRPC", format!("{} ({tls})", server.grpc.listen));
    if let Some(address) = server.health_listen {
        row(output, "health", format!("{address} (without TLS)"));
    }
    row(output, "admin", config.admin.listen.map_or_else(|| "off".to_owned(), |address| address.to_string()));
    for (name, client) in &config.api_clients.by_name {
        let default = if config.api_clients.default.as_ref() == Some(name) { ", the default" } else { "" };
        let source = match &client.credential.secret {
            SecretSource::File(path) => absolute(path).display().to_string(),
            SecretSource::Fixed(_) => "the environment".to_owned(),
            SecretSource::Credential(path) => {
                format!("the systemd credential {}", absolute(path).display())
            }
        };
        let url = client.platform.data_center.base_url();
        row(output, "API client", format!("{name} at {url} (secret from {source}{default})"));
    }
    let callers = &config.callers;
    let mut proofs = Vec::new();
    if server.grpc.transport.asks_for_certificates() {
        proofs.push("certificates".to_owned());
    }
    match callers.jwt.len() {
        0 => {}
        1 => proofs.push("JWTs".to_owned()),
        issuers => proofs.push(format!("JWTs of {issuers} issuers")),
    }
    if !callers.tokens.is_empty() {
        proofs.push(format!("bearer tokens ({})", callers.tokens.len()));
    }
    if callers.forwarded.is_some() {
        proofs.push("a proxy's header".to_owned());
    }
    if proofs.is_empty() {
        proofs.push("none: every caller is anonymous".to_owned());
    }
    row(output, "callers by", proofs.join(", "));
    row(output, "rules", config.access.rules.len());
    if !config.access.candidate_rules.is_empty() {
        row(output, "candidate rules", config.access.candidate_rules.len());
    }
    let audit = match &config.audit.sink {
        Sink::Stdout => "standard output".to_owned(),
        Sink::Off => "off".to_owned(),
        Sink::File(path) => absolute(path).display().to_string(),
    };
    row(output, "audit", audit);
    let traces = config.telemetry.traces.as_ref().map(|traces| &traces.endpoint);
    if !config.variables.is_empty() {
        row(output, "variables", config.variables.join(" "));
    }
    for variable in &config.environment {
        row(output, "environment", variable);
    }
    row(output, "traces", traces.map_or_else(|| "off".to_owned(), ToString::to_string));
}

fn row(output: &mut Output, name: &str, value: impl std::fmt::Display) {
    styled_row(output, name, Printable(value));
}

/// Prints a row whose value may contain styles.
fn styled_row(output: &mut Output, name: &str, value: impl std::fmt::Display) {
    let name = output.paint(Style::Name, format_args!("{name:<11}"));
    output.line(format_args!("  {name} {value}"));
}

//! `ott-gateway check-config`: what is wrong with a configuration, or what it means.
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
    audit::Sink,
    config::{Config, absolute},
    credential::SecretSource,
    text::Printable,
};

/// Check a configuration file and report every problem.
///
/// Every problem is reported with file, line and key; without problems, a summary of the
/// configuration is printed. Nothing is started.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Also fetch an access token with every API client, and report why one cannot be fetched
    #[arg(long)]
    online: bool,
    /// Report which access rule decides such a call, and why
    ///
    /// CALLER is a name with its proof (`spiffe://…`, `dns:NAME`, `jwt:SUBJECT`,
    /// `token:NAME`) or `anonymous`; METHOD is `IssueOtt` or `LoginWithOtt`; USER is
    /// `login:NAME`, `external_id:ID` or `user_id:ID` (a name without a colon is a login), and
    /// `-` for `LoginWithOtt`, whose request does not name the user.
    #[arg(long, num_args = 3, value_names = ["CALLER", "METHOD", "USER"])]
    explain: Option<Vec<String>>,
    /// With --explain: name this API client in the call [default: the default one]
    #[arg(long, value_name = "NAME", requires = "explain")]
    api_client: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  ott-gateway check-config --config gateway.toml
  ott-gateway check-config --config gateway.toml --online
  ott-gateway check-config --config gateway.toml --explain token:billing IssueOtt login:a@b.example

Exits with 2 if anything is wrong, and with 1 if --online finds a credential that does not work or
if this machine cannot read the files now.";

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    let question = arguments.question()?;
    let config = arguments.config.load()?;
    for warning in &config.warnings {
        output.note(format_args!("warning: {warning}"));
    }
    if let Some(question) = question {
        return explain_rules(&config, &question, output);
    }
    // A file can pass every rule of its own and still not fit the others.
    on_control_runtime(async {
        app::check(&config).map_err(|error| not_started(&error, "[server] listen"))
    })?;
    summary(&config, output);
    if arguments.online { fetch_access_tokens(&config, output) } else { Ok(()) }
}

/// Prints which access rule decides on such a call, and why.
fn explain_rules(config: &Config, question: &Question, output: &mut Output) -> Result<(), Failure> {
    let rules =
        Rules::try_new(config.access.rules.clone()).map_err(|error| Failure::Failed(chain(&error)))?;
    match question.put_to(&rules, config)? {
        Answer::Decided { api_client, is_default, explanation } => {
            let why = if is_default { " (the default; --api-client names another)" } else { "" };
            output.line(format_args!("with API client {}{why}", Printable(api_client)));
            output.line(explanation);
        }
        Answer::NoApiClient => {
            let names: Vec<&str> = config.api_clients.by_name.keys().map(|name| &**name).collect();
            output.line("no API client is the default, so a call must name one");
            output.line(format_args!("name it with --api-client: {}", Printable(names.join(", "))));
            output.line("DENIED: the call names no API client (API_CLIENT_UNKNOWN)");
        }
    }
    Ok(())
}

/// Fetches an access token with every API client and prints what came of it.
fn fetch_access_tokens(config: &Config, output: &mut Output) -> Result<(), Failure> {
    on_control_runtime(async {
        let mut refused = 0_usize;
        for (name, client) in &config.api_clients.by_name {
            let fetched = app::fetch_access_token(name, client).await;
            let (style, result) = match &fetched {
                Ok(()) => (Style::Good, "an access token was fetched".to_owned()),
                Err(error) => (Style::Bad, chain(error)),
            };
            refused += usize::from(fetched.is_err());
            let result = output.paint(style, result);
            styled_row(output, "API client", format_args!("{}: {result}", Printable(name)));
        }
        match refused {
            0 => Ok(()),
            some => {
                Err(Failure::Failed(format!("{some} of the API clients could not fetch an access token")))
            }
        }
    })
}

impl Arguments {
    fn question(&self) -> Result<Option<Question>, Failure> {
        let Some(words) = &self.explain else { return Ok(None) };
        // The number of words is clap's to check.
        let Ok(words) = <&[String; 3]>::try_from(words.as_slice()) else { return Ok(None) };
        Ok(Some(Question::read(words, self.api_client.as_deref())?))
    }
}

impl From<NoSuchCall> for Failure {
    fn from(error: NoSuchCall) -> Self {
        Self::Usage(error.to_string())
    }
}

fn summary(config: &Config, output: &mut Output) {
    let good = output.paint(Style::Good, "The configuration is valid.");
    output.line(good);
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
        proofs.push("nothing: every caller is anonymous".to_owned());
    }
    row(output, "callers by", proofs.join(", "));
    row(output, "rules", config.access.rules.len());
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

/// Prints a row whose value may have styles.
fn styled_row(output: &mut Output, name: &str, value: impl std::fmt::Display) {
    let name = output.paint(Style::Name, format_args!("{name:<11}"));
    output.line(format_args!("  {name} {value}"));
}

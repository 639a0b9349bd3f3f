//! `ott-gateway check-config`: reports the errors of a configuration, or prints a summary.
//!
//! Access tests are part of the configuration: a failed one is an error, reported with the command
//! that explains it. `explain` and `who` answer questions about the access rules; `junit` writes the
//! results of access tests for CI servers.

mod explain;
mod failed_test;
mod junit;
mod question;
mod rule_sets;
mod who;

use std::path::PathBuf;

use clap::{ArgAction, ArgGroup, Args, ValueEnum};

use self::{
    question::{Call, InvalidQuestion, Options, Request},
    rule_sets::RuleSets,
};
use super::{
    failure::{Failure, chain},
    output::{Output, Style},
    serve::{ConfigArgument, not_started, on_control_runtime, tls_label},
};
use crate::{
    app,
    base::{files::describe, text::Printable},
    config::{AccessTestResult, Checked, Config, Errors, Finding, TestedRules, absolute},
    credential::SecretSource,
    observe::audit::Sink,
};

/// Check a configuration file and report every problem.
///
/// Every problem is reported with file, line and key. The access tests of the file (`[[access.tests]]`)
/// are run; one that fails is a problem. If there are no problems, a summary of the configuration is
/// printed. Nothing is started.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(ArgGroup::new("question").args(["explain", "who"])))]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Also fetch an access token with every API client and report failures
    #[arg(long, conflicts_with = "question")]
    online: bool,
    /// Write the results of the access tests to a file, as JUnit XML
    ///
    /// The file is also written if tests fail or the configuration has other problems.
    #[arg(long, value_name = "FILE", conflicts_with = "question")]
    junit: Option<PathBuf>,
    /// Run the access tests, and answer --explain and --who, as if the candidate rules were in force
    #[arg(long)]
    candidates: bool,
    /// Report which access rule decides a call, and why
    ///
    /// CALLER is the name of a caller (`spiffe://…`, `dns:NAME`, `jwt:SUBJECT`, `token:NAME`)
    /// or `anonymous`. METHOD is `IssueOtt` or `LoginWithOtt`. USER is `login:NAME`,
    /// `external_id:ID` or `user_id:ID` (a name without a colon is a login). The request of
    /// `LoginWithOtt` does not contain the user: `-` asks about the request, and a user about an
    /// account of that name in the platform's response.
    #[arg(long, num_args = 3, action = ArgAction::Set, value_names = ["CALLER", "METHOD", "USER"])]
    explain: Option<Vec<String>>,
    /// Report the callers that may use a method for a user, by access rule
    ///
    /// METHOD and USER are those of --explain.
    #[arg(long, num_args = 2, action = ArgAction::Set, value_names = ["METHOD", "USER"])]
    who: Option<Vec<String>>,
    /// Use this API client for --explain and --who [default: the default API client]
    #[arg(long, value_name = "NAME", requires = "question")]
    api_client: Option<String>,
    /// The caller that the sealed token of `LoginWithOtt` was issued to, for --explain and --who
    ///
    /// With it, USER is the user that the token contains. Without it, --explain is about a token that is
    /// not sealed, and --who about all tokens.
    #[arg(long, value_name = "CALLER", requires = "question")]
    issued_by: Option<String>,
    /// Ask --explain and --who about an `IssueOtt` that requests a login URL
    #[arg(long, requires = "question")]
    login_url: bool,
    /// A claim of the caller's JWT for --explain, such as groups=ops; can be repeated
    ///
    /// The path ends at the first `=`. The value is `true`, `false` or an integer, or else a text. Either
    /// can be written as a JSON string: a path that contains `=`, a text that looks like another type.
    // An option that conflicts with a required one lifts the requirement.
    #[arg(
        long = "claim",
        value_name = "PATH=VALUE",
        allow_hyphen_values = true,
        requires = "explain",
        conflicts_with_all = ["who", "online", "junit"]
    )]
    claims: Vec<String>,
    /// Format of the answer to --explain and --who
    #[arg(long, value_name = "FORMAT", default_value = "text", requires = "question")]
    format: Format,
}

/// Format of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines for people
    Text,
    /// A JSON object
    Json,
}

/// A question about the access rules.
enum Question {
    Explain(Call),
    Who(Request),
}

const EXAMPLES: &str = "\
Examples:
  ott-gateway check-config --config gateway.toml
  ott-gateway check-config --config gateway.toml --online
  ott-gateway check-config --config gateway.toml --junit access-tests.xml
  ott-gateway check-config --config gateway.toml --candidates
  ott-gateway check-config --config gateway.toml --explain token:billing IssueOtt login:a@b.example
  ott-gateway check-config --config gateway.toml --who IssueOtt login:ceo@customer.example

Exits with 2 if the configuration is not valid or an access test fails, and with 1 if --online cannot
fetch an access token, if this machine temporarily cannot read a file, or if the file of --junit cannot
be written.";

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    let question = arguments.question()?;
    let checked = arguments.config.check(arguments.tested());
    match question {
        Some(question) => arguments.answer(&question, checked, output),
        None => arguments.check(checked, output),
    }
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
    const fn tested(&self) -> TestedRules {
        if self.candidates { TestedRules::Candidates } else { TestedRules::InForce }
    }

    fn question(&self) -> Result<Option<Question>, InvalidQuestion> {
        let options = Options {
            api_client: self.api_client.as_deref(),
            login_url: self.login_url,
            issued_by: self.issued_by.as_deref(),
        };
        // clap checks the number of values.
        if let Some([caller, method, user]) = self.explain.as_deref() {
            let call = Call::parse(caller, Request::parse(method, user, &options)?, &self.claims)?;
            return Ok(Some(Question::Explain(call)));
        }
        match self.who.as_deref() {
            Some([method, user]) => Ok(Some(Question::Who(Request::parse(method, user, &options)?))),
            _ => Ok(None),
        }
    }

    /// Answers a question about the rules. Failed access tests are only warnings, because their
    /// reasons are asked for.
    fn answer(&self, question: &Question, checked: Checked, output: &mut Output) -> Result<(), Failure> {
        let config = checked.config?;
        let failed = checked.tests.iter().filter_map(AccessTestResult::finding);
        for warning in config.warnings.iter().cloned().chain(failed) {
            output.note(format_args!("warning: {warning}"));
        }
        let rules = RuleSets::new(&config, self.tested())?;
        match (question, self.format) {
            (Question::Explain(call), Format::Text) => explain::print(call, &rules, &config, output),
            (Question::Explain(call), Format::Json) => {
                output.line(explain::as_json(call, &rules, &config));
            }
            (Question::Who(request), Format::Text) => who::print(request, &rules, &config, output),
            (Question::Who(request), Format::Json) => output.line(who::as_json(request, &rules, &config)),
        }
        Ok(())
    }

    /// Reports every problem, or prints a summary.
    fn check(&self, Checked { config, tests }: Checked, output: &mut Output) -> Result<(), Failure> {
        let parts = config.as_ref().map_or(Ok(()), |config| {
            for warning in &config.warnings {
                output.note(format_args!("warning: {warning}"));
            }
            // Files that are valid on their own may not fit together.
            on_control_runtime(async {
                app::check(config).map_err(|error| not_started(&error, "[server] listen"))
            })
        });
        let problem = match (&config, &parts) {
            (Err(errors), _) => Some(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
            (Ok(_), Err(failure)) => Some(failure.to_string()),
            (Ok(_), Ok(())) => None,
        };
        let written = self.write_junit(problem.as_deref(), &tests);
        let failed: Vec<Finding> = tests
            .iter()
            .filter_map(|test| failed_test::finding(test, self.config.path(), self.tested()))
            .collect();
        // One failure is returned; others are printed before it.
        let also = |failure: Result<(), Failure>, output: &mut Output| {
            if let Err(failure) = failure {
                output.failure(&failure);
            }
        };
        let config = match Errors::unless_empty(config, failed.into_iter()) {
            Ok(config) => config,
            Err(errors) => {
                also(written, output);
                also(parts, output);
                return Err(errors.into());
            }
        };
        if let Err(failure) = parts {
            also(written, output);
            return Err(failure);
        }
        written?;
        summary(&config, tests.len(), self.tested(), output);
        if self.online { fetch_access_tokens(&config, output) } else { Ok(()) }
    }

    fn write_junit(&self, problem: Option<&str>, tests: &[AccessTestResult]) -> Result<(), Failure> {
        let Some(file) = &self.junit else { return Ok(()) };
        let config = self.config.path();
        let tested = self.tested();
        let explained = |test: &_| failed_test::problem(test, config, tested);
        junit::write(file, config, problem, tested, tests, explained).map_err(|error| {
            let path = absolute(file);
            Failure::Failed(format!("--junit: cannot write {}: {}", path.display(), describe(error.kind())))
        })
    }
}

impl From<InvalidQuestion> for Failure {
    fn from(error: InvalidQuestion) -> Self {
        Self::Usage(error.to_string())
    }
}

fn summary(config: &Config, tests: usize, tested: TestedRules, output: &mut Output) {
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
    if tests > 0 {
        let by = if tested == TestedRules::Candidates { " by the candidate rules" } else { "" };
        row(output, "tests", format!("{tests} passed{by}"));
    }
    if !config.access.candidate_rules.is_empty() {
        row(output, "candidates", config.access.candidate_rules.len());
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

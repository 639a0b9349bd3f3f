//! Remedies for mistakes on the command line that the parser does not recognize.
//!
//! The parser reports an unknown argument, and suggests similar names. People also write names that
//! other programs use, a value without its option, or a secret as an argument. A secret is not
//! printed, so the remedy replaces the parser's message.

use std::{net::SocketAddr, path::Path};

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::{endpoint, issue, login};
use crate::config::is_name_of_file;

/// The remedy for a refused command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Printed after the parser's message.
    Tip(String),
    /// Printed instead of the parser's message, which would contain a secret or a wrong suggestion.
    Instead(String),
}

const BEARER_TOKEN: &str = "a token must not be an argument, because every user of this machine can read arguments; \
    write it to a file and use --bearer-token-file FILE";
const CLIENT_SECRET: &str = "a secret must not be an argument, because every user of this machine can read \
    arguments; write it to a file and set client_secret_file in the configuration";
const PEM: &str = "an argument contains PEM; write it to a file and use the path of the file";
const ONE_TIME_TOKEN: &str = "a one-time token must not be an argument; to spend it, pipe it to standard input: \
    ott-gateway login < token.txt";
const HIDDEN: &str = "unexpected argument (not shown, because it may be a secret)";

const CALLS: &[&str] = &["issue", "login", "healthcheck"];
const WITH_CONFIG: &[&str] = &["serve", "check-config", "sandbox", "healthcheck"];
const PRINTS: &[&str] = &["example-config", "completions"];

/// Options of other programs: the commands, the names, and the option to use.
const OPTIONS: &[(&[&str], &[&str], &str)] = &[
    (&["issue"], &["--user", "--username", "--email", "--mail", "--name", "-u", "-l"], issue::TIP),
    (
        CALLS,
        &[
            "--host",
            "--port",
            "--address",
            "--addr",
            "--url",
            "--server",
            "--gateway",
            "--listen",
            "-e",
            "-p",
        ],
        "set the address of the gateway: --endpoint http://HOST:PORT",
    ),
    (
        &["issue", "login"],
        &["--config", "-c"],
        "this command calls a running gateway; set its address: --endpoint http://HOST:PORT",
    ),
    (
        CALLS,
        &["--insecure", "-k", "--plaintext", "--no-tls"],
        "for a gateway without TLS, write http:// in --endpoint; to trust its certificate, use --ca-file FILE",
    ),
    (CALLS, &["--tls", "--ssl", "--https"], "for TLS, write https:// in --endpoint"),
    (CALLS, &["--ca", "--cacert", "--ca-cert", "--cafile"], "use --ca-file FILE"),
    (CALLS, &["--cert", "--client-cert", "--certificate"], "use --certificate-file FILE"),
    (CALLS, &["--key", "--client-key", "--private-key"], "use --private-key-file FILE"),
    (
        &["sandbox"],
        &["--port", "-p", "--address", "--addr", "--host", "--bind", "--http-port", "--grpc-port"],
        "set the address of the gateway with --listen 127.0.0.1:PORT, and that of the platform with \
         --platform-listen 127.0.0.1:PORT",
    ),
    (
        &["serve"],
        &["--listen", "--port", "-p", "--address", "--addr", "--host", "--bind"],
        "set `listen` in [server] of the configuration, or the variable \
         OTT_GATEWAY__SERVER__LISTEN=127.0.0.1:50051",
    ),
    (WITH_CONFIG, &["-c", "-f", "--file", "--config-file", "--conf", "--cfg"], "use --config FILE"),
    (
        &["serve"],
        &["-v", "--verbose", "--debug", "--log-level"],
        "set log_level in [telemetry], or the variable OTT_GATEWAY__TELEMETRY__LOG_LEVEL=debug",
    ),
    (&["sandbox"], &["-v", "--verbose", "--debug", "--log-level"], "set the variable RUST_LOG=debug"),
];

/// Names of options whose value would be a token of the caller.
const TOKENS: &[&str] = &[
    "--token",
    "--bearer-token",
    "--bearer",
    "--jwt",
    "--access-token",
    "--auth-token",
    "--auth",
    "--authorization",
    "--header",
    "--api-key",
    "--credential",
    "-H",
    "-t",
];
/// Names of options whose value would be the secret of an API client.
const SECRETS: &[&str] = &["--client-secret", "--secret", "--password", "--client-password"];
/// Names of options for an output file.
const OUTPUTS: &[&str] =
    &["-o", "--output", "--out", "--output-file", "--out-file", "-f", "--file", "-c", "--config"];

/// Commands of other programs, and the command to use.
const COMMANDS: &[(&[&str], &str)] = &[
    (&["start", "run", "server", "up", "daemon"], "ott-gateway serve --config gateway.toml"),
    (&["check", "validate", "lint", "verify"], "ott-gateway check-config --config gateway.toml"),
    (&["config", "init", "example"], "ott-gateway example-config > gateway.toml"),
    (&["health", "status", "ping", "probe"], "ott-gateway healthcheck"),
    (&["token", "create", "get", "ott"], "ott-gateway issue --login johncustomer@mysite.com"),
    (&["demo", "try", "test"], "ott-gateway sandbox"),
    (&["version"], "ott-gateway --version"),
];

/// Returns the remedy for a refused command line, if there is one besides the parser's message.
/// `arguments` begin with the name of the program.
pub(super) fn remedy(error: &clap::Error, arguments: &[String]) -> Option<Remedy> {
    let command = arguments.get(1).map_or("", String::as_str);
    let found = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let argument = found(ContextKind::InvalidArg)?;
            let line =
                Line { command, arguments, has_similar: error.get(ContextKind::SuggestedArg).is_some() };
            line.unknown(argument)
        }
        ErrorKind::MissingRequiredArgument if command == "issue" && !has_any(arguments, SUBJECTS) => {
            Some(Remedy::Tip(issue::TIP.to_owned()))
        }
        ErrorKind::InvalidSubcommand => unknown_command(found(ContextKind::InvalidSubcommand)?),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let value = found(ContextKind::InvalidValue)?;
            is_marked_secret(value).then(|| {
                let option = found(ContextKind::InvalidArg).unwrap_or_default();
                Remedy::Instead(format!(
                    "the value of '{option}' is not valid (not shown, because it may be a secret)"
                ))
            })
        }
        _ => None,
    }
}

/// Options that specify the user.
const SUBJECTS: &[&str] = &["--login", "--external-id", "--user-id"];

/// A command line with an unknown argument.
struct Line<'a> {
    command: &'a str,
    arguments: &'a [String],
    /// The parser suggests an option with a similar name.
    has_similar: bool,
}

impl Line<'_> {
    fn unknown(&self, argument: &str) -> Option<Remedy> {
        if argument.starts_with("-----") || argument.contains('\n') {
            return Some(Remedy::Instead(PEM.to_owned()));
        }
        if let Some(remedy) =
            if argument.starts_with('-') { self.option(argument) } else { self.value(argument) }
        {
            return Some(remedy);
        }
        if !argument.starts_with('-') && may_be_secret(argument) {
            let command = self.command;
            return Some(Remedy::Instead(format!("{HIDDEN}; see `ott-gateway {command} --help`")));
        }
        match self.command {
            "login" => Some(Remedy::Tip(login::TIP.to_owned())),
            "issue" if !self.has_similar && !has_any(self.arguments, SUBJECTS) => {
                Some(Remedy::Tip(issue::TIP.to_owned()))
            }
            _ => None,
        }
    }

    /// Returns the remedy for the name of an option.
    fn option(&self, name: &str) -> Option<Remedy> {
        let command = self.command;
        if command == "login" && name == "-t" {
            return Some(Remedy::Instead(login::REFUSAL.to_owned()));
        }
        if CALLS.contains(&command) && TOKENS.contains(&name) {
            return Some(Remedy::Instead(BEARER_TOKEN.to_owned()));
        }
        if WITH_CONFIG.contains(&command) && SECRETS.contains(&name) {
            return Some(Remedy::Instead(CLIENT_SECRET.to_owned()));
        }
        if PRINTS.contains(&command) && OUTPUTS.contains(&name) {
            return Some(self.redirect("FILE"));
        }
        if command == "--config" || command.starts_with("--config=") {
            return Some(Remedy::Tip("write the command first: ott-gateway serve --config FILE".to_owned()));
        }
        let known = OPTIONS
            .iter()
            .find(|(commands, names, _)| commands.contains(&command) && names.contains(&name))
            .map(|(_, _, tip)| *tip)?;
        if known == issue::TIP && has_any(self.arguments, SUBJECTS) {
            return None;
        }
        Some(Remedy::Tip(known.to_owned()))
    }

    /// Returns the remedy for a value without an option.
    fn value(&self, value: &str) -> Option<Remedy> {
        if value.starts_with("SANDBOX-") {
            return Some(Remedy::Instead(ONE_TIME_TOKEN.to_owned()));
        }
        let shown = if is_plain(value) && !may_be_secret(value) { value } else { "FILE" };
        match self.command {
            "example-config" | "completions" => Some(self.redirect(shown)),
            "issue" | "healthcheck" if value.starts_with("eyJ") => {
                Some(Remedy::Instead(BEARER_TOKEN.to_owned()))
            }
            "issue" if is_address(value) => self.with_option("--endpoint", &endpoint::suggestion(value)),
            "issue" if !has_any(self.arguments, SUBJECTS) => {
                let user = if value.contains('@') && is_plain(value) && !may_be_secret(value) {
                    format!("specify the user: ott-gateway issue --login {value}")
                } else {
                    issue::TIP.to_owned()
                };
                Some(if may_be_secret(value) {
                    Remedy::Instead(format!("{HIDDEN}; {user}"))
                } else {
                    Remedy::Tip(user)
                })
            }
            "healthcheck" if value.starts_with("ott.") || value == "OttService" => {
                self.with_option("--service", "ott.v1.OttService")
            }
            "healthcheck" if is_address(value) => {
                self.with_option("--endpoint", &endpoint::suggestion(value))
            }
            "sandbox" if value.parse::<SocketAddr>().is_ok() => self.with_option("--listen", value),
            "sandbox" if has_extension(value, "json") => self.with_option("--accounts", shown),
            command if WITH_CONFIG.contains(&command) => self.with_option("--config", shown),
            _ => None,
        }
    }

    /// Suggests to write a value after its option, unless the option is given.
    fn with_option(&self, option: &str, value: &str) -> Option<Remedy> {
        (!has_any(self.arguments, &[option]))
            .then(|| Remedy::Tip(format!("use ott-gateway {} {option} {value}", self.command)))
    }

    fn redirect(&self, file: &str) -> Remedy {
        let shell = if self.command == "completions" { " SHELL" } else { "" };
        Remedy::Tip(format!("redirect the output: ott-gateway {}{shell} > {file}", self.command))
    }
}

fn unknown_command(name: &str) -> Option<Remedy> {
    if may_be_secret(name) {
        return Some(Remedy::Instead(format!("{HIDDEN}; see `ott-gateway --help`")));
    }
    if has_extension(name, "toml") && is_plain(name) {
        return Some(Remedy::Tip(format!("use ott-gateway serve --config {name}")));
    }
    let lower = name.to_ascii_lowercase();
    let known = COMMANDS.iter().find(|(names, _)| names.contains(&lower.as_str()));
    known.map(|(_, command)| Remedy::Tip(format!("use {command}")))
}

/// Returns whether one of the options is given, with a value after a space or "=".
fn has_any(arguments: &[String], options: &[&str]) -> bool {
    arguments.iter().any(|argument| {
        options.iter().any(|option| {
            argument.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        })
    })
}

/// Returns whether a text is a URL, or a host and a port.
fn is_address(text: &str) -> bool {
    let has_port = text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    text.contains("://") || has_port || text.eq_ignore_ascii_case("localhost")
}

/// Returns whether a text is certainly a secret.
fn is_marked_secret(text: &str) -> bool {
    let marks = ["SANDBOX-", "eyJ", "-----BEGIN", "Bearer "];
    marks.iter().any(|mark| text.starts_with(mark)) || text.contains('\n')
}

/// Returns whether a text may be a generated secret: a part of it is not a name.
fn may_be_secret(text: &str) -> bool {
    is_marked_secret(text) || !text.split(['/', '@', ':', '+', ',', '~', '[', ']']).all(is_name_of_file)
}

fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// Returns whether a text has no special meaning in a shell.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/.-_@+:".contains(&byte))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{super::CommandLine, *};

    fn remedy_of(line: &str) -> Option<Remedy> {
        let arguments: Vec<String> = format!("ott-gateway {line}").split(' ').map(str::to_owned).collect();
        let error = CommandLine::try_parse_from(&arguments).expect_err(line);
        remedy(&error, &arguments)
    }

    #[test]
    fn positional_values_get_the_option_that_they_belong_to() {
        for (line, tip) in [
            ("serve gateway.toml", "use ott-gateway serve --config gateway.toml"),
            ("serve /etc/ott-gateway/gateway.toml", "serve --config /etc/ott-gateway/gateway.toml"),
            ("check-config gateway.toml --online", "check-config --config gateway.toml"),
            ("sandbox gateway.toml", "sandbox --config gateway.toml"),
            ("sandbox accounts.json", "sandbox --accounts accounts.json"),
            ("sandbox 127.0.0.1:50052", "sandbox --listen 127.0.0.1:50052"),
            ("healthcheck gateway.toml", "healthcheck --config gateway.toml"),
            ("healthcheck 127.0.0.1:50051", "healthcheck --endpoint http://127.0.0.1:50051"),
            ("healthcheck localhost", "healthcheck --endpoint http://localhost:50051"),
            ("healthcheck https://gateway.example:1", "healthcheck --endpoint https://gateway.example:1"),
            ("healthcheck ott.v1.OttService", "healthcheck --service ott.v1.OttService"),
            ("issue someone@example.com", "issue --login someone@example.com"),
            ("issue 127.0.0.1:50051", "issue --endpoint http://127.0.0.1:50051"),
            ("issue --login a http://127.0.0.1:1", "issue --endpoint http://127.0.0.1:1"),
            ("example-config gateway.toml", "example-config > gateway.toml"),
            ("completions bash file", "completions SHELL > file"),
            ("gateway.toml", "use ott-gateway serve --config gateway.toml"),
            ("--config gateway.toml", "ott-gateway serve --config FILE"),
            ("start", "ott-gateway serve --config gateway.toml"),
            ("validate", "ott-gateway check-config"),
        ] {
            if !cfg!(feature = "sandbox") && line.starts_with("sandbox") {
                continue;
            }
            let Some(Remedy::Tip(found)) = remedy_of(line) else { panic!("{line}: {:?}", remedy_of(line)) };
            assert!(found.contains(tip), "{line}: {found}");
        }
    }

    #[test]
    fn options_of_other_programs_get_the_option_of_this_one() {
        for (line, tip) in [
            ("sandbox --port 1", "--listen 127.0.0.1:PORT"),
            ("serve --port 1", "OTT_GATEWAY__SERVER__LISTEN"),
            ("serve --listen 127.0.0.1:1", "OTT_GATEWAY__SERVER__LISTEN"),
            ("serve -c gateway.toml", "use --config FILE"),
            ("serve -v --config f", "LOG_LEVEL"),
            ("healthcheck --port 1", "--endpoint http://HOST:PORT"),
            ("issue --login a --url http://127.0.0.1:1", "--endpoint http://HOST:PORT"),
            ("issue --login a --config f", "--endpoint http://HOST:PORT"),
            ("issue --login a --insecure", "--ca-file FILE"),
            ("issue --login a --cert f", "--certificate-file FILE"),
            ("issue --email a@b.example", "--login"),
            ("example-config --output x", "example-config > FILE"),
            ("example-config -o x", "example-config > FILE"),
            ("completions bash -o x", "completions SHELL > FILE"),
        ] {
            if !cfg!(feature = "sandbox") && line.starts_with("sandbox") {
                continue;
            }
            let Some(Remedy::Tip(found)) = remedy_of(line) else { panic!("{line}: {:?}", remedy_of(line)) };
            assert!(found.contains(tip), "{line}: {found}");
        }
    }

    #[test]
    fn secrets_are_not_repeated() {
        const JWT: &str = "eyJhbGciOi.canary.x";
        for (line, part) in [
            ("issue --token canary --login a", "--bearer-token-file FILE"),
            ("issue --token=canary --login a", "--bearer-token-file FILE"),
            ("issue --bearer-token canary --login a", "--bearer-token-file FILE"),
            ("issue -H canary --login a", "--bearer-token-file FILE"),
            ("healthcheck --token canary", "--bearer-token-file FILE"),
            ("login --bearer-token canary", "--bearer-token-file FILE"),
            ("login -t canary", "pipe it to standard input"),
            ("serve --client-secret canary", "client_secret_file"),
            ("issue SANDBOX-canary", "ott-gateway login < token.txt"),
            ("issue --login a SANDBOX-canary", "ott-gateway login < token.txt"),
            (&format!("issue {JWT}"), "--bearer-token-file FILE"),
            ("issue canary9F3kq7Zp1Lm8", "specify the user"),
            ("issue --login a canary9F3kq7Zp1Lm8", "issue --help"),
            ("healthcheck SANDBOX-canary", "ott-gateway login"),
            ("SANDBOX-canary", "may be a secret"),
            (&format!("issue --login a --timeout {JWT}"), "may be a secret"),
            ("issue --login a --certificate-file -----BEGIN_canary", "contains PEM"),
        ] {
            let Some(Remedy::Instead(found)) = remedy_of(line) else {
                panic!("{line}: {:?}", remedy_of(line))
            };
            assert!(found.contains(part) && !found.contains("canary"), "{line}: {found}");
        }
    }

    #[test]
    fn remedies_for_a_missing_user_are_only_for_a_line_without_one() {
        for line in [
            "issue --login a --certificate-file f",
            "issue --login=a --unknown",
            "issue --user-id 1 --unknown",
            "issue --logn a",
            "serve --config f extra",
            "serve --confg f",
            "serve",
        ] {
            assert_eq!(remedy_of(line), None, "{line}");
        }
        for line in ["issue", "issue --unknown", "issue --timeout 1s"] {
            assert_eq!(remedy_of(line), Some(Remedy::Tip(issue::TIP.to_owned())), "{line}");
        }
        assert_eq!(remedy_of("login --unknown x"), Some(Remedy::Tip(login::TIP.to_owned())));
    }
}

//! `ott-gateway compare-rules`: reports which calls a change of the access rules opens and closes.
//!
//! `rule_comparison` compares the rules; `text` and `json` print the result.

mod json;
mod replay;
mod text;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, ValueEnum};

use self::replay::AuditReplay;
use super::{explain_command::quoted, failure::Failure, output::Output, serve};
use crate::{
    access::{NamedRules, RuleSettings, Rules},
    caller::JWT_PREFIX,
    config::{PolicyFile, Process},
    rule_comparison::{self, Side},
};

/// Report which calls a change of the access rules opens and closes.
///
/// Compares the rules of two configuration files exactly: every kind of call that only the new
/// file allows (opened) or only the old one (closed), each with an example, and calls that both
/// allow with different quotas. The examples are as `check-config --explain` reads them.
///
/// Only `[access]`, `[callers.tokens]` and the names of API clients are compared and checked, so
/// the files that the configuration names need not exist. Environment variables override both files.
///
/// Logins are compared by the accounts whose session the caller may receive.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The configuration file before the change
    #[arg(value_name = "OLD", value_parser = serve::file)]
    old: PathBuf,
    /// The configuration file after the change
    #[arg(value_name = "NEW", value_parser = serve::file)]
    new: PathBuf,
    /// Replay the calls of these audit files
    ///
    /// Counts the callers that the new rules would have refused or allowed, by rule. Files may be
    /// compressed with gzip; `-` is standard input. A call whose record does not contain a part on
    /// which the decision depends is counted by that part. Calls that were decided under other rules
    /// than those of OLD are counted separately.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    audit: Vec<PathBuf>,
    /// Format of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One line of JSON
    Json,
}

const EXAMPLES: &str = "\
Examples:
  git show main:gateway.toml > old.toml
  ott-gateway compare-rules old.toml gateway.toml
  ott-gateway compare-rules old.toml gateway.toml --audit /var/log/ott-gateway/audit.jsonl*
  ott-gateway compare-rules old.toml gateway.toml --format json | jq '.opened[].example'

Exits with 0 if the new rules allow no call that the old ones do not, and with 3 if they do, regardless
of the calls of --audit. Exits with 2 if one of the files is not valid or cannot be read, and with 1 if
the rules combine in too many ways.";

/// Exit code if calls are opened.
const OPENED: u8 = 3;

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<ExitCode, Failure> {
    let files = [&arguments.old, &arguments.new].map(|file| PolicyFile::load(file, &Process));
    let [old, new] = match files {
        [Ok(old), Ok(new)] => [old, new],
        [Err(errors), other] => {
            // Both files are reported at once.
            if let Err(others) = other {
                output.failure(&Failure::from(others));
            }
            return Err(errors.into());
        }
        [Ok(_), Err(errors)] => return Err(errors.into()),
    };
    let (notes, new_issuers) = (notes(&old, &new), issuers_that_open(&old, &new));
    let (old_names, new_names) = (Names::of(&old), Names::of(&new));
    let compared = rule_comparison::compare(old_names.side(&old), new_names.side(&new))
        .map_err(|error| Failure::Failed(error.to_string()))?;
    let rules = [rules(&old.access.rules)?, rules(&new.access.rules)?];
    let replay = match arguments.audit.as_slice() {
        [] => None,
        files => {
            let quoted = |file: &Path| quoted(&file.display().to_string());
            let (old_file, new_file) = (quoted(&arguments.old), quoted(&arguments.new));
            let command = format!("ott-gateway compare-rules {old_file} {new_file} --audit");
            let (old_names, new_names) = (old_names.as_sets(), new_names.as_sets());
            let named = [&old_names.with(&rules[0]), &new_names.with(&rules[1])];
            Some(AuditReplay::of(files, &old.access.fingerprint(), named, &command, output)?)
        }
    };
    match arguments.format {
        Format::Text => {
            text::print_notes(&notes, &new_issuers, output);
            text::print(&compared, output);
            if let Some(replay) = &replay {
                text::print_replay(replay, &rules, output);
            }
        }
        Format::Json => {
            // A closed pipe cannot be reported.
            let _ = output.document_with(|out| {
                json::write(&notes, &new_issuers, &compared, replay.as_ref(), &rules, out)
            });
        }
    }
    let is_opened = !compared.opened.is_empty() || !new_issuers.is_empty();
    Ok(if is_opened { ExitCode::from(OPENED) } else { ExitCode::SUCCESS })
}

/// Returns differences between the files that are not compared.
fn notes(old: &PolicyFile, new: &PolicyFile) -> Vec<String> {
    let is_changed = |(key, value): &(&String, _)| old.meanings.get(*key).is_some_and(|old| old != *value);
    let changed = new.meanings.iter().filter(is_changed);
    let mut notes: Vec<String> =
        changed.map(|(key, _)| format!("{key} differs; what the name stands for is not compared")).collect();
    if old.proofs != new.proofs {
        notes.push(
            "[callers.jwt], [callers.forwarded] or [server.tls] differ; which callers exist because of them is not \
             compared"
                .to_owned(),
        );
    }
    if old.has_token_binding != new.has_token_binding {
        notes.push(
            "only one of the files has [token_binding], without which no sealed token is accepted; this is not \
             compared"
                .to_owned(),
        );
    }
    notes
}

/// Returns the JWT issuers that only the new file accepts, if their callers cannot be distinguished by
/// name from those of other issuers, and a rule may be for them. The comparison by names then shows no
/// difference, although other people have the names.
fn issuers_that_open<'a>(old: &'a PolicyFile, new: &'a PolicyFile) -> Vec<&'a str> {
    let have_names = old.jwt_issuers.is_some() && new.jwt_issuers.is_some();
    let may_match = |glob: &String| {
        let literal = glob.split(['*', '?']).next().unwrap_or_default();
        literal.starts_with(JWT_PREFIX) || literal.len() < glob.len() && JWT_PREFIX.starts_with(literal)
    };
    if have_names || !new.access.rules.iter().flat_map(|rule| &rule.callers).any(may_match) {
        return Vec::new();
    }
    new.issuers.difference(&old.issuers).map(String::as_str).collect()
}

fn rules(settings: &[RuleSettings]) -> Result<Rules, Failure> {
    Rules::try_new(settings.to_vec()).map_err(|error| Failure::Failed(error.to_string()))
}

/// The names of a file, borrowed.
struct Names<'a> {
    tokens: Vec<&'a str>,
    jwt_issuers: Option<Vec<&'a str>>,
    api_clients: Vec<&'a str>,
    default_api_client: Option<&'a str>,
}

/// The names of a file, for one look-up per call.
struct NameSets<'a> {
    tokens: BTreeSet<&'a str>,
    jwt_issuers: Option<BTreeSet<&'a str>>,
    api_clients: BTreeSet<&'a str>,
    default_api_client: Option<&'a str>,
}

impl<'a> NameSets<'a> {
    fn with(&'a self, rules: &'a Rules) -> NamedRules<'a> {
        NamedRules {
            rules,
            tokens: &self.tokens,
            jwt_issuers: self.jwt_issuers.as_ref(),
            api_clients: &self.api_clients,
            default_api_client: self.default_api_client,
        }
    }
}

impl<'a> Names<'a> {
    fn of(policy: &'a PolicyFile) -> Self {
        Self {
            tokens: policy.tokens.iter().map(String::as_str).collect(),
            jwt_issuers: policy.jwt_issuers.as_ref().map(|names| names.iter().map(String::as_str).collect()),
            api_clients: policy.api_clients.iter().map(String::as_str).collect(),
            default_api_client: policy.default_api_client.as_deref(),
        }
    }

    fn as_sets(&self) -> NameSets<'a> {
        let set = |names: &[&'a str]| names.iter().copied().collect();
        NameSets {
            tokens: set(&self.tokens),
            jwt_issuers: self.jwt_issuers.as_deref().map(set),
            api_clients: set(&self.api_clients),
            default_api_client: self.default_api_client,
        }
    }

    fn side(&'a self, policy: &'a PolicyFile) -> Side<'a> {
        Side {
            access: &policy.access,
            has_token_binding: policy.has_token_binding,
            tokens: &self.tokens,
            jwt_issuers: self.jwt_issuers.as_deref(),
            api_clients: &self.api_clients,
            default_api_client: self.default_api_client,
        }
    }
}

//! `check-config --who`: prints the callers that may use a method, for a user and an API client.

use serde_json::{Value, json};

use super::{
    explain::{add_token_use, id, print_folded, print_unknown, quotas, with_api_client},
    question::Request,
    rule_sets::RuleSets,
};
use crate::{
    access::{Candidate, RuleInAnswer, Rules, TokenUse},
    base::text::Printable,
    caller::ClaimRequirement,
    cli::output::Output,
    config::Config,
};

/// Prints the callers for people, by rule.
pub(super) fn print(request: &Request, rules: &RuleSets, config: &Config, output: &mut Output) {
    let api_client = match request.api_client(config) {
        Ok(api_client) => api_client,
        Err(reason) => return print_unknown(&reason, config, output),
    };
    output.line(with_api_client(api_client));
    print_folded(request.user.as_ref(), output);
    rules.print_each(output, |rules, output| {
        let entries = rules.who(request.token_use(), api_client.name, request.user.as_ref());
        for entry in &entries {
            for line in lines(entry, request) {
                output.line(Printable(line));
            }
        }
        let conclusion = match entries.len() {
            0 => "NOBODY: no rule allows it".to_owned(),
            1 => "1 rule allows it".to_owned(),
            some => format!("{some} rules allow it"),
        };
        output.line(conclusion);
    });
}

fn lines(candidate: &Candidate<'_>, request: &Request) -> Vec<String> {
    let Candidate { rule, covered_by } = candidate;
    let is_open = request.user.is_none();
    let mut lines = vec![format!("rule {}: {}", rule.id, rule.settings.callers.join(", "))];
    let claims: Vec<String> = rule.settings.claims.iter().map(claim).collect();
    if !claims.is_empty() {
        lines.push(format!("  only with a JWT with {}", claims.join(" and ")));
    }
    if let Some(limit) = limit(rule, request) {
        lines.push(limit);
    }
    let is_sealed = rule.settings.issued_by.is_some();
    if is_open && rule.lists_users() {
        let user = if is_sealed { "the user in the token" } else { "the account in the platform's response" };
        lines.push(format!("  if {user} is one of its users"));
    }
    match covered_by {
        // The account may still be allowed by this rule.
        Some(earlier) if is_open && !is_sealed => {
            lines.push(format!(
                "  the quotas are those of rule {earlier}, which is also for all these callers"
            ));
        }
        Some(earlier) if !is_open => {
            lines.push(format!("  never decides here: rule {earlier} is also for all these callers"));
        }
        _ => lines.push(format!("  {}", quotas(rule))),
    }
    lines
}

/// Returns the uses of tokens that the rule allows, if these are not all that are asked for.
fn limit(rule: &RuleInAnswer<'_>, request: &Request) -> Option<String> {
    match (request.token_use(), &rule.settings.issued_by) {
        (TokenUse::Login { issued_by: None }, Some(issuers)) => {
            Some(format!("  only with sealed tokens issued to {}", issuers.join(", ")))
        }
        (TokenUse::Issue { login_url: false }, _) if !rule.settings.login_urls => {
            Some("  only without a login URL".to_owned())
        }
        _ => None,
    }
}

fn claim(required: &ClaimRequirement) -> String {
    let values: Vec<String> = required.values.iter().map(ToString::to_string).collect();
    format!("{} = {}", required.path, values.join(" or "))
}

/// Returns the callers for programs.
pub(super) fn as_json(request: &Request, rules: &RuleSets, config: &Config) -> Value {
    let mut found = json!({
        "method": request.method.name(),
        "user": request.user.as_ref().map(|user| user.as_asked().to_string()),
        "decided_as": request.user.as_ref().map(|user| user.as_decided().to_string()),
        "api_client": request.api_client,
        "rules": [],
    });
    add_token_use(&mut found, request);
    match request.api_client(config) {
        Ok(api_client) => {
            found["api_client"] = api_client.name.into();
            let entries = |rules: &Rules| -> Value {
                let entries = rules.who(request.token_use(), api_client.name, request.user.as_ref());
                entries.into_iter().map(entry).collect()
            };
            found["rules"] = entries(&rules.first);
            if let Some(candidates) = &rules.second {
                found["candidate_rules"] = entries(candidates);
            }
        }
        Err(reason) => found["reason"] = reason.to_string().into(),
    }
    found
}

fn entry(Candidate { rule, covered_by }: Candidate<'_>) -> Value {
    let claims = rule
        .settings
        .claims
        .iter()
        .map(|required| (required.path.as_str().to_owned(), json!(required.values)));
    json!({
        "number": rule.id.number,
        "name": rule.id.name.as_deref(),
        "callers": rule.settings.callers,
        "claims": claims.collect::<serde_json::Map<_, _>>(),
        "issued_by": rule.settings.issued_by,
        "login_urls": rule.settings.login_urls,
        "per_caller": rule.per_caller.to_string(),
        "per_caller_and_user": rule.per_user.to_string(),
        "covered_by": id(covered_by),
    })
}

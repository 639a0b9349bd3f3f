//! `check-config --who`: prints the callers that may use a method, for a user and an API client.

use serde_json::{Value, json};

use super::{
    explain::{id, print_folded, print_unknown, quotas, with_api_client},
    question::Request,
    rule_sets::RuleSets,
};
use crate::{
    access::{Candidate, Rules},
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
        let entries = rules.who(request.method, api_client.name, request.user.as_ref());
        for entry in &entries {
            for line in lines(entry, request.user.is_none()) {
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

fn lines(candidate: &Candidate<'_>, is_open: bool) -> Vec<String> {
    let Candidate { rule, covered_by } = candidate;
    let mut lines = vec![format!("rule {}: {}", rule.id, rule.settings.callers.join(", "))];
    let claims: Vec<String> = rule.settings.claims.iter().map(claim).collect();
    if !claims.is_empty() {
        lines.push(format!("  only with a JWT with {}", claims.join(" and ")));
    }
    if is_open && rule.lists_users() {
        lines.push("  if the account in the platform's response is one of its users".to_owned());
    }
    match covered_by {
        // The account may still be allowed by this rule.
        Some(earlier) if is_open => {
            lines.push(format!(
                "  the quotas are those of rule {earlier}, which is also for all these callers"
            ));
        }
        Some(earlier) => {
            lines.push(format!("  never decides here: rule {earlier} is also for all these callers"));
        }
        None => lines.push(format!("  {}", quotas(rule))),
    }
    lines
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
    match request.api_client(config) {
        Ok(api_client) => {
            found["api_client"] = api_client.name.into();
            let entries = |rules: &Rules| -> Value {
                let entries = rules.who(request.method, api_client.name, request.user.as_ref());
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
        "per_caller": rule.per_caller.to_string(),
        "per_caller_and_user": rule.per_user.to_string(),
        "covered_by": id(covered_by),
    })
}

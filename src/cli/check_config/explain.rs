//! `check-config --explain`: prints which access rule decides a call, and why.
//!
//! `access` decides; only the wording and the JSON form are here.

use serde_json::{Value, json};

use super::{
    question::{ApiClientOfCall, Call, NoSuchName, Request},
    rule_sets::RuleSets,
};
use crate::{
    access::{Answer, Mismatch, Question, RuleId, RuleInAnswer, Rules, TokenUse, Verdict},
    base::text::Printable,
    caller::Principal,
    cli::output::Output,
    config::Config,
    domain::{call::Method, ott::Subject},
};

/// Returns the API client of the call, or the reason that such a call does not reach the rules.
fn api_client<'a>(call: &'a Call, config: &'a Config) -> Result<ApiClientOfCall<'a>, NoSuchName> {
    call.check_caller(config)?;
    call.request.api_client(config)
}

fn answer<'a>(call: &'a Call, rules: &'a Rules, api_client: ApiClientOfCall<'a>) -> Answer<'a> {
    rules.answer(Question {
        caller: Principal { name: &call.caller, claims: &call.claims },
        token_use: call.request.token_use(),
        api_client: api_client.name,
        user: call.request.user.as_ref(),
    })
}

/// Prints the decision for people.
pub(super) fn print(call: &Call, rules: &RuleSets, config: &Config, output: &mut Output) {
    let user = call.request.user.as_ref();
    match api_client(call, config) {
        Ok(api_client) => {
            output.line(with_api_client(api_client));
            print_folded(user, output);
            rules.print_each(output, |rules, output| {
                let answer = answer(call, rules, api_client);
                for (rule, verdict) in answer.verdicts() {
                    output.line(Printable(sentence(call, &rule, &verdict)));
                }
                output.line(Printable(conclusion(call, &answer)));
            });
        }
        Err(reason) => {
            print_folded(user, output);
            print_unknown(&reason, config, output);
        }
    }
}

/// Prints that a call is denied before the rules.
pub(super) fn print_unknown(reason: &NoSuchName, config: &Config, output: &mut Output) {
    if *reason == NoSuchName::NoApiClient {
        let names: Vec<&str> = config.api_clients.by_name.keys().map(|name| &**name).collect();
        output.line("no API client is the default, so a call must name one");
        output.line(format_args!("select one with --api-client: {}", Printable(names.join(", "))));
    }
    output.line(format_args!("DENIED: {}", Printable(reason)));
}

pub(super) fn with_api_client(api_client: ApiClientOfCall<'_>) -> String {
    let why = if api_client.is_default { " (the default; select another with --api-client)" } else { "" };
    format!("with API client {}{why}", Printable(api_client.name))
}

/// Prints the canonical form of a user if it was asked in another one.
pub(super) fn print_folded(user: Option<&Subject>, output: &mut Output) {
    if let Some(user) = user.filter(|user| user.is_folded()) {
        let (asked, decided) = (Printable(user.as_asked()), Printable(user.as_decided()));
        output.line(format_args!("asked as {asked}, decided as {decided}"));
    }
}

fn sentence(call: &Call, rule: &RuleInAnswer<'_>, verdict: &Verdict) -> String {
    let verdict = match verdict {
        Verdict::Mismatch(mismatch) => mismatch.to_string(),
        Verdict::DecidedEarlier => "would allow it too, but an earlier rule decides".to_owned(),
        Verdict::Decides => {
            let is_open = call.request.user.is_none() && rule.lists_users();
            let users =
                if is_open { " if the account in the platform's response is one of its users" } else { "" };
            format!("allows it{users}; {}", quotas(rule))
        }
    };
    format!("rule {} {verdict}", rule.id)
}

/// Returns the quotas of a rule, for people.
pub(super) fn quotas(rule: &RuleInAnswer<'_>) -> String {
    format!("per caller {}; per caller and user {}", rule.per_caller, rule.per_user)
}

fn conclusion(call: &Call, answer: &Answer<'_>) -> String {
    let is_login_of_user = call.request.token_use() == TokenUse::plain(Method::LoginWithOtt);
    match (answer.deciding(), answer.charged()) {
        (Some(rule), Some(charged)) if charged != rule => {
            format!(
                "ALLOWED by rule {rule}; the quotas are those of rule {charged}, the first for such a login"
            )
        }
        (Some(rule), _) => format!("ALLOWED by rule {rule}"),
        (None, Some(_)) if is_login_of_user => {
            "DENIED: no rule allows this account (ACCOUNT_NOT_ALLOWED); its token is spent".to_owned()
        }
        (None, _) => "DENIED: no rule allows it".to_owned(),
    }
}

/// Returns the decision for programs.
pub(super) fn as_json(call: &Call, rules: &RuleSets, config: &Config) -> Value {
    let mut found = json!({
        "caller": call.caller,
        "method": call.request.method.name(),
        "user": call.request.user.as_ref().map(|user| user.as_asked().to_string()),
        "decided_as": call.request.user.as_ref().map(|user| user.as_decided().to_string()),
        "api_client": call.request.api_client,
    });
    add_token_use(&mut found, &call.request);
    match api_client(call, config) {
        Ok(api_client) => {
            found["api_client"] = api_client.name.into();
            add_decision(&mut found, &answer(call, &rules.first, api_client));
            if let Some(candidates) = &rules.second {
                add_decision(&mut found["candidate_rules"], &answer(call, candidates, api_client));
            }
        }
        Err(reason) => {
            found["decision"] = "deny".into();
            found["reason"] = reason.to_string().into();
        }
    }
    found
}

/// Adds what the question is about beyond the method, if anything.
pub(super) fn add_token_use(found: &mut Value, request: &Request) {
    match request.token_use() {
        TokenUse::Issue { login_url: true } => found["login_url"] = true.into(),
        TokenUse::Login { issued_by: Some(issuer) } => found["issued_by"] = issuer.into(),
        TokenUse::Issue { login_url: false } | TokenUse::Login { issued_by: None } => {}
    }
}

fn add_decision(found: &mut Value, answer: &Answer<'_>) {
    let rules = answer.verdicts().map(|(rule, verdict)| {
        let (verdict, mismatch) = labels(&verdict);
        json!({"number": rule.id.number, "name": rule.id.name.as_deref(), "verdict": verdict, "mismatch": mismatch})
    });
    found["decision"] = if answer.is_allowed() { "allow" } else { "deny" }.into();
    found["rule"] = id(answer.deciding());
    found["quotas_of"] = id(answer.charged());
    found["rules"] = rules.collect();
}

/// Returns a rule for programs.
pub(super) fn id(rule: Option<RuleId>) -> Value {
    rule.map_or(Value::Null, |rule| json!({"number": rule.number, "name": rule.name.as_deref()}))
}

const fn labels(verdict: &Verdict) -> (&'static str, Option<&'static str>) {
    match verdict {
        Verdict::Decides => ("decides", None),
        Verdict::DecidedEarlier => ("decided_earlier", None),
        Verdict::Mismatch(Mismatch::Claim(_)) => ("mismatch", Some("claim")),
        Verdict::Mismatch(mismatch) => ("mismatch", Some(mismatch.part().as_str())),
    }
}

//! The report of `compare-rules` as JSON.

use std::io;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::replay::AuditReplay;
use crate::{
    access::{ReplayedDecisions, Rules, TokenUse, UnknownPart},
    base::text::PrintableJson,
    caller::{ClaimValue, Claims},
    rule_comparison::{
        CallKind, Calls, Change, Comparison, Example, File, Opening, QuotaChange, Respelling, RuleName,
    },
};

/// The report. Its parts are converted one after the other, because there can be many of them.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    notes: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    opened_issuers: &'a [&'a str],
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<Value>,
    #[serde(serialize_with = "write_openings")]
    closed: &'a [Opening],
    #[serde(serialize_with = "write_openings")]
    opened: &'a [Opening],
    #[serde(serialize_with = "write_quotas")]
    quotas: &'a [QuotaChange],
    #[serde(serialize_with = "write_respelled")]
    respelled: &'a [Respelling],
    settings: Value,
}

/// Writes the report as one line.
///
/// # Errors
///
/// Those of the writer.
pub(super) fn write(
    notes: &[String],
    opened_issuers: &[&str],
    compared: &Comparison,
    replay: Option<&AuditReplay>,
    rules: &[Rules; 2],
    out: &mut dyn io::Write,
) -> io::Result<()> {
    let report = Report {
        notes,
        opened_issuers,
        audit: replay.map(|replay| replayed(replay, rules)),
        closed: &compared.closed,
        opened: &compared.opened,
        quotas: &compared.quotas,
        respelled: &compared.respelled,
        settings: changes(&compared.settings),
    };
    report.serialize(&mut serde_json::Serializer::with_formatter(&mut *out, PrintableJson))?;
    out.write_all(b"\n")
}

fn write_openings<S: Serializer>(openings: &&[Opening], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(openings.iter().map(|opening| {
        let mut value = calls(&opening.calls);
        add_rule(&mut value, "rule", &opening.rule);
        value.insert("example".to_owned(), example(&opening.example, opening.calls.kind));
        value
    }))
}

fn write_quotas<S: Serializer>(quotas: &&[QuotaChange], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(quotas.iter().map(|change| {
        let mut value = calls(&change.calls);
        add_rule(&mut value, "old_rule", &change.old_rule);
        add_rule(&mut value, "rule", &change.new_rule);
        value.insert("changes".to_owned(), changes(&change.changes));
        value.insert("example".to_owned(), example(&change.example, change.calls.kind));
        value
    }))
}

fn write_respelled<S: Serializer>(respelled: &&[Respelling], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(respelled.iter().map(|pattern| {
        let file = match pattern.file {
            File::Old => "old",
            File::New => "new",
        };
        json!({
            "file": file,
            "rule": pattern.rule,
            "written": pattern.written,
            "compared_as": pattern.compared,
        })
    }))
}

/// Returns the result of replaying audit files.
fn replayed(replay: &AuditReplay, rules: &[Rules; 2]) -> Value {
    let AuditReplay { calls, skipped, .. } = replay;
    let mut value = decisions(&calls.by_old_rules, rules);
    value.insert("rules_not_recorded".to_owned(), calls.not_identified.into());
    let mut of_other_rules = Map::from_iter([("calls".to_owned(), calls.by_other_rules.count().into())]);
    of_other_rules.append(&mut decisions(&calls.by_other_rules, rules));
    value.insert("other_rules".to_owned(), of_other_rules.into());
    value.insert(
        "not_compared".to_owned(),
        json!({
            "not_decided": skipped.not_decided,
            "over_quota": skipped.over_quota,
            "summarized": skipped.summarized,
            "lost": skipped.lost,
            "late": skipped.late,
            "repeated": skipped.repeated,
            "other_records": skipped.other_records,
            "not_records": skipped.not_records,
        }),
    );
    value.into()
}

/// Returns recorded decisions, compared with those of the new rules.
fn decisions(decisions: &ReplayedDecisions, [old, new]: &[Rules; 2]) -> Map<String, Value> {
    let refused = decisions.refused.rows().into_iter().map(|(refusal, number, example)| {
        json!({
            "caller": refusal.caller,
            "old_rule": refusal.old_rule.map(|rule| old.label(rule)),
            "denied": refusal.denied.as_str(),
            "calls": number,
            "request_id": example,
        })
    });
    let allowed = decisions.allowed.rows().into_iter().map(|(allowance, number, example)| {
        json!({
            "caller": allowance.caller,
            "rule": new.label(allowance.new_rule),
            "calls": number,
            "request_id": example,
        })
    });
    let undecided = |part| Value::from(decisions.undecided.get(&part).copied().unwrap_or_default());
    let undecided = Map::from_iter(
        [
            ("caller", UnknownPart::Caller),
            ("claims", UnknownPart::Claims),
            ("api_client", UnknownPart::ApiClient),
            ("issuer", UnknownPart::Issuer),
            ("login_url", UnknownPart::LoginUrl),
            ("user", UnknownPart::User),
            ("user_spelling", UnknownPart::Spelling),
        ]
        .map(|(name, part)| (name.to_owned(), undecided(part))),
    );
    Map::from_iter(
        [
            ("refused", Value::from(refused.collect::<Vec<_>>())),
            ("refused_others", decisions.refused.others().into()),
            ("allowed", allowed.collect::<Vec<_>>().into()),
            ("allowed_others", decisions.allowed.others().into()),
            ("unchanged", decisions.unchanged.into()),
            ("undecided", undecided.into()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    )
}

fn calls(calls: &Calls) -> Map<String, Value> {
    let mut value = Map::new();
    let mut add = |key: &str, part: Value| value.insert(key.to_owned(), part);
    add("callers", calls.callers.to_string().into());
    add("method", calls.kind.method().name().into());
    if let Some(login_url) = calls.kind.login_url() {
        add("login_url", login_url.into());
    }
    if let Some(is_sealed) = calls.kind.sealed() {
        add("sealed", is_sealed.into());
    }
    if let Some(issuers) = &calls.issuers {
        add("issued_by", issuers.to_string().into());
    }
    add("users", calls.users.to_string().into());
    let clients = calls.api_clients.as_ref();
    add("api_client", clients.map_or_else(|| "all".to_owned(), |names| names.join(", ")).into());
    if !calls.claims.is_empty() {
        add("claims", json!(calls.claims));
    }
    if !calls.without_claims.is_empty() {
        let all = calls.without_claims.iter().map(|claims| json!(**claims));
        add("without_claims", all.collect());
    }
    value
}

fn add_rule(to: &mut Map<String, Value>, key: &str, rule: &RuleName) {
    to.insert(key.to_owned(), rule.number.into());
    if let Some(name) = &rule.name {
        to.insert(format!("{key}_name"), (&**name).into());
    }
}

fn changes(changes: &[Change]) -> Value {
    let changes =
        changes.iter().map(|change| (change.key.to_owned(), json!({ "old": change.old, "new": change.new })));
    Value::Object(changes.collect())
}

fn example(example: &Example, kind: CallKind) -> Value {
    let mut value = Map::new();
    let mut add = |key: &str, part: Value| value.insert(key.to_owned(), part);
    add("caller", (&*example.caller).into());
    if let Some(user) = &example.user {
        add("user", (&**user).into());
    }
    if let Some(name) = &example.api_client {
        add("api_client", (&**name).into());
    }
    match example.token_use(kind) {
        TokenUse::Issue { login_url: true } => add("login_url", true.into()),
        TokenUse::Login { issued_by: Some(issuer) } => add("issued_by", issuer.into()),
        TokenUse::Issue { login_url: false } | TokenUse::Login { issued_by: None } => None,
    };
    if !example.claims.is_empty() {
        add("claims", claims(&example.claims));
    }
    Value::Object(value)
}

/// Returns the claims by path; several values as a list.
fn claims(claims: &Claims) -> Value {
    let mut value: Map<String, Value> = Map::new();
    for (path, claim) in claims.iter() {
        let claim = match claim {
            ClaimValue::Text(text) => Value::from(&**text),
            ClaimValue::Integer(number) => Value::from(*number),
            ClaimValue::Boolean(flag) => Value::from(*flag),
        };
        match value.get_mut(path.as_str()) {
            Some(Value::Array(values)) => values.push(claim),
            Some(first) => *first = json!([first.take(), claim]),
            None => {
                value.insert(path.as_str().to_owned(), claim);
            }
        }
    }
    Value::Object(value)
}

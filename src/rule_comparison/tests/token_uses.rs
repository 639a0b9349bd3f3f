//! Limits on tokens: login URLs, and the issuers of sealed tokens.

use super::*;

fn without_urls(rule: RuleSettings) -> RuleSettings {
    RuleSettings { login_urls: false, ..rule }
}

fn issued_by(globs: &[&str], rule: RuleSettings) -> RuleSettings {
    RuleSettings { issued_by: Some(texts(globs)), ..rule }
}

/// Returns kind, issuers, users, and the issuer of the example of calls that are opened, and of quotas
/// that are changed.
fn compared(old: Vec<RuleSettings>, new: Vec<RuleSettings>) -> (Vec<String>, Vec<String>) {
    of_configs(&Config::new(old), &Config::new(new))
}

fn of_configs(old: &Config, new: &Config) -> (Vec<String>, Vec<String>) {
    let Comparison { opened, quotas, .. } = compare(old.side(), new.side()).expect("few rules");
    let text = |calls: &Calls, example: &Example| {
        let issuers = calls.issuers.as_ref().map_or_else(|| "any".to_owned(), ToString::to_string);
        let issuer = example.issued_by.as_deref().unwrap_or("-");
        format!("{} / {issuers} / {} / {issuer}", calls.kind, calls.users)
    };
    let opened = opened.iter().map(|opening| text(&opening.calls, &opening.example));
    let quotas = quotas.iter().map(|change| text(&change.calls, &change.example));
    (opened.collect(), quotas.collect())
}

fn opened(old: &RuleSettings, new: &RuleSettings) -> Vec<String> {
    let (opened, quotas) = compared(vec![old.clone()], vec![new.clone()]);
    assert_eq!(quotas, [""; 0]);
    opened
}

#[test]
fn only_calls_with_a_login_url_are_opened() {
    let all = rule(&["dns:a"], &["all"]);
    let limited = without_urls(all.clone());
    assert_eq!(opened(&limited, &all), ["IssueOtt with a login URL / any / all / -"]);
    assert_eq!(opened(&all, &limited), [""; 0]);
    assert_eq!(opened(&limited, &limited), [""; 0]);
    // Calls with and without one are reported once if they are otherwise the same.
    let other = rule(&["dns:b"], &["all"]);
    let (found, _) = compared(vec![limited.clone()], vec![limited.clone(), other.clone()]);
    assert_eq!(found, ["IssueOtt / any / all / -", "LoginWithOtt / any / all / -"]);
    let (found, _) = compared(vec![limited.clone()], vec![limited.clone(), without_urls(other)]);
    assert_eq!(found, ["IssueOtt without a login URL / any / all / -", "LoginWithOtt / any / all / -"]);
    // A rule for other calls in between.
    let some = rule(&["dns:a"], &["login:*"]);
    let (found, _) = compared(vec![limited.clone(), some.clone()], vec![all.clone()]);
    assert_eq!(found, ["IssueOtt with a login URL / any / all except login:* / -"]);
}

#[test]
fn only_logins_with_tokens_of_other_issuers_are_opened() {
    let all = rule(&["dns:a"], &["all"]);
    let narrow = issued_by(&["spiffe://td/ns/a/*"], all.clone());
    let wide = issued_by(&["spiffe://td/*", "token:ci"], all.clone());
    assert_eq!(opened(&wide, &narrow), [""; 0]);
    assert_eq!(
        opened(&narrow, &wide),
        ["LoginWithOtt with a sealed token / spiffe://td/*, token:ci except spiffe://td/ns/a/* / all / \
             spiffe://td/x"]
    );
    assert_eq!(
        opened(&wide, &all),
        [
            "LoginWithOtt with a token that is not sealed / any / all / -",
            "LoginWithOtt with a sealed token / *, anonymous except spiffe://td/*, token:ci / all / spiffe://x/x"
        ]
    );
    // No glob matches `anonymous`.
    let identified = issued_by(&["*"], all.clone());
    let everyone = issued_by(&["*", "anonymous"], all.clone());
    assert_eq!(
        opened(&identified, &everyone),
        ["LoginWithOtt with a sealed token / anonymous / all / anonymous"]
    );
    assert_eq!(
        opened(&everyone, &all),
        ["LoginWithOtt with a token that is not sealed / any / all / -"],
        "a token that is not sealed has no issuer"
    );
    assert_eq!(opened(&all, &everyone), [""; 0]);
    // Several rules that together are for all issuers, in any order.
    let parts = ["spiffe://*", "dns:*", "anonymous", "jwt:*", "token:*"];
    let parts: Vec<RuleSettings> = parts.iter().map(|glob| issued_by(&[glob], all.clone())).collect();
    assert_eq!(compared(parts, vec![everyone]).0, [""; 0]);
}

/// A sealed token may have been issued by a gateway with other tokens and JWT issuers.
#[test]
fn issuers_need_not_be_configured() {
    let by = |glob: &str| {
        let config = Config::new(vec![issued_by(&[glob], rule(&["dns:a"], &["all"]))]);
        Config { tokens: vec!["a"], jwt_issuers: Some(vec!["k8s"]), ..config }
    };
    let issuers = |old: &Config, new: &Config| -> Vec<String> {
        let compared = compare(old.side(), new.side()).expect("few rules");
        compared.opened.iter().filter_map(|opening| opening.example.issued_by.clone()).collect()
    };
    assert_eq!(issuers(&by("token:a"), &by("token:*")), ["token:x"]);
    assert_eq!(issuers(&by("jwt:k8s:*"), &by("jwt:*")), ["jwt:x"]);
    assert_eq!(issuers(&by("token:*"), &by("token:*")), [""; 0]);
    let long = "a".repeat(255);
    assert_eq!(issuers(&by("token:b"), &by(&format!("token:{long}?"))), [""; 0]);
    assert_eq!(issuers(&by("token:b"), &by(&format!("token:{long}*"))), [format!("token:{long}")]);
}

#[test]
fn calls_without_a_difference_are_reported_once() {
    let limited = issued_by(&["dns:f"], without_urls(rule(&["dns:z"], &["all"])));
    let (old, new) = (vec![limited.clone()], vec![limited, rule(&["dns:a"], &["login:*"])]);
    let (found, _) = compared(old, new);
    assert_eq!(found, ["IssueOtt / any / login:* / -", "LoginWithOtt / any / login:* / -"]);
}

/// Only a sealed token contains its user, on which the first rule that allows the call depends.
#[test]
fn changed_quotas_of_sealed_logins_depend_on_the_user() {
    let of = |burst| {
        let first = RuleSettings { burst: number(burst), ..rule(&["dns:a"], &["login:*"]) };
        let methods = Some(vec![Method::LoginWithOtt]);
        let rules = vec![RuleSettings { methods: methods.clone(), ..first }, rule(&["dns:a"], &["all"])];
        Config { has_token_binding: true, ..Config::new(rules) }
    };
    let (old, new) = (of(5), of(6));
    let (opened, quotas) = of_configs(&old, &new);
    assert_eq!(opened, [""; 0]);
    assert_eq!(
        quotas,
        [
            "LoginWithOtt with a token that is not sealed / any / all / -",
            "LoginWithOtt with a sealed token / any / login:* / spiffe://x/x"
        ]
    );
    // Without keys, there are no sealed tokens.
    let unbound = Config { has_token_binding: false, ..old };
    assert_eq!(of_configs(&unbound, &new).1, ["LoginWithOtt / any / all / -"]);
    // The rules that limit tokens take from quotas of their own.
    let limited = |burst| {
        let limited = issued_by(&["dns:f"], rule(&["dns:a"], &["login:*"]));
        vec![RuleSettings { burst: number(burst), ..limited }, rule(&["dns:a"], &["all"])]
    };
    let login = |rules: Vec<RuleSettings>| -> Vec<RuleSettings> {
        let methods = Some(vec![Method::LoginWithOtt]);
        rules.into_iter().map(|rule| RuleSettings { methods: methods.clone(), ..rule }).collect()
    };
    let (_, quotas) = compared(login(limited(5)), login(limited(6)));
    assert_eq!(quotas, ["LoginWithOtt with a sealed token / dns:f / login:* / dns:f"]);
}

//! Rules that never decide.

use super::*;

fn covered(rules: Vec<RuleSettings>) -> Vec<(usize, Vec<usize>)> {
    let covered = covered_rules(Config::new(rules).side()).expect("few rules");
    covered.into_iter().map(|covered| (covered.rule, covered.by)).collect()
}

#[test]
fn rule_that_earlier_rules_cover_is_found_with_them() {
    let all = || rule(&["*"], &["all"]);
    assert_eq!(covered(vec![all(), rule(&["dns:a"], &["login:a"])]), [(2, vec![1])]);
    assert_eq!(covered(vec![rule(&["dns:a"], &["login:a"]), all()]), []);
    // No glob matches `anonymous`.
    assert_eq!(covered(vec![all(), rule(&["anonymous"], &["login:a"])]), []);
    let issue = RuleSettings { methods: Some(vec![Method::IssueOtt]), ..all() };
    let login = RuleSettings { methods: Some(vec![Method::LoginWithOtt]), ..all() };
    assert_eq!(covered(vec![issue.clone(), rule(&["dns:a"], &["all"])]), []);
    let unrelated = rule(&["jwt:z"], &["login:q"]);
    assert_eq!(covered(vec![issue, unrelated, login, rule(&["dns:a"], &["all"])]), [(4, vec![1, 3])]);
    let by_client = |client: &str| RuleSettings { api_clients: Some(texts(&[client])), ..all() };
    assert_eq!(covered(vec![by_client("eu"), by_client("us"), all()]), [(3, vec![1, 2])]);
}

#[test]
fn rules_with_different_users_or_claims_both_decide() {
    let with_claims = RuleSettings { claims: vec![requirement("g", &["a"])], ..rule(&["jwt:*"], &["all"]) };
    assert_eq!(covered(vec![with_claims.clone(), rule(&["jwt:*"], &["all"])]), []);
    assert_eq!(covered(vec![rule(&["jwt:*"], &["all"]), with_claims]), [(2, vec![1])]);
    assert_eq!(covered(vec![rule(&["dns:a"], &["login:a"]), rule(&["dns:a"], &["login:b"])]), []);
}

#[test]
fn search_that_would_take_too_long_is_abandoned() {
    let rules = (0..4000).map(|n| {
        let users = [format!("login:*{n}*"), format!("login:*x{n}*"), format!("login:*y{n}*z")];
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        rule(&["*"], &users)
    });
    assert_eq!(covered_rules(Config::new(rules.collect()).side()), None);
}

/// A rule that limits the use of tokens covers only the calls that it allows.
#[test]
fn rules_that_limit_tokens_cover_only_their_calls() {
    let all = || rule(&["*"], &["all"]);
    let without_urls = || RuleSettings { login_urls: false, ..all() };
    let by = |globs: &[&str]| RuleSettings { issued_by: Some(texts(globs)), ..all() };
    let only = |method, rule: RuleSettings| RuleSettings { methods: Some(vec![method]), ..rule };
    let (issue, login) = (Method::IssueOtt, Method::LoginWithOtt);
    assert_eq!(covered(vec![without_urls(), all()]), []);
    assert_eq!(covered(vec![by(&["*"]), all()]), []);
    assert_eq!(covered(vec![without_urls(), only(issue, all())]), []);
    assert_eq!(covered(vec![by(&["*"]), only(login, all())]), []);
    assert_eq!(covered(vec![without_urls(), only(login, all())]), [(2, vec![1])]);
    assert_eq!(covered(vec![by(&["*"]), only(issue, all())]), [(2, vec![1])]);
    assert_eq!(covered(vec![all(), without_urls(), by(&["*"])]), [(2, vec![1]), (3, vec![1])]);
    // Each covers what is no wider.
    assert_eq!(covered(vec![without_urls(), without_urls()]), [(2, vec![1])]);
    assert_eq!(covered(vec![by(&["dns:*"]), by(&["dns:a"])]), [(2, vec![1])]);
    assert_eq!(covered(vec![by(&["dns:a"]), by(&["dns:*"])]), []);
    assert_eq!(covered(vec![by(&["*"]), by(&["anonymous"])]), []);
    let parts = vec![by(&["spiffe://*", "dns:*"]), by(&["anonymous"]), by(&["token:*", "jwt:*"])];
    let with = |last: RuleSettings| covered([parts.clone(), vec![last]].concat());
    assert_eq!(with(only(login, by(&["*", "anonymous"]))), [(4, vec![1, 2, 3])]);
    // A token that is not sealed.
    assert_eq!(with(only(login, all())), []);
}

/// Each rule overlaps all others, because a token can have several namespaces.
#[test]
fn many_rules_with_different_claims_are_checked() {
    let namespace = |n: usize| RuleSettings {
        claims: vec![requirement("kubernetes.io/namespace", &[&format!("ns{n}")])],
        ..rule(&["jwt:*"], &["all"])
    };
    assert_eq!(covered((0..1_000).map(namespace).collect()), []);
    assert_eq!(covered((0..300).map(|n| namespace(n % 299)).collect()), [(300, vec![1])]);
}

//! Reports are in the words of the rules.

use super::*;

/// Returns callers, users and examples of the opened calls of `IssueOtt`.
fn opened(old: Vec<RuleSettings>, new: Vec<RuleSettings>) -> Vec<[String; 4]> {
    let (old, new) = (Config::new(old), Config::new(new));
    let compared = compare(old.side(), new.side()).expect("few rules");
    let issued = compared.opened.iter().filter(|opening| opening.calls.kind == CallKind::Issue);
    issued
        .map(|opening| {
            let user = opening.example.user.clone().expect("a user");
            [
                opening.calls.callers.to_string(),
                opening.calls.users.to_string(),
                opening.example.caller.clone(),
                user,
            ]
        })
        .collect()
}

fn rows(rows: &[[&str; 4]]) -> Vec<[String; 4]> {
    rows.iter().map(|row| row.map(str::to_owned)).collect()
}

#[test]
fn only_the_new_part_of_a_pattern_is_opened() {
    let old = vec![rule(&["spiffe://td/ns/a/*"], &["login:*@a.example"])];
    assert_eq!(opened(old.clone(), old.clone()), rows(&[]));
    assert_eq!(
        opened(old.clone(), vec![rule(&["spiffe://td/ns/*"], &["login:*@a.example"])]),
        rows(&[[
            "spiffe://td/ns/* except spiffe://td/ns/a/*",
            "login:*@a.example",
            "spiffe://td/ns/x",
            "login:x@a.example"
        ]])
    );
    assert_eq!(
        opened(old.clone(), vec![rule(&["spiffe://td/ns/a/*"], &["login:*@a.example", "login:*@b.example"])]),
        rows(&[["spiffe://td/ns/a/*", "login:*@b.example", "spiffe://td/ns/a/x", "login:x@b.example"]])
    );
    // A narrower rule opens nothing, and neither do two rules that together allow the same.
    assert_eq!(
        opened(old.clone(), vec![rule(&["spiffe://td/ns/a/sa/x"], &["login:*@a.example"])]),
        rows(&[])
    );
    let split = vec![
        rule(&["spiffe://td/ns/a/*"], &["login:x*@a.example"]),
        rule(&["spiffe://td/ns/a/*"], &["login:*@a.example"]),
    ];
    assert_eq!(opened(old, split), rows(&[]));
}

#[test]
fn equal_calls_in_other_words_are_not_opened() {
    let both = |one: &[&str], other: &[&str]| {
        let (old, new) = (vec![rule(&["dns:a"], one)], vec![rule(&["dns:a"], other)]);
        opened(old.clone(), new.clone()).is_empty() && opened(new, old).is_empty()
    };
    assert!(both(&["login:Anna@Shop.example"], &["login:anna@shop.example"]));
    assert!(both(
        &["user_id:3F2504E04F8911D39A0C0305E82C3301"],
        &["user_id:3f2504e0-4f89-11d3-9a0c-0305e82c3301"]
    ));
    assert!(both(&["login:*"], &["login:?", "login:??*"]));
    assert!(!both(&["external_id:A"], &["external_id:a"]));
    // No user id that is a UUID has a capital letter in canonical form, but others may.
    assert!(!both(&["user_id:3F*"], &["user_id:3f*"]));
}

#[test]
fn all_users_are_more_than_all_patterns() {
    let patterns = ["login:*", "external_id:*", "user_id:*"];
    let (old, new) = (vec![rule(&["dns:a"], &patterns)], vec![rule(&["dns:a"], &["all"])]);
    let [callers, users, _, user] = opened(old, new).pop().expect("opened");
    assert_eq!(callers, "dns:a");
    assert!(users.contains("forms of ASCII characters"), "{users}");
    assert_eq!(subject(&user).form(), None);
}

#[test]
fn token_or_api_client_of_only_one_file_is_opened_by_it() {
    let rules = vec![rule(&["token:*"], &["all"])];
    let (old, mut new) = (Config::new(rules.clone()), Config::new(rules));
    new.tokens.push("new");
    let compared = compare(old.side(), new.side()).expect("few rules");
    assert_eq!(compared.opened[0].calls.callers.to_string(), "token:new");
    assert_eq!(compared.opened[0].example.caller, "token:new");

    let mut new = old.clone();
    new.api_clients.push("apac");
    let compared = compare(old.side(), new.side()).expect("few rules");
    assert_eq!(compared.opened[0].calls.api_clients.as_deref(), Some(&["apac".to_owned()][..]));
    assert_eq!(compared.opened[0].example.api_client.as_deref(), Some("apac"));
    assert!(compared.closed.is_empty());
}

#[test]
fn rule_without_its_claims_is_opened_to_callers_without_them() {
    let with = |claims| RuleSettings { claims, ..rule(&["*"], &["all"]) };
    let both = vec![requirement("groups", &["admins", "ops"]), requirement("ns", &["a"])];
    let one = vec![requirement("groups", &["admins"])];
    let compared = |old: &[ClaimRequirement], new: &[ClaimRequirement]| {
        let (old, new) = (Config::new(vec![with(old.to_vec())]), Config::new(vec![with(new.to_vec())]));
        compare(old.side(), new.side()).expect("few rules").opened
    };
    let opened = compared(&both, &one);
    assert_eq!(opened[0].calls.callers.to_string(), "jwt:*");
    assert_eq!(opened[0].calls.claims, ["groups = \"admins\""]);
    let [without] = &*opened[0].calls.without_claims else { panic!("{opened:?}") };
    assert_eq!(**without, ["groups = \"admins\" or \"ops\"", "ns = \"a\""]);
    assert_eq!(opened[0].example.claims.iter().count(), 1);
    assert_eq!(compared(&[], &one), []);
    // Callers that are proven otherwise never have claims.
    let callers: Vec<String> =
        compared(&one, &[]).iter().map(|opening| opening.calls.callers.to_string()).collect();
    assert!(callers.contains(&"* except jwt:*".to_owned()), "{callers:?}");
}

#[test]
fn logins_that_have_another_canonical_form_are_not_opened() {
    let opened = |old: &[&str], new: &[&str]| -> Vec<String> {
        let rows = opened(vec![rule(&["dns:a"], old)], vec![rule(&["dns:a"], new)]);
        rows.into_iter().map(|[_, _, _, user]| user).collect()
    };
    // An `a` with an acute is one character.
    assert_eq!(opened(&["login:a?*\u{301}"], &["login:a*\u{301}"]), [""; 0]);
    assert_eq!(opened(&["login:b"], &["login:b", "login:e\u{323}\u{301}"]), ["login:\u{1eb9}\u{301}"]);
    // Only the mark itself is no longer than a mark.
    assert_eq!(opened(&["login:*?\u{301}"], &["login:*\u{301}"]), ["login:\u{301}"]);
    assert_eq!(opened(&["login:b"], &["login:?\u{301}"]), ["login:x\u{301}"]);
    // Jamo compose with each other.
    assert_eq!(opened(&["login:b"], &["login:\u{1100}*\u{1161}"]), ["login:\u{1100}x\u{1161}"]);
    // Marks are in canonical order: below before above.
    assert_eq!(opened(&["login:b"], &["login:x\u{301}*\u{323}"]), ["login:x\u{301}x\u{323}"]);
    let all_marked = ["login:x\u{301}\u{323}", "login:?\u{301}", "login:\u{301}*"];
    assert_eq!(opened(&all_marked, &["login:?\u{301}"]), [""; 0]);
    for user in opened(&["login:?"], &["login:?*\u{301}", "login:*\u{1161}*", "login:*\u{9be}"]) {
        let written = subject(&user);
        assert_eq!(written.canonical(), written.as_sent());
    }
}

#[test]
fn lists_are_not_repeated() {
    let new = vec![rule(&["jwt:*a*"], &["login:*a*"])];
    let old =
        ["jwt:*b*", "jwt:*c*", "jwt:*b*d*"].map(|callers| rule(&[callers], &["login:*b*", "login:*c*"]));
    let compared = compare(Config::new(old.to_vec()).side(), Config::new(new).side()).expect("few rules");
    for opening in compared.opened.iter().chain(&compared.closed) {
        for names in [&opening.calls.callers, &opening.calls.users] {
            let mut lists: Vec<_> = names.and.iter().chain([&names.any_of]).collect();
            lists.sort();
            lists.dedup();
            assert_eq!(lists.len(), names.and.len() + 1, "{names}");
            let except: HashSet<_> = names.except.iter().collect();
            assert_eq!(except.len(), names.except.len(), "{names}");
        }
    }
    let claims = |groups: &[&str]| RuleSettings {
        claims: vec![requirement("g", groups), requirement("n", &["a"])],
        ..rule(&["jwt:*"], &["all"])
    };
    let mut old = Config::new(vec![claims(&["a", "b"])]);
    let new = Config::new(vec![claims(&["a"])]);
    old.access.rules[0].burst = number(7);
    let compared = compare(old.side(), new.side()).expect("few rules");
    assert_eq!(compared.quotas[0].calls.claims, ["g = \"a\"", "n = \"a\""]);
}

#[test]
fn changed_quotas_are_reported_with_both_rules() {
    let old = Config::new(vec![rule(&["dns:a"], &["login:*"]), rule(&["dns:*"], &["all"])]);
    let mut new = old.clone();
    new.access.rules[1].burst = number(7);
    new.access.rules[1].max_in_flight = Some(number(3));
    new.access.quotas = crate::access::Quotas::DryRun;
    let compared = compare(old.side(), new.side()).expect("few rules");
    assert!(compared.opened.is_empty() && compared.closed.is_empty());
    let change = &compared.quotas[0];
    assert_eq!((change.old_rule.number, change.new_rule.number), (2, 2));
    assert_eq!(change.changes, [Change { key: "burst", old: "100".to_owned(), new: "7".to_owned() }]);
    // The first rule still decides on logins of dns:a.
    let calls: Vec<String> = compared
        .quotas
        .iter()
        .map(|change| format!("{} / {}", change.calls.callers, change.calls.users))
        .collect();
    assert_eq!(calls[0], "dns:* except dns:a / all");
    assert_eq!(calls[1], "dns:a / all except login:*");
    assert!(compared.quotas.iter().any(|change| change.changes[0].key == "max_in_flight"));
    assert_eq!(compared.settings[0].key, "quota_dry_run");
}

#[test]
fn respelled_patterns_are_reported() {
    let config = Config::new(vec![rule(
        &["dns:a"],
        &["login:*@Shop.example", "login:b", "user_id:AB*", "external_id:A"],
    )]);
    let compared = compare(config.side(), config.side()).expect("few rules");
    let respelled: Vec<(&str, &str)> =
        compared.respelled.iter().map(|it| (it.written.as_str(), it.compared.as_str())).collect();
    let expected = [("login:*@Shop.example", "login:*@shop.example"), ("user_id:AB*", "user_id:ab*")];
    assert_eq!(respelled, [expected, expected].concat());
}

#[test]
fn globs_that_explode_are_an_error_that_names_them() {
    // A shortest name of all of these patterns of one rule and none of the others is far away.
    let hard = |n: usize| {
        let globs: Vec<String> = (0..24).map(|at| format!("login:*{at}{n}*{n}{at}*{at}x{n}*")).collect();
        globs
    };
    let old: Vec<RuleSettings> = (0..200)
        .map(|n| {
            let callers = format!("jwt:*{n}*");
            let users = hard(n);
            let users: Vec<&str> = users.iter().map(String::as_str).collect();
            rule(&[&callers], &users)
        })
        .collect();
    let mut new: Vec<RuleSettings> = old.iter().rev().cloned().collect();
    for rule in &mut new {
        rule.burst = number(7);
    }
    let (old, new) = (Config::new(old), Config::new(new));
    let error = compare_within(Budget::new(2_000_000), old.side(), new.side())
        .expect_err("too many combinations")
        .to_string();
    for part in ["rule ", "of the new file", "login:*", "use fewer `*`"] {
        assert!(error.contains(part), "{error}");
    }
}

//! Large files are compared within a limited number of steps, which bounds time and memory on any
//! machine. A step takes about ten nanoseconds in a release build.

use super::*;

fn compared(
    steps: u64,
    rules: impl Iterator<Item = (RuleSettings, RuleSettings)>,
) -> Result<Comparison, TooComplex> {
    let (old, new): (Vec<_>, Vec<_>) = rules.unzip();
    compare_within(Budget::new(steps), Config::new(old).side(), Config::new(new).side())
}

fn namespace(callers: &str, logins: &str) -> RuleSettings {
    rule(&[&format!("spiffe://example.org/ns/{callers}/sa/*")], &[&format!("login:*@{logins}.example")])
}

fn numbers(opened: &[Opening]) -> Vec<usize> {
    let mut numbers: Vec<usize> = opened.iter().map(|opening| opening.rule.number).collect();
    numbers.dedup();
    numbers
}

/// Rules that have nothing to do with each other.
#[test]
fn unrelated_rules_cost_little() {
    const RULES: usize = 1_000;
    let of = |n: usize| namespace(&format!("a{n}"), &format!("c{n}"));
    let same = (0..RULES).map(|n| (of(n), of(n)));
    assert_eq!(compared(200_000, same).expect("few steps").opened, []);
    let with_one_changed =
        (0..RULES).map(|n| (of(n), if n == 500 { namespace("a500", "c501") } else { of(n) }));
    let change = compared(1_000_000, with_one_changed).expect("few steps");
    assert_eq!((numbers(&change.opened), numbers(&change.closed)), (vec![501], vec![501]));
    let renamed = (0..RULES).map(|n| (of(n), namespace(&format!("b{n}"), &format!("c{n}"))));
    let change = compared(20_000_000, renamed).expect("few steps");
    assert_eq!((change.opened.len(), change.closed.len()), (2 * RULES, 2 * RULES));
}

/// Each of these rules can allow a call together with any other one, because a claim can have several
/// values.
#[test]
fn rules_that_differ_in_claims_only_are_not_multiplied() {
    const RULES: usize = 300;
    let with = |claims| RuleSettings { claims, ..rule(&["jwt:*"], &["all"]) };
    let account = |n: usize, account: usize| {
        with(vec![requirement("ns", &[&format!("n{n}")]), requirement("sa", &[&format!("s{account}")])])
    };
    let change =
        compared(20_000_000, (0..RULES).map(|n| (account(n, n), account(n, n + 1)))).expect("few steps");
    assert_eq!((change.opened.len(), change.closed.len()), (2 * RULES, 2 * RULES));
    let last = change.opened.last().expect("opened");
    assert_eq!(last.calls.without_claims.len(), 2 * RULES - 1);
    assert_eq!(last.example.claims.iter().count(), 2);
    let group =
        |n: usize, value: usize| with(vec![requirement(&format!("g{}", n % 60), &[&format!("v{value}")])]);
    let change = compared(20_000_000, (0..RULES).map(|n| (group(n, n), group(n, n + 1)))).expect("few steps");
    assert_eq!((change.opened.len(), change.closed.len()), (2 * RULES, 2 * RULES));
}

/// Teams with several callers and customers, some of which they share.
#[test]
fn rules_that_share_entries_are_split_into_few_boxes() {
    const RULES: usize = 200;
    let team = |n: usize, step: usize| {
        let callers: Vec<String> =
            (0..4).map(|at| format!("spiffe://example.org/ns/t{}/sa/*", (n * step + at * 7) % 60)).collect();
        let users: Vec<String> =
            (0..4).map(|at| format!("login:*@c{}.example", (n * step + at * 11) % 90)).collect();
        rule(
            &callers.iter().map(String::as_str).collect::<Vec<_>>(),
            &users.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    };
    let change = compared(20_000_000, (0..RULES).map(|n| (team(n, 3), team(n, 5)))).expect("few steps");
    assert!(!change.opened.is_empty() && change.opened.len() < 16 * 2 * RULES, "{}", change.opened.len());
}

#[test]
fn changed_quotas_of_all_rules_are_found_in_few_steps() {
    const RULES: usize = 1_000;
    let of = |n: usize, burst| RuleSettings { burst: number(burst), ..namespace(&format!("a{n}"), "c") };
    let change = compared(20_000_000, (0..RULES).map(|n| (of(n, 5), of(n, 6)))).expect("few steps");
    assert_eq!(change.quotas.len(), 2 * RULES);
    // Different quotas that do not change.
    let burst = |n: usize| u32::try_from(n + 1).expect("a small number");
    let change =
        compared(20_000_000, (0..RULES).map(|n| (of(n, burst(n)), of(n, burst(n))))).expect("few steps");
    assert_eq!(change.quotas, []);
}

#[test]
fn report_with_too_many_entries_is_an_error() {
    let of = |n: usize| namespace(&format!("a{n}"), "c");
    let (old, new) = (Config::new(vec![of(0)]), Config::new((0..100).map(of).collect()));
    let within = |entries| compare_within(Budget::with_entries(u64::MAX, entries), old.side(), new.side());
    assert_eq!(within(10_000).expect("few entries").opened.len(), 2 * 99);
    assert!(within(1_000).is_err());
}

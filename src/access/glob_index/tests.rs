use std::cell::Cell;

use proptest::prelude::*;
use wildmatch::WildMatch;

use super::*;

thread_local! {
    /// Number of characters read at nodes on this thread.
    pub(super) static READ: Cell<usize> = const { Cell::new(0) };
}

fn index(globs: &[impl AsRef<str>]) -> GlobIndex {
    let globs: Vec<_> = globs.iter().enumerate().map(|(rule, glob)| (glob.as_ref(), rule)).collect();
    GlobIndex::new(&globs)
}

/// The rules whose globs match, with one glob per rule, and the number of characters read at nodes.
fn found(index: &GlobIndex, rules: usize, text: &str) -> (Vec<usize>, usize) {
    READ.set(0);
    let mut found = RuleSet::none(rules);
    index.find(text, &mut found);
    ((0..rules).filter(|rule| found.contains(*rule)).collect(), READ.get())
}

#[test]
fn globs_are_found_with_wildcards_at_any_position() {
    let globs = [
        "jwt:portal",
        "jwt:*",
        "*",
        "jwt:p*",
        "jwt:port*l",
        "*tal",
        "?wt:portal",
        "jwt:portal*",
        "jwt:portal?",
        "spiffe://td/*",
        "*:*",
        "",
        "**",
        "jwt:port??",
    ];
    let index = index(&globs);
    let matching = |text| found(&index, globs.len(), text).0;
    assert_eq!(matching("jwt:portal"), [0, 1, 2, 3, 4, 5, 6, 7, 10, 12, 13]);
    assert_eq!(matching("jwt:portals"), [1, 2, 3, 7, 8, 10, 12]);
    assert_eq!(matching("spiffe://td/a"), [2, 9, 10, 12]);
    assert_eq!(matching("spiffe://td"), [2, 10, 12]);
    assert_eq!(matching("zzz"), [2, 12]);
    assert_eq!(matching(""), [2, 11, 12]);
}

/// A family of numbered globs, and a text that matches one of a thousand.
type Kind = (fn(usize) -> String, &'static str);

const KINDS: [Kind; 14] = [
    (|n| format!("jwt:{n}"), "jwt:999"),
    (|n| format!("spiffe://td/ns/{n}/*"), "spiffe://td/ns/999/sa/portal"),
    (|n| format!("spiffe://td/ns/{n}/sa/?"), "spiffe://td/ns/999/sa/p"),
    (|n| format!("*@customer{n}.example"), "john@customer999.example"),
    (|n| format!("jwt:*-{n}"), "jwt:portal-999"),
    (|n| format!("j*n@customer{n}.example"), "john@customer999.example"),
    (|n| format!("*/ns-{n}/*"), "spiffe://td/ns-999/sa/portal"),
    (|n| format!("*-{n}-staging-*"), "jwt:portal-999-staging-eu2"),
    (|n| format!("*staging*/ns-{n}/*"), "spiffe://staging.example/ns-999/sa/portal"),
    (|n| format!("spiffe://*/ns-{n}/*/portal"), "spiffe://staging.example/ns-999/sa/portal"),
    (|n| format!("*/ns-{n}?/*"), "spiffe://td/ns-999x/sa/portal"),
    (|n| format!("??????://*/n?-{n}/**"), "spiffe://td/ns-999/sa/portal"),
    (|n| format!("*{n}*staging*staging*"), "999-staging-staging"),
    (|n| format!("*{n}/*/*"), "spiffe://999/sa/portal"),
];

#[test]
fn globs_that_do_not_match_cost_almost_nothing() {
    const RULES: usize = 1000;
    for (glob, text) in KINDS {
        let one = found(&index(&[glob(999)]), 1, text);
        let index = index(&(0..RULES).map(glob).collect::<Vec<_>>());
        let all = found(&index, RULES, text);
        assert_eq!((one.0, all.0.last()), (vec![0], Some(&999)), "{text}");
        // Globs are followed along common prefixes and suffixes of their numbers.
        assert!(all.1 <= 3 * one.1, "{}: {} for one glob, {} for all", glob(999), one.1, all.1);
        assert_eq!(found(&index, RULES, "dns:other").0, [0; 0]);
    }
    // A thousand rules with the same glob share one.
    let same = index(&vec!["jwt:p?rtal"; RULES]);
    assert_eq!(found(&same, RULES, "jwt:portal"), ((0..RULES).collect(), 10));
}

#[test]
fn time_is_linear_in_the_length_of_the_text() {
    for (glob, _) in KINDS {
        let globs: Vec<_> = (0..1000).map(glob).collect();
        let index = index(&globs);
        for part in ["a", "-", "/", "99", "-9", "/ns-9", "staging", "j", "@customer9"] {
            let read = |times| found(&index, 1000, &format!("spiffe://{}", part.repeat(times))).1;
            let (short, long) = (read(100), read(200));
            assert!(
                long <= 2 * short + 16,
                "{} and {part}: {short} for a text, {long} for a longer one",
                globs[0]
            );
            assert!(short <= 8 * (9 + 100 * part.len()), "{} and {part}: {short}", globs[0]);
        }
    }
}

#[test]
fn adjacent_wildcards_are_equal_in_any_order() {
    for (one, other) in [("*?*?", "??*"), ("a**?b", "a?*b"), ("?**a***", "*?a*")] {
        assert_eq!(glob_tokens(one), glob_tokens(other));
    }
    assert_ne!(glob_tokens("??"), glob_tokens("?*"));
}

/// Parts of names and globs. The first four occur only in globs.
const PARTS: [&str; 11] = ["*", "?", "**", "?*", "a", "aa", "ab", "ba", "/staging/", "sta", "\u{e4}"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn index_finds_exactly_the_matching_globs(
        globs in prop::collection::vec("[ab\u{e4}*?]{0,6}", 1..80),
        text in "[ab\u{e4}]{0,8}",
    ) {
        let rules = globs.len();
        let expected: Vec<usize> = (0..rules).filter(|&rule| WildMatch::new(&globs[rule]).matches(&text)).collect();
        prop_assert_eq!(found(&index(&globs), rules, &text).0, expected);
    }

    #[test]
    fn index_finds_exactly_the_matching_long_globs(
        globs in prop::collection::vec(prop::collection::vec(prop::sample::select(PARTS.to_vec()), 0..9), 1..60),
        text in prop::collection::vec(prop::sample::select(PARTS[4..].to_vec()), 0..14),
    ) {
        let globs: Vec<String> = globs.iter().map(|parts| parts.concat()).collect();
        let text = text.concat();
        let rules = globs.len();
        let expected: Vec<usize> = (0..rules).filter(|&rule| WildMatch::new(&globs[rule]).matches(&text)).collect();
        prop_assert_eq!(found(&index(&globs), rules, &text).0, expected);
    }
}

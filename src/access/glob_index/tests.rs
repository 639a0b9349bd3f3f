use std::cell::Cell;

use proptest::prelude::*;

use super::*;

thread_local! {
    /// Globs that were compared with a whole text on this thread.
    pub(super) static TRIED: Cell<usize> = const { Cell::new(0) };
}

fn index(globs: &[impl AsRef<str>]) -> GlobIndex {
    let globs: Vec<_> = globs.iter().enumerate().map(|(rule, glob)| (glob.as_ref(), rule)).collect();
    GlobIndex::new(&globs)
}

/// The rules whose globs match, where each rule has one, and how many globs were tried for that.
fn found(index: &GlobIndex, rules: usize, text: &str) -> (Vec<usize>, usize) {
    TRIED.set(0);
    let mut found = RuleSet::none(rules);
    index.find(text, &mut found);
    ((0..rules).filter(|rule| found.contains(*rule)).collect(), TRIED.get())
}

#[test]
fn globs_are_found_by_what_they_begin_or_end_with() {
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

#[test]
fn few_of_a_thousand_globs_are_tried_on_a_text() {
    const RULES: usize = 1000;
    let with = |form: &dyn Fn(usize) -> String| index(&(0..RULES).map(form).collect::<Vec<_>>());
    for (glob, text, tried) in [
        (&(|n| format!("jwt:{n}")) as &dyn Fn(usize) -> String, "jwt:999", 0),
        (&|n| format!("spiffe://td/ns/{n}/*"), "spiffe://td/ns/999/sa/portal", 0),
        (&|n| format!("spiffe://td/ns/{n}/sa/?"), "spiffe://td/ns/999/sa/p", 1),
        (&|n| format!("*@customer{n}.example"), "john@customer999.example", 0),
        (&|n| format!("jwt:*-{n}"), "jwt:portal-999", 1),
        (&|n| format!("j*n@customer{n}.example"), "john@customer999.example", 1),
    ] {
        let index = with(glob);
        assert_eq!(found(&index, RULES, text), (vec![999], tried), "{text}");
        assert_eq!(found(&index, RULES, "dns:other"), (vec![], 0));
    }
    // A thousand rules with the same glob have one.
    let same = with(&|_| "jwt:p?rtal".to_owned());
    assert_eq!(found(&same, RULES, "jwt:portal"), ((0..RULES).collect(), 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn index_finds_exactly_the_globs_that_match(
        globs in prop::collection::vec("[ab\u{e4}*?]{0,6}", 1..80),
        text in "[ab\u{e4}]{0,8}",
    ) {
        let rules = globs.len();
        let expected: Vec<usize> = (0..rules).filter(|&rule| WildMatch::new(&globs[rule]).matches(&text)).collect();
        prop_assert_eq!(found(&index(&globs), rules, &text).0, expected);
    }
}

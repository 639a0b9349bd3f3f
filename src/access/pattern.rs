//! The names and globs of callers in rules.
//!
//! `glob_index` matches globs. Users have their own patterns ([`Users`](crate::domain::ott::Users)).

use crate::caller::{ANONYMOUS, CALLER_PREFIXES};

/// Returns whether an entry names one caller literally.
pub(super) fn is_literal(entry: &str) -> bool {
    !entry.contains(['*', '?'])
}

/// Returns whether an entry of `callers` matches a name that a caller can have.
#[must_use]
pub fn is_possible_caller(entry: &str) -> bool {
    let literal = entry.split(['*', '?']).next().unwrap_or_default();
    if entry == ANONYMOUS {
        true
    } else if literal.len() == entry.len() {
        CALLER_PREFIXES.iter().any(|prefix| literal.len() > prefix.len() && literal.starts_with(prefix))
    } else {
        CALLER_PREFIXES.iter().any(|prefix| literal.starts_with(prefix) || prefix.starts_with(literal))
    }
}

/// Returns whether an entry of `callers` certainly matches every caller that another one matches.
/// Compares the texts: a wildcard of `inner` must be covered by a single wildcard of `outer`.
pub(super) fn covers(outer: &str, inner: &str) -> bool {
    if outer == ANONYMOUS || inner == ANONYMOUS {
        // No glob matches it.
        return outer == inner;
    }
    let (outer, inner): (Vec<char>, Vec<char>) = (outer.chars().collect(), inner.chars().collect());
    let is_covered = |outer: char, inner: char| match outer {
        '?' => inner != '*',
        outer => outer == inner,
    };
    // The last `*` of `outer`, and the first character of `inner` after those that it matches.
    let mut last_run: Option<(usize, usize)> = None;
    let (mut at, mut position) = (0, 0);
    while let Some(&character) = inner.get(position) {
        match outer.get(at) {
            Some('*') => {
                last_run = Some((at, position));
                at += 1;
            }
            Some(&pattern) if is_covered(pattern, character) => {
                at += 1;
                position += 1;
            }
            _ => {
                let Some((run, end)) = last_run else { return false };
                last_run = Some((run, end + 1));
                (at, position) = (run + 1, end + 1);
            }
        }
    }
    outer.get(at..).unwrap_or_default().iter().all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wildmatch::WildMatch;

    use super::*;

    #[test]
    fn wider_entries_cover_narrower_ones() {
        for (outer, inner) in [
            ("*", "spiffe://td/a"),
            ("*", "token:*"),
            ("spiffe://td/*", "spiffe://td/ns/*"),
            ("spiffe://td/*", "spiffe://td/ns/?"),
            ("token:?", "token:a"),
            ("*a*b*", "*ab*"),
            ("token:a", "token:a"),
            ("anonymous", "anonymous"),
        ] {
            assert!(covers(outer, inner), "{outer} {inner}");
            assert!(outer == inner || !covers(inner, outer), "{inner} {outer}");
        }
        assert!(!covers("*", "anonymous") && !covers("?nonymous", "anonymous"));
    }

    proptest! {
        #[test]
        fn covered_entry_matches_nothing_else(
            outer in "[ab*?]{1,5}", inner in "[ab*?]{1,5}", texts in prop::collection::vec("[ab]{0,5}", 50),
        ) {
            if covers(&outer, &inner) {
                let (outer, inner) = (WildMatch::new(&outer), WildMatch::new(&inner));
                for text in texts.iter().filter(|text| inner.matches(text)) {
                    prop_assert!(outer.matches(text), "{}", text);
                }
            }
        }
    }
}

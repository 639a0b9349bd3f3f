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

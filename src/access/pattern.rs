//! The names of callers in rules.
//!
//! How globs are matched is in `glob_index`; users have patterns of their own
//! ([`Users`](crate::ott::Users)).

use crate::caller::{ANONYMOUS, CALLER_PREFIXES};

/// Returns whether an entry names one caller in full.
pub(super) fn is_literal(entry: &str) -> bool {
    !entry.contains(['*', '?'])
}

/// Returns whether a caller can have a name that an entry of `callers` matches.
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

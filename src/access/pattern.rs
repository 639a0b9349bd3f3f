//! The names of callers in rules.
//!
//! How globs are matched is in `glob_index`; users have patterns of their own
//! ([`Users`](crate::ott::Users)).

/// The name of a caller that nothing is known of; no glob matches it.
pub(super) const ANONYMOUS: &str = "anonymous";
/// What the names of identified callers begin with.
const CALLER_PREFIXES: [&str; 4] = ["spiffe://", "dns:", "jwt:", "token:"];

/// Whether a caller can have a name that an entry of `callers` matches.
pub(super) fn is_possible_caller(entry: &str) -> bool {
    let literal = entry.split(['*', '?']).next().unwrap_or_default();
    if entry == ANONYMOUS {
        true
    } else if literal.len() == entry.len() {
        CALLER_PREFIXES.iter().any(|prefix| literal.len() > prefix.len() && literal.starts_with(prefix))
    } else {
        CALLER_PREFIXES.iter().any(|prefix| literal.starts_with(prefix) || prefix.starts_with(literal))
    }
}

//! Matches callers and the names of API clients by globs.
//!
//! In a glob, `*` is any run of characters and `?` is one character; nothing escapes them. Users
//! are matched by [`Users`](crate::ott::Users).

use wildmatch::WildMatch;

/// The name of a caller that nothing is known of; no glob matches it.
pub(super) const ANONYMOUS: &str = "anonymous";
/// What the names of identified callers begin with.
const CALLER_PREFIXES: [&str; 4] = ["spiffe://", "dns:", "jwt:", "token:"];

/// One entry of `callers`.
#[derive(Debug)]
pub(super) enum CallerPattern {
    Anonymous,
    Identified(WildMatch),
}

impl CallerPattern {
    /// None if no caller can have such a name.
    pub(super) fn read(entry: &str) -> Option<Self> {
        if entry == ANONYMOUS {
            return Some(Self::Anonymous);
        }
        let literal = entry.split(['*', '?']).next().unwrap_or_default();
        let possible = if literal.len() == entry.len() {
            CALLER_PREFIXES.iter().any(|prefix| literal.len() > prefix.len() && literal.starts_with(prefix))
        } else {
            CALLER_PREFIXES.iter().any(|prefix| literal.starts_with(prefix) || prefix.starts_with(literal))
        };
        possible.then(|| Self::Identified(WildMatch::new(entry)))
    }

    /// Whether it is for a caller of this name.
    pub(super) fn matches(&self, caller: &str) -> bool {
        match self {
            Self::Anonymous => caller == ANONYMOUS,
            Self::Identified(glob) => caller != ANONYMOUS && glob.matches(caller),
        }
    }
}

/// The globs of a list.
pub(super) fn globs(entries: &[String]) -> Vec<WildMatch> {
    entries.iter().map(|entry| WildMatch::new(entry)).collect()
}

//! What the lists of a rule match: callers, users, and names by globs.
//!
//! Globs know `*`, any run of characters, and `?`, one character; nothing escapes
//! them. Which lists a rule has is said in `rules`.

use wildmatch::WildMatch;

use crate::ott::Subject;

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

/// The three user lists of a rule.
#[derive(Debug)]
pub(super) enum Users {
    All,
    Only { logins: Vec<WildMatch>, external_ids: Vec<WildMatch>, user_ids: Vec<WildMatch> },
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

impl Users {
    /// All users if no list is there; else only those of the lists that are.
    pub(super) fn new(
        logins: Option<&[String]>,
        external_ids: Option<&[String]>,
        user_ids: Option<&[String]>,
    ) -> Self {
        if logins.is_none() && external_ids.is_none() && user_ids.is_none() {
            return Self::All;
        }
        Self::Only {
            logins: logins.unwrap_or_default().iter().map(|entry| WildMatch::new(&fold(entry))).collect(),
            external_ids: globs(external_ids.unwrap_or_default()),
            user_ids: globs(user_ids.unwrap_or_default()),
        }
    }

    pub(super) fn contain(&self, user: &Subject) -> bool {
        match (self, user) {
            (Self::All, _) => true,
            (Self::Only { logins, .. }, Subject::Login(name)) => {
                let name = fold(name.as_str());
                logins.iter().any(|glob| glob.matches(&name))
            }
            (Self::Only { external_ids: globs, .. }, Subject::ExternalId(name))
            | (Self::Only { user_ids: globs, .. }, Subject::UserId(name)) => {
                globs.iter().any(|glob| glob.matches(name.as_str()))
            }
        }
    }
}

/// The globs of a list.
pub(super) fn globs(entries: &[String]) -> Vec<WildMatch> {
    entries.iter().map(|entry| WildMatch::new(entry)).collect()
}

/// A user's name as quotas count it: two spellings of one login are one user.
pub(super) fn counted_as(user: &Subject) -> (&'static str, String) {
    let name = user.name().as_str();
    (user.field(), if matches!(user, Subject::Login(_)) { fold(name) } else { name.to_owned() })
}

/// A login without regard to case, one character for one.
///
/// What is not ASCII never becomes ASCII (U+212A, the Kelvin sign, stays apart from
/// `k`): a rule for `support@…` must not fit a login that only looks like it.
fn fold(login: &str) -> String {
    let fold_one = |c: char| {
        let mut lower = c.to_lowercase();
        match (lower.next(), lower.next()) {
            (Some(one), None) if one.is_ascii() == c.is_ascii() => one,
            _ => c,
        }
    };
    login.chars().map(fold_one).collect()
}

//! Sets of users, as access rules name them.

use wildmatch::WildMatch;

use super::{
    canonical::{fold, folds_into_ascii, uuid},
    subject::{InvalidSubject, Subject, SubjectKind, check_characters, fold_login},
};

/// The users that an access rule is for. There is no default: a rule names its users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Users {
    /// All users.
    All,
    /// The users that one of the patterns matches.
    Listed(Vec<SubjectPattern>),
}

impl Users {
    /// Returns whether the user is one of them.
    #[must_use]
    pub fn contain(&self, user: &Subject) -> bool {
        match self {
            Self::All => true,
            Self::Listed(patterns) => patterns.iter().any(|pattern| pattern.matches(user)),
        }
    }
}

#[cfg(test)]
impl Users {
    /// Those users of one kind.
    pub(crate) fn listed(kind: SubjectKind, patterns: &[&str]) -> Self {
        let pattern = |text: &&str| SubjectPattern::new(kind, text).expect("a pattern");
        Self::Listed(patterns.iter().map(pattern).collect())
    }
}

/// A pattern of users of one kind, compared in canonical form: `*` is any run of characters,
/// `?` is one character.
///
/// Subjects with characters that are a form of ASCII characters, such as full-width letters, are
/// not matched: the platform may have another user of that name.
#[derive(Clone, Debug)]
pub struct SubjectPattern {
    kind: SubjectKind,
    text: Box<str>,
    glob: WildMatch,
    /// For user ids with wildcards: UUIDs are compared without regard to case.
    uuid_glob: Option<WildMatch>,
}

impl SubjectPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// No user can have a name that it matches.
    pub fn new(kind: SubjectKind, text: &str) -> Result<Self, InvalidSubject> {
        check_characters(kind, text)?;
        let has_wildcard = text.contains(['*', '?']);
        let (glob, uuid_glob) = match kind {
            SubjectKind::ExternalId => (WildMatch::new(text), None),
            SubjectKind::Login => {
                if folds_into_ascii(text) || text.contains(super::canonical::IDEOGRAPHIC_FULL_STOP) {
                    return Err(InvalidSubject::FormOfAscii);
                }
                (WildMatch::new(&fold_login(text)), None)
            }
            SubjectKind::UserId if has_wildcard => (WildMatch::new(text), Some(WildMatch::new(&fold(text)))),
            SubjectKind::UserId => (WildMatch::new(uuid(&fold(text)).as_deref().unwrap_or(text)), None),
        };
        Ok(Self { kind, text: text.into(), glob, uuid_glob })
    }

    /// Returns the kind of users that it matches.
    #[must_use]
    pub const fn kind(&self) -> SubjectKind {
        self.kind
    }

    /// Returns the pattern as configured.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    fn matches(&self, user: &Subject) -> bool {
        if self.kind != user.kind() || user.folds_into_ascii() {
            return false;
        }
        let uuid_glob = self.uuid_glob.as_ref().filter(|_| user.is_uuid());
        uuid_glob.unwrap_or(&self.glob).matches(user.canonical())
    }
}

/// Patterns are the same if they are configured the same.
impl PartialEq for SubjectPattern {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, &self.text) == (other.kind, &other.text)
    }
}

impl Eq for SubjectPattern {}

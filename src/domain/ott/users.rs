//! Sets of users in access rules.
//!
//! `access` matches a user against the patterns of many rules at once.

#[cfg(test)]
use wildmatch::WildMatch;

use super::{
    canonical::{fold, folds_into_ascii, uuid},
    subject::{InvalidSubject, Subject, SubjectKind, check_characters, fold_login},
};

/// The users of an access rule. There is no default: every rule names its users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Users {
    /// All users.
    All,
    /// The users that one of the patterns matches.
    Listed(Vec<SubjectPattern>),
}

#[cfg(test)]
impl Users {
    /// Returns whether the set contains the user. Checks one pattern after the other, as a
    /// reference implementation.
    pub(crate) fn contain(&self, user: &Subject) -> bool {
        match self {
            Self::All => true,
            Self::Listed(patterns) => patterns.iter().any(|pattern| pattern.matches(user)),
        }
    }

    /// Creates a set of users of one kind.
    pub(crate) fn listed(kind: SubjectKind, patterns: &[&str]) -> Self {
        let pattern = |text: &&str| SubjectPattern::new(kind, text).expect("a pattern");
        Self::Listed(patterns.iter().map(pattern).collect())
    }
}

/// A pattern for users of one kind, compared in canonical form: `*` matches any run of characters,
/// and `?` one character.
///
/// Subjects with compatibility forms of ASCII characters, such as full-width letters, are not
/// matched, because the platform may have another user of that name.
#[derive(Clone, Debug)]
pub struct SubjectPattern {
    kind: SubjectKind,
    text: Box<str>,
    glob: Box<str>,
    /// For user ids with wildcards, because UUIDs are compared case-insensitively.
    uuid_glob: Option<Box<str>>,
}

/// The form of a user in which patterns are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectForm {
    /// A folded login.
    Login,
    /// An external id.
    ExternalId,
    /// A user id that is a UUID.
    Uuid,
    /// Any other user id.
    OpaqueUserId,
}

impl SubjectPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    ///
    /// The pattern cannot match any valid name.
    pub fn new(kind: SubjectKind, text: &str) -> Result<Self, InvalidSubject> {
        check_characters(kind, text)?;
        let has_wildcard = text.contains(['*', '?']);
        let (glob, uuid_glob) = match kind {
            SubjectKind::ExternalId => (text.into(), None),
            SubjectKind::Login => {
                if folds_into_ascii(text) || text.contains(super::canonical::IDEOGRAPHIC_FULL_STOP) {
                    return Err(InvalidSubject::FormOfAscii);
                }
                (fold_login(text).into(), None)
            }
            SubjectKind::UserId if has_wildcard => (text.into(), Some(fold(text).into())),
            SubjectKind::UserId => {
                (uuid(&fold(text)).map_or_else(|| text.into(), String::into_boxed_str), None)
            }
        };
        Ok(Self { kind, text: text.into(), glob, uuid_glob })
    }

    /// Returns the kind of users that the pattern matches.
    #[must_use]
    pub const fn kind(&self) -> SubjectKind {
        self.kind
    }

    /// Returns the pattern as configured.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the globs of the pattern, each with the form of users that it applies to. In a glob,
    /// `*` matches any run of characters and `?` one character; there is no escape.
    pub fn globs(&self) -> impl Iterator<Item = (SubjectForm, &str)> {
        let glob = &*self.glob;
        let (form, uuid_glob) = match self.kind {
            SubjectKind::Login => (SubjectForm::Login, None),
            SubjectKind::ExternalId => (SubjectForm::ExternalId, None),
            SubjectKind::UserId => {
                (SubjectForm::OpaqueUserId, Some(self.uuid_glob.as_deref().unwrap_or(glob)))
            }
        };
        [(form, glob)].into_iter().chain(uuid_glob.map(|glob| (SubjectForm::Uuid, glob)))
    }

    #[cfg(test)]
    fn matches(&self, user: &Subject) -> bool {
        let is_for =
            |(form, glob)| user.form() == Some(form) && WildMatch::new(glob).matches(user.canonical());
        self.globs().any(is_for)
    }
}

impl SubjectForm {
    /// All forms.
    pub const ALL: [Self; 4] = [Self::Login, Self::ExternalId, Self::Uuid, Self::OpaqueUserId];
}

impl Subject {
    /// Returns the form of the user for patterns, or `None` if no pattern matches the user.
    #[must_use]
    pub const fn form(&self) -> Option<SubjectForm> {
        if self.folds_into_ascii() {
            return None;
        }
        Some(match self.kind() {
            SubjectKind::Login => SubjectForm::Login,
            SubjectKind::ExternalId => SubjectForm::ExternalId,
            SubjectKind::UserId if self.is_uuid() => SubjectForm::Uuid,
            SubjectKind::UserId => SubjectForm::OpaqueUserId,
        })
    }

    /// Returns whether a user with this canonical form may be one that no pattern matches: folding
    /// turned characters of its spelling into ASCII. For names of which only the canonical form is
    /// known.
    #[must_use]
    pub fn has_spellings_without_form(&self) -> bool {
        match self.kind() {
            SubjectKind::Login => self.canonical().bytes().any(|byte| byte.is_ascii()),
            SubjectKind::ExternalId => false,
            SubjectKind::UserId => self.is_uuid(),
        }
    }
}

/// Patterns are equal if their configured texts are equal.
impl PartialEq for SubjectPattern {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, &self.text) == (other.kind, &other.text)
    }
}

impl Eq for SubjectPattern {}

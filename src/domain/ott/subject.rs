//! The user that a token is for.
//!
//! A [`Subject`] has two forms: the one that the caller sent, which the platform receives
//! unchanged, and the canonical one, which rules, quotas and the audit log use. It can only be
//! created by [`Subject::new`], so that every subject has its canonical form.

use std::{borrow::Cow, sync::Arc};

use super::canonical::{
    IDEOGRAPHIC_FULL_STOP, fold, fold_visible, folds_into_ascii, is_canonical_uuid, uuid,
    uuid_of_lenient_parsers,
};
use crate::base::text::is_unprintable;

/// Maximum size of a login, an external id or a user id, as sent and in canonical form, in bytes.
pub const MAX_SUBJECT_BYTES: usize = 254;

/// The kind of name of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SubjectKind {
    /// The account's login.
    Login,
    /// The id of the account at an identity provider.
    ExternalId,
    /// The platform's own id of the account.
    UserId,
}

impl SubjectKind {
    /// Returns the name of the field, in the contract and in the platform's API.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::ExternalId => "external_id",
            Self::UserId => "user_id",
        }
    }
}

/// A user, identified by a name of one kind.
///
/// The canonical form depends on the kind:
///
/// * Logins are folded: Unicode NFKC, simple case folding, NFKC. In the domain part, an
///   ideographic full stop is a dot.
/// * User ids that are UUIDs in any spelling have the form of RFC 9562. Others are opaque and
///   unchanged.
/// * External ids are opaque and unchanged, because identity providers may distinguish case.
///
/// ```
/// use ott_gateway::domain::ott::{Subject, SubjectKind};
///
/// let user = Subject::new(SubjectKind::Login, "Anna@Customer.example".to_owned())?;
/// assert_eq!(user.as_sent(), "Anna@Customer.example");
/// assert_eq!(user.canonical(), "anna@customer.example");
/// # Ok::<(), ott_gateway::domain::ott::InvalidSubject>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    kind: SubjectKind,
    // Shared by all clones: the call, its permit and the remembered token each have one.
    canonical: Arc<str>,
    /// `None` if equal to the canonical form.
    sent: Option<Arc<str>>,
    is_uuid: bool,
    /// Whether the canonical form contains ASCII characters that were sent as other characters.
    folds_into_ascii: bool,
}

impl Subject {
    /// Validates the name of a user and creates its canonical form. Does not allocate a second text
    /// if the name is already canonical ASCII.
    ///
    /// # Errors
    ///
    /// The name is empty, longer than [`MAX_SUBJECT_BYTES`], or violates one of the other rules of
    /// [`InvalidSubject`].
    pub fn new(kind: SubjectKind, sent: String) -> Result<Self, InvalidSubject> {
        check(kind, &sent)?;
        let (canonical, is_uuid) = match kind {
            SubjectKind::ExternalId => (None, false),
            SubjectKind::Login => (changed(fold_login(&sent), &sent), false),
            SubjectKind::UserId if is_canonical_uuid(&sent) => (None, true),
            SubjectKind::UserId => match uuid(&fold(&sent)) {
                Some(uuid) => (changed(Cow::Owned(uuid), &sent), true),
                None => (None, false),
            },
        };
        let Some(canonical) = canonical else {
            return Ok(Self { kind, canonical: sent.into(), sent: None, is_uuid, folds_into_ascii: false });
        };
        // Folding can turn one character into several, including spaces.
        check(kind, &canonical)?;
        let folds_into_ascii =
            folds_into_ascii(&sent) || (kind == SubjectKind::Login && has_other_dot(&sent));
        Ok(Self { kind, canonical, sent: Some(sent.into()), is_uuid, folds_into_ascii })
    }

    /// Restores a user from what [`canonical`](Self::canonical), [`as_sent`](Self::as_sent) and
    /// [`folds_into_ascii`](Self::folds_into_ascii) returned. `sent` is `None` if it is equal to the
    /// canonical form.
    ///
    /// # Errors
    ///
    /// The name violates a rule of [`InvalidSubject`].
    pub fn restored(
        kind: SubjectKind,
        canonical: String,
        sent: Option<String>,
        folds_into_ascii: bool,
    ) -> Result<Self, InvalidSubject> {
        check(kind, &canonical)?;
        if let Some(sent) = &sent {
            check(kind, sent)?;
        }
        let is_uuid = kind == SubjectKind::UserId && is_canonical_uuid(&canonical);
        let sent = sent.map(Into::into);
        Ok(Self { kind, canonical: canonical.into(), sent, is_uuid, folds_into_ascii })
    }

    /// Returns the kind of name.
    #[must_use]
    pub const fn kind(&self) -> SubjectKind {
        self.kind
    }

    /// Returns the name of the field, in the contract and in the platform's API.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        self.kind.field()
    }

    /// Returns the name as the caller sent it, for the platform.
    #[must_use]
    pub fn as_sent(&self) -> &str {
        self.sent.as_deref().unwrap_or(&self.canonical)
    }

    /// Returns the canonical form, for all other uses.
    #[must_use]
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// Returns the key of the user's quota.
    ///
    /// It is coarser than the canonical form: external ids and opaque user ids that differ only in
    /// folding share a quota, and so do user ids that a lenient parser could read as one UUID. The
    /// platform does not document whether it distinguishes them. Coarse quota keys cannot be used
    /// to exceed a quota, and exact comparison in rules cannot be used to reach another user.
    #[must_use]
    pub fn quota_key(&self) -> QuotaKey<'_> {
        let name = match self.kind {
            SubjectKind::Login => Cow::Borrowed(&*self.canonical),
            SubjectKind::UserId if self.is_uuid => Cow::Borrowed(&*self.canonical),
            SubjectKind::ExternalId => fold(&self.canonical),
            SubjectKind::UserId => {
                let folded = fold(&self.canonical);
                uuid_of_lenient_parsers(&folded).map_or(folded, Cow::Owned)
            }
        };
        QuotaKey { kind: self.kind, name }
    }

    /// Returns whether a name of the same kind in the platform's response is this user's. `None` if
    /// the two cannot be compared.
    ///
    /// Whitespace, invisible characters and folding do not count as a difference.
    #[must_use]
    pub fn is_named(&self, found: &str) -> Option<bool> {
        match self.kind {
            SubjectKind::Login | SubjectKind::ExternalId => {
                Some(found == self.as_sent() || fold_visible(found) == fold_visible(&self.canonical))
            }
            SubjectKind::UserId => {
                let found = uuid(fold(found).trim())?;
                self.is_uuid.then(|| *found == *self.canonical)
            }
        }
    }

    /// Like [`is_named`](Self::is_named), but compares as rules do: only logins are folded, and ids that
    /// are not UUIDs are compared too.
    #[must_use]
    pub fn is_exactly_named(&self, found: &str) -> bool {
        match self.kind {
            SubjectKind::Login => self.is_named(found) == Some(true),
            SubjectKind::ExternalId => *found == *self.canonical,
            SubjectKind::UserId => self.is_named(found).unwrap_or(*found == *self.canonical),
        }
    }

    /// Returns whether it is a UUID.
    pub(super) const fn is_uuid(&self) -> bool {
        self.is_uuid
    }

    /// Returns whether the canonical form contains ASCII characters that were sent as other characters.
    #[must_use]
    pub const fn folds_into_ascii(&self) -> bool {
        self.folds_into_ascii
    }
}

/// Key of a user in quotas.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct QuotaKey<'a> {
    kind: SubjectKind,
    name: Cow<'a, str>,
}

/// Reason that a text is not a valid name of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSubject {
    /// It is empty.
    #[error("must not be empty")]
    Empty,
    /// It is longer than [`MAX_SUBJECT_BYTES`], as sent or in canonical form.
    #[error("must be at most 254 bytes long")]
    TooLong,
    /// It contains a control character.
    #[error("must not contain control characters")]
    ControlCharacter,
    /// It begins or ends with a space.
    #[error("must not begin or end with a space")]
    OuterSpace,
    /// It contains whitespace that is not a space.
    #[error("must not contain whitespace other than spaces")]
    OtherWhitespace,
    /// It contains a character that is invisible or changes the direction of the text.
    #[error("must not contain invisible characters")]
    InvisibleCharacter,
    /// The domain part of a login ends with a dot.
    #[error("must not end with a dot")]
    TrailingDot,
    /// It is a pattern with characters such as full-width letters, which can never match.
    #[error("must not contain characters that are a form of ASCII characters, such as full-width letters")]
    FormOfAscii,
}

/// Checks the rules that apply to names and patterns of a kind.
pub(super) fn check_characters(kind: SubjectKind, text: &str) -> Result<(), InvalidSubject> {
    if text.is_empty() {
        return Err(InvalidSubject::Empty);
    }
    if text.is_ascii() {
        if text.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(InvalidSubject::ControlCharacter);
        }
    } else {
        text.chars().try_for_each(check_character)?;
    }
    if text.starts_with(' ') || text.ends_with(' ') {
        return Err(InvalidSubject::OuterSpace);
    }
    let ends_with_dot = text.ends_with(['.', IDEOGRAPHIC_FULL_STOP]);
    if kind == SubjectKind::Login && ends_with_dot && text.contains('@') {
        return Err(InvalidSubject::TrailingDot);
    }
    Ok(())
}

fn check_character(character: char) -> Result<(), InvalidSubject> {
    if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
        Err(InvalidSubject::ControlCharacter)
    } else if character.is_whitespace() && character != ' ' {
        Err(InvalidSubject::OtherWhitespace)
    } else if is_unprintable(character) {
        Err(InvalidSubject::InvisibleCharacter)
    } else {
        Ok(())
    }
}

fn check(kind: SubjectKind, text: &str) -> Result<(), InvalidSubject> {
    if text.len() > MAX_SUBJECT_BYTES { Err(InvalidSubject::TooLong) } else { check_characters(kind, text) }
}

/// Folds a login. In the domain part, an ideographic full stop becomes a dot.
pub(super) fn fold_login(login: &str) -> Cow<'_, str> {
    let folded = fold(login);
    match folded.rsplit_once('@') {
        Some((local, domain)) if domain.contains(IDEOGRAPHIC_FULL_STOP) => {
            Cow::Owned(format!("{local}@{}", domain.replace(IDEOGRAPHIC_FULL_STOP, ".")))
        }
        _ => folded,
    }
}

fn has_other_dot(login: &str) -> bool {
    !login.is_ascii()
        && fold(login).rsplit_once('@').is_some_and(|(_, domain)| domain.contains(IDEOGRAPHIC_FULL_STOP))
}

fn changed(canonical: Cow<'_, str>, sent: &str) -> Option<Arc<str>> {
    if *canonical == *sent { None } else { Some(canonical.into()) }
}

#[cfg(test)]
mod tests;

//! The notation of a user in one text, for the command line and the configuration: `login:NAME`,
//! `external_id:ID` or `user_id:ID`.

use std::fmt;

use super::subject::{InvalidSubject, Subject, SubjectKind};

/// Reason that a text does not name a user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUser {
    /// The part before the colon is not the name of a kind.
    #[error("must begin with login:, external_id: or user_id:")]
    Kind {
        /// The part before the first colon.
        prefix: String,
    },
    /// The name is not valid.
    #[error(transparent)]
    Name(#[from] InvalidSubject),
}

/// Displays a user in this notation.
#[derive(Clone, Copy, Debug)]
pub struct Notation<'a> {
    kind: SubjectKind,
    name: &'a str,
}

impl fmt::Display for Notation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.field(), self.name)
    }
}

impl SubjectKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Login, Self::ExternalId, Self::UserId];
}

impl Subject {
    /// Parses a user. A text without a colon is a login. A login with a colon needs its kind, so
    /// that a misspelled kind is not taken for a part of the name.
    ///
    /// # Errors
    ///
    /// The kind is unknown, or the name is not valid.
    pub fn parse(text: &str) -> Result<Self, InvalidUser> {
        let (kind, name) = match text.split_once(':') {
            None => (SubjectKind::Login, text),
            Some((prefix, name)) => {
                let kind = SubjectKind::ALL.into_iter().find(|kind| kind.field() == prefix);
                (kind.ok_or_else(|| InvalidUser::Kind { prefix: prefix.to_owned() })?, name)
            }
        };
        Ok(Self::new(kind, name.to_owned())?)
    }

    /// Returns the user as it was written, with its kind.
    #[must_use]
    pub fn as_asked(&self) -> Notation<'_> {
        Notation { kind: self.kind(), name: self.as_sent() }
    }

    /// Returns the user in canonical form, with its kind.
    #[must_use]
    pub fn as_decided(&self) -> Notation<'_> {
        Notation { kind: self.kind(), name: self.canonical() }
    }

    /// Returns whether the canonical form differs from the one that was written.
    #[must_use]
    pub fn is_folded(&self) -> bool {
        self.as_sent() != self.canonical()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn user_without_a_kind_is_a_login() {
        let parsed = |text: &str| Subject::parse(text).unwrap().as_asked().to_string();
        assert_eq!(parsed("a@b"), "login:a@b");
        for text in ["login:a:b", "external_id:x", "user_id:1"] {
            assert_eq!(parsed(text), text);
        }
        for text in ["email:a@b", "Login:a", "user-id:1", "a:b", ":a", "login :a"] {
            assert!(matches!(Subject::parse(text), Err(InvalidUser::Kind { .. })), "{text}");
        }
        assert_eq!(Subject::parse("user_id:"), Err(InvalidUser::Name(InvalidSubject::Empty)));
    }

    proptest! {
        #[test]
        fn displayed_user_is_parsed_again(text in "(login|external_id|user_id):\\PC{1,20}") {
            let Ok(user) = Subject::parse(&text) else { return Ok(()) };
            prop_assert_eq!(user.as_asked().to_string(), text);
            let canonical = Subject::parse(&user.as_decided().to_string()).unwrap();
            prop_assert_eq!(canonical.canonical(), user.canonical());
        }
    }
}

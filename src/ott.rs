//! The words around a one-time token: whom it is for, the token, and the URL that
//! carries it to a browser.
//!
//! A value of one of these types has been checked; how it is sent or shown is
//! decided elsewhere.

use std::{fmt, time::SystemTime};

use crate::secret::Secret;

/// The most bytes of a login, an external id or a user id.
pub const MAX_NAME_BYTES: usize = 254;
/// The most bytes of a one-time token.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// Whom a token is for, named in exactly one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// By the account's login.
    Login(Name),
    /// By the id that an identity provider has for the account.
    ExternalId(Name),
    /// By the platform's own id of the account.
    UserId(Name),
}

impl Subject {
    /// The name of the field, in the contract and in the platform's API.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Login(_) => "login",
            Self::ExternalId(_) => "external_id",
            Self::UserId(_) => "user_id",
        }
    }

    /// The user's name, in whichever way.
    #[must_use]
    pub const fn name(&self) -> &Name {
        match self {
            Self::Login(name) | Self::ExternalId(name) | Self::UserId(name) => name,
        }
    }
}

/// A login or an id: 1 to 254 bytes without control characters. Otherwise opaque.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(Box<str>);

impl Name {
    /// Takes the text over if it keeps the rule.
    pub fn try_new(text: String) -> Result<Self, InvalidName> {
        if text.is_empty() {
            Err(InvalidName::Empty)
        } else if text.len() > MAX_NAME_BYTES {
            Err(InvalidName::TooLong)
        } else if text.chars().any(char::is_control) {
            Err(InvalidName::ControlCharacter)
        } else {
            Ok(Self(text.into_boxed_str()))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no login or id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// It is empty.
    #[error("must not be empty")]
    Empty,
    /// It is longer than [`MAX_NAME_BYTES`].
    #[error("must be at most 254 bytes long")]
    TooLong,
    /// It has a control character.
    #[error("must not contain control characters")]
    ControlCharacter,
}

/// A one-time token. Spending it takes it by value, and it cannot be copied, so
/// that our own code cannot spend it twice.
pub struct OneTimeToken(Secret);

impl OneTimeToken {
    /// Takes the text over if it is 1 to 4096 bytes of visible ASCII.
    pub fn try_new(text: String) -> Result<Self, InvalidToken> {
        // Wrapped first, so that a refused text is overwritten as well.
        let text = Secret::new(text);
        if text.is_empty() {
            Err(InvalidToken::Empty)
        } else if text.expose().len() > MAX_TOKEN_BYTES {
            Err(InvalidToken::TooLong)
        } else if text.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text))
        } else {
            Err(InvalidToken::NotVisibleAscii)
        }
    }

    /// The text, for the wire and for a fingerprint.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl fmt::Debug for OneTimeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneTimeToken([redacted])")
    }
}

/// Why a text is no one-time token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// It is empty.
    #[error("must not be empty")]
    Empty,
    /// It is longer than [`MAX_TOKEN_BYTES`].
    #[error("must be at most 4096 bytes long")]
    TooLong,
    /// It has a space, a control character or something beyond ASCII.
    #[error("must be visible ASCII")]
    NotVisibleAscii,
}

/// A token that the platform has just minted.
#[derive(Debug)]
pub struct IssuedToken {
    /// The token.
    pub ott: OneTimeToken,
    /// When it dies: 30 seconds after the request for it was sent.
    pub expires_at: SystemTime,
}

/// A URL that logs a browser in; it has the token in its fragment.
#[derive(Debug)]
pub struct LoginUrl(Secret);

impl LoginUrl {
    /// Wraps a finished URL.
    pub(crate) fn new(url: String) -> Self {
        Self(Secret::new(url))
    }

    /// The URL, for the caller that asked for it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

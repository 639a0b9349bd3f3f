//! Domain types for one-time tokens: the user that a token is for, the token, and the URL that
//! carries it to a browser.
//!
//! A value of one of these types has been checked. How it is sent or shown is decided elsewhere.

use std::{fmt, time::SystemTime};

mod canonical;
mod subject;
mod users;

pub use subject::{InvalidSubject, MAX_SUBJECT_BYTES, QuotaKey, Subject, SubjectKind};
pub use users::{SubjectForm, SubjectPattern, Users};

use crate::secret::Secret;

/// Maximum length of a one-time token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 4096;

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

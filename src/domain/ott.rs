//! Domain types for one-time tokens: subject, token, login URL.
//!
//! Values of these types have been validated. Other modules decide how they are sent or displayed.
//!
//! ```
//! use ott_gateway::domain::ott::{InvalidToken, OneTimeToken};
//!
//! let ott = OneTimeToken::try_new("c2VjcmV0".to_owned())?;
//! assert_eq!(ott.expose(), "c2VjcmV0");
//! assert_eq!(format!("{ott:?}"), "OneTimeToken([redacted])");
//! assert_eq!(OneTimeToken::try_new("two words".to_owned()).unwrap_err(), InvalidToken::NotVisibleAscii);
//! # Ok::<(), InvalidToken>(())
//! ```

use std::{fmt, time::SystemTime};

mod canonical;
mod notation;
mod seal_refusal;
mod sealed;
mod subject;
mod users;

pub use notation::{InvalidUser, Notation as UserNotation};
pub use seal_refusal::SealRefusal;
pub use sealed::{MAX_SEALED_BYTES, SealedToken};
pub use subject::{InvalidSubject, MAX_SUBJECT_BYTES, QuotaKey, Subject, SubjectKind};
pub use users::{SubjectForm, SubjectPattern, Users};

use crate::base::secret::Secret;

/// Maximum length of a one-time token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// A one-time token. It cannot be cloned and is consumed by use, so that our own code cannot use it
/// twice.
pub struct OneTimeToken(Secret);

impl OneTimeToken {
    /// Creates a token from 1 to 4096 bytes of visible ASCII.
    pub fn try_new(text: String) -> Result<Self, InvalidToken> {
        visible_ascii(text, MAX_TOKEN_BYTES, InvalidToken::TooLong).map(Self)
    }

    /// Returns the text, for sending and for a fingerprint.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

/// Takes a text of 1 to `max` bytes of visible ASCII.
fn visible_ascii(text: String, max: usize, too_long: InvalidToken) -> Result<Secret, InvalidToken> {
    // Wrapped first, so that a refused text is also overwritten.
    let text = Secret::new(text);
    if text.is_empty() {
        Err(InvalidToken::Empty)
    } else if text.expose().len() > max {
        Err(too_long)
    } else if text.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text)
    } else {
        Err(InvalidToken::NotVisibleAscii)
    }
}

impl fmt::Debug for OneTimeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneTimeToken([redacted])")
    }
}

/// A hash by which a token is known where the token itself must not be kept. Only hashes that one
/// process has made in the same way can be compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Takes a hash from which the token cannot be computed.
    #[must_use]
    pub const fn new(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// The hash itself.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash([redacted])")
    }
}

/// Reason that a text is not a one-time token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// It is empty.
    #[error("must not be empty")]
    Empty,
    /// It is longer than [`MAX_TOKEN_BYTES`].
    #[error("must be at most 4096 bytes long")]
    TooLong,
    /// It is sealed and longer than [`MAX_SEALED_BYTES`].
    #[error("must be at most {MAX_SEALED_BYTES} bytes long")]
    SealedTooLong,
    /// It contains a space, a control character or a character outside ASCII.
    #[error("must be visible ASCII")]
    NotVisibleAscii,
}

/// A token that the platform has just issued.
#[derive(Debug)]
pub struct IssuedToken {
    /// The token.
    pub ott: OneTimeToken,
    /// Time of its expiry: 30 seconds after the request for it was sent.
    pub expires_at: SystemTime,
}

/// A URL that logs in a browser, with the token in its fragment.
#[derive(Debug)]
pub struct LoginUrl(Secret);

impl LoginUrl {
    /// Wraps a complete URL.
    pub(crate) fn new(url: String) -> Self {
        Self(Secret::new(url))
    }

    /// Returns the URL, for the caller that requested it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

//! The text of a sealed token. `token_binding` creates and opens it.

use std::fmt;

use super::{InvalidToken, visible_ascii};
use crate::base::secret::Secret;

/// The first characters of every sealed token, before the number of its version.
const PREFIX: &str = "ottgw";

/// Maximum length of a sealed token, in bytes. The longest that is issued contains a token of 4096
/// bytes, an issuing caller of 2048 and a user of 254.
pub const MAX_SEALED_BYTES: usize = 9216;

/// The text of a sealed token: visible ASCII of at most [`MAX_SEALED_BYTES`]. It is a secret like
/// the token in it, because callers that a rule allows can spend it.
pub struct SealedToken(Secret);

impl SealedToken {
    /// Returns whether a text has the form of a sealed token of any version: `ottgw`, the number of
    /// the version and a dot. Tokens of the platform have no dots.
    #[must_use]
    pub fn is_sealed(text: &str) -> bool {
        let version = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.'));
        version.is_some_and(|(version, _)| {
            (1..=3).contains(&version.len()) && version.bytes().all(|byte| byte.is_ascii_digit())
        })
    }

    /// Wraps a text that a caller presented, or that has just been sealed.
    ///
    /// # Errors
    ///
    /// The text is longer than [`MAX_SEALED_BYTES`] or not visible ASCII.
    pub fn try_new(text: String) -> Result<Self, InvalidToken> {
        visible_ascii(text, MAX_SEALED_BYTES, InvalidToken::SealedTooLong).map(Self)
    }

    /// Returns the text, for opening and for the caller that requested it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl fmt::Debug for SealedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedToken([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_prefix_with_a_version_is_the_form_of_a_sealed_token() {
        for sealed in ["ottgw1.a.b", "ottgw2.", "ottgw999.x"] {
            assert!(SealedToken::is_sealed(sealed), "{sealed}");
        }
        for raw in
            ["", "ottgw", "ottgw.", "ottgw1", "ottgw1000.a", "ottgwa.b", "Ottgw1.a", "T1RUAQAAAG8-AA=="]
        {
            assert!(!SealedToken::is_sealed(raw), "{raw}");
        }
    }

    #[test]
    fn text_is_bounded_visible_ascii_and_not_shown() {
        let longest = SealedToken::try_new("a".repeat(MAX_SEALED_BYTES)).expect("short enough");
        assert_eq!(format!("{longest:?}"), "SealedToken([redacted])");
        let refused = |text: String| SealedToken::try_new(text).expect_err("refused");
        assert_eq!(refused("a".repeat(MAX_SEALED_BYTES + 1)), InvalidToken::SealedTooLong);
        assert_eq!(refused("ottgw1.a b".to_owned()), InvalidToken::NotVisibleAscii);
        assert_eq!(refused(String::new()), InvalidToken::Empty);
    }
}

//! Validates the key of the audit fingerprints.
//!
//! `config` uses this to check a configuration, and `app` when the gateway starts.

use super::client_secret::without_newline;

/// Minimum size of a key in bytes, without a trailing newline: the size of the fingerprints' hash,
/// as RFC 2104 recommends.
pub const MIN_BYTES: usize = 32;

/// Reason that an HMAC key is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHmacKey {
    /// It is not UTF-8.
    #[error("the key must be UTF-8 text")]
    NotText,
    /// It is empty or blank.
    #[error("the key is blank")]
    Blank,
    /// It contains NUL characters, like a file whose contents were lost in a crash, so it may not
    /// be secret.
    #[error("the key contains a NUL character; write a new key to the file, as text")]
    Nul,
    /// It has fewer bytes than [`MIN_BYTES`].
    #[error("the key is too short: it needs at least {MIN_BYTES} bytes")]
    TooShort,
}

/// Checks the contents of a key's file.
///
/// # Errors
///
/// The contents are not text, are blank, contain NUL characters, or are too short.
pub fn check(contents: &[u8]) -> Result<(), InvalidHmacKey> {
    let key = without_newline(contents);
    if std::str::from_utf8(key).is_err() {
        Err(InvalidHmacKey::NotText)
    } else if key.iter().all(u8::is_ascii_whitespace) {
        Err(InvalidHmacKey::Blank)
    } else if key.contains(&0) {
        Err(InvalidHmacKey::Nul)
    } else if key.len() < MIN_BYTES {
        Err(InvalidHmacKey::TooShort)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_with_nul_characters_is_refused() {
        assert_eq!(check(&[0; 64]), Err(InvalidHmacKey::Nul));
        assert_eq!(check(&[&[b'k'; 40][..], &[0]].concat()), Err(InvalidHmacKey::Nul));
        // As written by "openssl rand -base64 64".
        assert_eq!(check(&[&[b'k'; 64][..], b"\n", &[b'k'; 24], b"\n"].concat()), Ok(()));
    }
}

//! Fingerprints that identify a token in records.
//!
//! A token cannot be recovered from its fingerprint, and only the holder of the key can verify that
//! a token matches a fingerprint.

use std::fmt;

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac, rand,
};
use zeroize::Zeroizing;

use crate::domain::ott::{OneTimeToken, TokenHash};

/// Number of bytes of the HMAC that are kept. With 128 bits, accidental collisions of tokens that
/// are valid for 30 seconds are negligible.
const BYTES: usize = 16;

/// Key for fingerprints, shared by all replicas whose records are to be joined.
#[derive(Clone)]
pub struct HmacKey {
    id: String,
    key: Zeroizing<Vec<u8>>,
}

impl HmacKey {
    /// Creates the key from the content of a file, without one trailing newline. The id precedes
    /// each fingerprint, so that a reader knows which key to use.
    #[must_use]
    pub fn new(id: impl Into<String>, file: Vec<u8>) -> Self {
        let mut key = Zeroizing::new(file);
        if key.last() == Some(&b'\n') {
            key.pop();
        }
        Self { id: id.into(), key }
    }
}

impl fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HmacKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Computes fingerprints.
pub(super) struct Fingerprinter {
    id: String,
    key: hmac::Key,
}

impl Fingerprinter {
    pub(super) fn new(key: &HmacKey) -> Self {
        Self { id: key.id.clone(), key: hmac::Key::new(hmac::HMAC_SHA256, &key.key) }
    }

    /// Creates one with a random key. `None` if the system provides no randomness.
    pub(super) fn with_random_key() -> Option<Self> {
        let mut id = [0; 4];
        let mut key = [0; 32];
        rand::fill(&mut id).ok()?;
        rand::fill(&mut key).ok()?;
        let mut name = "process-".to_owned();
        push_hex(&mut name, &id);
        Some(Self { id: name, key: hmac::Key::new(hmac::HMAC_SHA256, &key) })
    }

    /// Returns the HMAC of a token.
    pub(super) fn hash(&self, ott: &OneTimeToken) -> TokenHash {
        token_hash(hmac::sign(&self.key, ott.expose().as_bytes()).as_ref())
    }

    /// Returns the fingerprint of the token with this [`hash`](Self::hash), as `KEY-ID:HEX`.
    pub(super) fn of(&self, hash: &TokenHash) -> String {
        let mut fingerprint = String::with_capacity(self.id.len() + 1 + 2 * BYTES);
        fingerprint.push_str(&self.id);
        fingerprint.push(':');
        push_hex(&mut fingerprint, &hash.bytes()[..BYTES]);
        fingerprint
    }
}

impl fmt::Debug for Fingerprinter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fingerprinter").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The hash of a token without a key.
pub(super) fn unkeyed_hash(ott: &OneTimeToken) -> TokenHash {
    token_hash(digest(&SHA256, ott.expose().as_bytes()).as_ref())
}

/// Both algorithms have 32 bytes.
fn token_hash(sha256: &[u8]) -> TokenHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(sha256);
    TokenHash::new(hash)
}

pub(super) fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(fingerprinter: &Fingerprinter, token: &str) -> String {
        let ott = OneTimeToken::try_new(token.to_owned()).expect("visible ASCII");
        fingerprinter.of(&fingerprinter.hash(&ott))
    }

    #[test]
    fn fingerprint_can_be_recomputed_with_the_key() {
        let key = HmacKey::new("2026-01", b"Jefe\n".to_vec());
        assert_eq!(
            fingerprint(&Fingerprinter::new(&key), "canary-token"),
            // printf canary-token | openssl dgst -r -sha256 -hmac Jefe | cut -c-32
            "2026-01:09328ed0c5a7f6c349f0445593963c15"
        );
    }

    #[test]
    fn two_processes_without_a_key_do_not_share_fingerprints() {
        let (one, other) = (Fingerprinter::with_random_key(), Fingerprinter::with_random_key());
        let (one, other) = (one.expect("randomness"), other.expect("randomness"));
        let of = |one| fingerprint(one, "canary-token");
        assert_eq!(of(&one), of(&one));
        assert_ne!(of(&one), of(&other));
        assert!(!format!("{one:?}{}", of(&one)).contains("canary"));
    }
}

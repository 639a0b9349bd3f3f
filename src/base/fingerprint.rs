//! Fingerprints of structured values, to compare two versions without keeping them.
//!
//! A fingerprint hides nothing: who knows all but a few bits of the value can guess the rest.
//! Callers leave out secrets.

use std::fmt::Write;

use aws_lc_rs::digest::{Context, SHA256};

/// Number of bytes of the hash that [`text`] keeps.
const TEXT_BYTES: usize = 16;

/// Computes the SHA-256 of a sequence of parts. Different sequences never hash the same bytes,
/// because each part is preceded by its length.
pub struct Fingerprint(Context);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fingerprint").finish_non_exhaustive()
    }
}

impl Fingerprint {
    /// Adds a part and what it is.
    pub fn add(&mut self, kind: &str, content: &[u8]) {
        for part in [kind.as_bytes(), content] {
            self.0.update(&part.len().to_be_bytes());
            self.0.update(part);
        }
    }

    /// Adds the beginning of a list of this many items, which follow.
    pub fn begin_list(&mut self, kind: &str, items: usize) {
        self.add(kind, &items.to_be_bytes());
    }

    /// Returns the hash.
    #[must_use]
    pub fn finish(self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.finish().as_ref());
        hash
    }
}

/// Returns the first 16 bytes of a hash in hexadecimal, for people and records.
#[must_use]
pub fn text(hash: &[u8; 32]) -> String {
    hash[..TEXT_BYTES].iter().fold(String::with_capacity(2 * TEXT_BYTES), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

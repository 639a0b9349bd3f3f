//! Finds parts of secrets in texts from the platform, in any usual encoding.
//!
//! The platform, or a firewall in front of it, may repeat a part of the request in its error
//! message: truncated, quoted, escaped, as base64 or as a list of bytes. A text that shares [`RUN`]
//! consecutive characters with a secret is withheld entirely, because no replacement can be
//! complete.
//!
//! Used only for failed requests, on texts of bounded size.

mod encodings;
mod escapes;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use http::HeaderValue;
use percent_encoding::percent_decode;
use zeroize::Zeroizing;

use encodings::{LENIENT, compatible, decodings, has_base64_run, utf16_bytes};
use escapes::unescaped;

/// Number of consecutive equal characters that count as a part of a secret.
pub(super) const RUN: usize = 8;
/// Maximum number of nested encodings that are decoded, not counting escapes.
const MAX_DEPTH: usize = 2;
/// Number of layers of escapes up to which encodings are decoded. Beyond that, only the text itself
/// is examined.
const MAX_DECODED_STAGES: usize = 4;
/// Size of the filter in front of the sorted runs, in words: the hash of a run has 14 bits.
const FILTER_WORDS: usize = (1 << 14) / 64;

/// Secrets of one exchange with the platform.
#[derive(Default)]
pub(super) struct Secrets(Vec<Zeroizing<Vec<u8>>>);

impl Secrets {
    /// Adds a secret in the form in which it is sent.
    pub(super) fn add(&mut self, secret: &[u8]) {
        if secret.len() >= RUN {
            self.0.push(Zeroizing::new(secret.to_vec()));
        }
        let decoded = Zeroizing::new(percent_decode(secret).collect::<Vec<u8>>());
        if decoded.len() >= RUN && *decoded != secret {
            self.0.push(decoded);
        }
    }

    /// Adds the value of an `Authorization` header: a token, or the encoded pair of an id and a
    /// password, and that password. The id is not a secret.
    pub(super) fn add_authorization(&mut self, header: &HeaderValue) {
        let value = header.as_bytes();
        let space = value.iter().position(|&byte| byte == b' ');
        let (scheme, credentials) = space.map_or((&b""[..], value), |at| (&value[..at], &value[at + 1..]));
        self.add(credentials);
        if scheme.eq_ignore_ascii_case(b"basic")
            && let Ok(pair) = LENIENT.decode(credentials).map(Zeroizing::new)
            && let Some(colon) = pair.iter().position(|&byte| byte == b':')
        {
            self.add(&pair[colon + 1..]);
        }
    }

    /// Adds the value of the cookie that a `Set-Cookie` header sets.
    pub(super) fn add_cookie(&mut self, header: &HeaderValue) {
        let pair = header.as_bytes().split(|&byte| byte == b';').next().unwrap_or_default();
        let name = pair.iter().position(|&byte| byte == b'=').map_or(0, |at| at + 1);
        self.add(&pair[name..]);
    }

    /// Returns whether the text contains a part of one of the secrets: [`RUN`] consecutive
    /// characters, in any case and direction, possibly separated by characters that are not
    /// alphanumeric. Also detects parts that are escaped, base64, base32, hexadecimal, lists of
    /// byte values, or UTF-16 that was decoded as something else.
    pub(super) fn have_part_in(&self, text: &str) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let runs = Runs::of(text);
        self.0.iter().any(|secret| {
            runs.have_one_of(secret.iter().map(u8::to_ascii_lowercase))
                || runs.have_one_of(folded(secret))
                || runs.have_one_of(folded(secret).rev())
                || base64_forms(secret).any(|form| runs.have_one_of(folded(&form)))
        })
    }
}

/// All runs of [`RUN`] consecutive characters of a text, in all its readings.
struct Runs {
    sorted: Vec<u64>,
    /// Filters out most runs of a secret, which are not in the text, without a search.
    filter: [u64; FILTER_WORDS],
}

impl Runs {
    fn of(text: &str) -> Self {
        let mut runs = Self { sorted: Vec::new(), filter: [0; FILTER_WORDS] };
        runs.add(text.as_bytes(), 0);
        runs.sorted.sort_unstable();
        runs
    }

    /// Adds a text and its decodings.
    fn add(&mut self, text: &[u8], depth: usize) {
        self.add_reading(text);
        let original = compatible(text);
        self.add_reading(&original);
        self.add_decodings(&original, depth);
        utf16_bytes(text).for_each(|bytes| self.add_reading(&bytes));
        // A stage removes bytes that only look like an escape, so each stage is examined.
        for (number, stage) in unescaped(text).enumerate() {
            utf16_bytes(&stage).for_each(|bytes| self.add_reading(&bytes));
            let stage = compatible(&stage);
            self.add_reading(&stage);
            if number < MAX_DECODED_STAGES {
                self.add_decodings(&stage, depth);
            }
        }
    }

    fn add_decodings(&mut self, text: &[u8], depth: usize) {
        // A text can contain words around its base64, but bytes that were decoded by mistake are
        // noise and need not be decoded again.
        if depth < MAX_DEPTH && (depth == 0 || has_base64_run(text)) {
            decodings(text).for_each(|decoded| self.add(&decoded, depth + 1));
        }
    }

    fn add_reading(&mut self, text: &[u8]) {
        for run in runs_of(text.iter().map(u8::to_ascii_lowercase)).chain(runs_of(folded(text))) {
            self.sorted.push(run);
            let (word, bit) = place(run);
            self.filter[word] |= bit;
        }
    }

    fn have_one_of(&self, text: impl Iterator<Item = u8>) -> bool {
        runs_of(text).any(|run| {
            let (word, bit) = place(run);
            self.filter[word] & bit != 0 && self.sorted.binary_search(&run).is_ok()
        })
    }
}

/// Returns the position of a run in the filter.
fn place(run: u64) -> (usize, u64) {
    // Multiplicative hashing (Knuth, 6.4) spreads texts that differ in few bits.
    let hash = run.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50;
    (usize::try_from(hash / 64).unwrap_or_default(), 1 << (hash % 64))
}

/// Returns all runs of [`RUN`] consecutive bytes, as numbers.
fn runs_of(text: impl Iterator<Item = u8>) -> impl Iterator<Item = u64> {
    let mut run = 0_u64;
    text.enumerate().filter_map(move |(index, byte)| {
        run = run << 8 | u64::from(byte);
        (index + 1 >= RUN).then_some(run)
    })
}

/// Returns the alphanumeric characters, in lower case.
fn folded(text: &[u8]) -> impl DoubleEndedIterator<Item = u8> {
    text.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase)
}

/// Returns the secret in base64 as a part of a longer text, for each of the three alignments.
fn base64_forms(secret: &[u8]) -> impl Iterator<Item = Zeroizing<Vec<u8>>> {
    (0..3).map(move |start| {
        let part = secret.get(start..).unwrap_or_default();
        // The last symbol depends on the following bytes.
        let whole = part.len() - part.len() % 3;
        Zeroizing::new(STANDARD_NO_PAD.encode(&part[..whole]).into_bytes())
    })
}

#[cfg(test)]
mod tests;

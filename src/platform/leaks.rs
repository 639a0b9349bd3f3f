//! Finds parts of secrets in a text of the platform, in any usual encoding.
//!
//! The platform, or a firewall in front of it, may repeat a part of the request in its error
//! message: cut, quoted, percent-encoded, as base64 or as a list of bytes. A text that shares
//! [`RUN`] characters in a row with a secret is not passed on at all, because no replacement
//! can be complete.
//!
//! Used only when a request has failed, for a text of bounded size.

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD_NO_PAD},
};
use http::HeaderValue;
use icu_normalizer::ComposingNormalizerBorrowed;
use percent_encoding::percent_decode;
use zeroize::Zeroizing;

/// Number of equal characters in a row that count as a part of a secret.
const RUN: usize = 8;
/// Number of encodings inside each other that are undone, percent-encoding not counted.
const MAX_DEPTH: usize = 2;
/// Minimum number of characters of base64 that encode [`RUN`] bytes.
const BASE64_RUN: usize = 10;
/// Bits of the filter in front of the sorted runs: the hash of a run is 14 bits long.
const FILTER_WORDS: usize = (1 << 14) / 64;

/// Decodes base64 that was cut anywhere.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The secrets of one exchange with the platform.
#[derive(Default)]
pub(super) struct Secrets(Vec<Zeroizing<Vec<u8>>>);

impl Secrets {
    /// Adds a secret as it is sent.
    pub(super) fn add(&mut self, secret: &[u8]) {
        if secret.len() >= RUN {
            self.0.push(Zeroizing::new(secret.to_vec()));
        }
        let decoded = Zeroizing::new(percent_decode(secret).collect::<Vec<u8>>());
        if decoded.len() >= RUN && *decoded != secret {
            self.0.push(decoded);
        }
    }

    /// Adds the value of an `Authorization` header: a token, or an id and a password with the
    /// form in which both are sent. The id is not a secret.
    pub(super) fn add_authorization(&mut self, header: &HeaderValue) {
        let value = header.as_bytes();
        let blank = value.iter().position(|&byte| byte == b' ');
        let (scheme, credentials) = blank.map_or((&b""[..], value), |at| (&value[..at], &value[at + 1..]));
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

    /// Returns whether the text contains a part of one of the secrets: [`RUN`] characters in a
    /// row, in any case, with any characters between them that are not alphanumeric, and also
    /// if the text or parts of it are percent-encoded, base64, hexadecimal or numbers of bytes.
    pub(super) fn have_part_in(&self, text: &str) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let runs = Runs::of(text);
        self.0.iter().any(|secret| {
            runs.have_one_of(secret.iter().map(u8::to_ascii_lowercase))
                || runs.have_one_of(folded(secret))
                || base64_forms(secret).any(|form| runs.have_one_of(folded(&form)))
        })
    }
}

/// Every [`RUN`] characters in a row of a text, in all its readings.
struct Runs {
    sorted: Vec<u64>,
    /// Most runs of a secret are not in the text; this is cheaper than a search.
    filter: [u64; FILTER_WORDS],
}

impl Runs {
    fn of(text: &str) -> Self {
        let mut runs = Self { sorted: Vec::new(), filter: [0; FILTER_WORDS] };
        runs.add(text.as_bytes(), 0);
        runs.sorted.sort_unstable();
        runs
    }

    /// Adds a text and what it is an encoding of.
    fn add(&mut self, text: &[u8], depth: usize) {
        self.add_reading(text);
        let text = percent_decoded(text);
        let text = compatible(&text);
        self.add_reading(&text);
        if depth == MAX_DEPTH {
            return;
        }
        // A text can contain words before and after its base64, but bytes that were decoded by
        // mistake are noise, in which nothing has to be looked for.
        if depth > 0 && !has_base64_run(&text) {
            return;
        }
        decodings(&text).for_each(|decoded| self.add(&decoded, depth + 1));
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

/// The place of a run in the filter.
fn place(run: u64) -> (usize, u64) {
    // Multiplicative hashing (Knuth, 6.4) spreads texts that differ in few bits.
    let hash = run.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50;
    (usize::try_from(hash / 64).unwrap_or_default(), 1 << (hash % 64))
}

/// Every [`RUN`] bytes in a row, as a number.
fn runs_of(text: impl Iterator<Item = u8>) -> impl Iterator<Item = u64> {
    let mut run = 0_u64;
    text.enumerate().filter_map(move |(index, byte)| {
        run = run << 8 | u64::from(byte);
        (index + 1 >= RUN).then_some(run)
    })
}

/// The alphanumeric characters, in lower case.
fn folded(text: &[u8]) -> impl Iterator<Item = u8> {
    text.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase)
}

/// Undoes percent-encoding as often as it was applied.
fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut text = text.to_vec();
    loop {
        // Each turn makes the text shorter.
        let decoded: Vec<u8> = percent_decode(&text).collect();
        if decoded.len() == text.len() {
            return text;
        }
        text = decoded;
    }
}

/// Replaces letters and digits in other forms, such as full-width ones, with the usual ones.
fn compatible(text: &[u8]) -> Vec<u8> {
    match str::from_utf8(text) {
        Ok(text) if !text.is_ascii() => {
            ComposingNormalizerBorrowed::new_nfkc().normalize(text).into_owned().into_bytes()
        }
        _ => text.to_vec(),
    }
}

fn has_base64_run(text: &[u8]) -> bool {
    let mut length = 0;
    text.iter().filter(|byte| !byte.is_ascii_whitespace()).any(|&byte| {
        length = if base64_symbol(byte).is_some() { length + 1 } else { 0 };
        length >= BASE64_RUN
    })
}

/// A character of either alphabet, in that of RFC 4648 section 4.
const fn base64_symbol(byte: u8) -> Option<u8> {
    match byte {
        b'-' => Some(b'+'),
        b'_' => Some(b'/'),
        b'+' | b'/' => Some(byte),
        _ if byte.is_ascii_alphanumeric() => Some(byte),
        _ => None,
    }
}

/// What the text can be an encoding of. Characters that are not part of the encoding are
/// ignored, and every beginning is tried.
fn decodings(text: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let symbols: Vec<u8> = text.iter().filter_map(|&byte| base64_symbol(byte)).collect();
    let base64 = (0..4).filter_map(move |start| {
        let symbols = symbols.get(start..)?;
        // A single symbol at the end is not a byte.
        let end = symbols.len() - usize::from(symbols.len() % 4 == 1);
        LENIENT.decode(&symbols[..end]).ok()
    });
    let digits = hex_digits(text);
    let hex = (0..2).filter_map(move |start| {
        let pairs = digits.get(start..)?.chunks_exact(2);
        Some(pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
    });
    base64.chain(hex).chain([8, 10, 16].map(|radix| numbers(text, radix)))
}

/// The values of the hexadecimal digits, without those of the prefixes `0x` and `\x`.
fn hex_digits(text: &[u8]) -> Vec<u8> {
    let mut digits = Vec::new();
    for &byte in text {
        if byte.eq_ignore_ascii_case(&b'x') {
            if digits.last() == Some(&0) {
                digits.pop();
            }
        } else if let Some(digit) = char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()) {
            digits.push(digit);
        }
    }
    digits
}

/// The bytes of a list of numbers such as `[104, 105]`, `\x68\x69`, `\u0068` or `&#104;`.
fn numbers(text: &[u8], radix: u32) -> Vec<u8> {
    let words = text.split(|byte| !byte.is_ascii_alphanumeric());
    let bytes = words.filter_map(|word| {
        let word = word.strip_prefix(b"0").filter(|rest| rest.starts_with(b"x")).unwrap_or(word);
        let word = word.strip_prefix(b"x").or_else(|| word.strip_prefix(b"u")).unwrap_or(word);
        u8::from_str_radix(str::from_utf8(word).ok()?, radix).ok()
    });
    bytes.collect()
}

/// The secret in base64, as a part of a longer text: once for each place within the three
/// bytes that make four symbols.
fn base64_forms(secret: &[u8]) -> impl Iterator<Item = Zeroizing<Vec<u8>>> {
    (0..3).map(move |start| {
        let part = secret.get(start..).unwrap_or_default();
        // The last symbol depends on what follows.
        let whole = part.len() - part.len() % 3;
        Zeroizing::new(STANDARD_NO_PAD.encode(&part[..whole]).into_bytes())
    })
}

#[cfg(test)]
mod tests;

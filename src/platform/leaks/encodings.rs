//! Encodings of whole texts: base64, base32, hexadecimal, numbers, UTF-16.
//!
//! Characters outside the alphabet of an encoding are ignored, and every alignment is tried.

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use icu_normalizer::DecomposingNormalizerBorrowed;

/// Minimum number of characters of base64 that encode [`RUN`](super::RUN) bytes.
const BASE64_RUN: usize = 10;

/// Decodes base64 that was truncated anywhere.
pub(super) const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Replaces variants of letters and digits, such as full-width ones, with the usual ones, and
/// separates letters from their accents.
pub(super) fn compatible(text: &[u8]) -> Vec<u8> {
    match str::from_utf8(text) {
        Ok(text) if !text.is_ascii() => {
            DecomposingNormalizerBorrowed::new_nfkd().normalize(text).into_owned().into_bytes()
        }
        _ => text.to_vec(),
    }
}

/// Returns the bytes of a text that was decoded as UTF-16 by mistake, in both byte orders. Empty if
/// it is ASCII.
pub(super) fn utf16_bytes(text: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let text = str::from_utf8(text).ok().filter(|text| !text.is_ascii());
    let units: Vec<u16> = text.map(|text| text.encode_utf16().collect()).unwrap_or_default();
    [u16::to_be_bytes, u16::to_le_bytes]
        .into_iter()
        .map(move |bytes| units.iter().flat_map(|&unit| bytes(unit)).collect::<Vec<u8>>())
        .filter(|bytes| !bytes.is_empty())
}

/// Returns whether the text contains enough consecutive base64 for a part of a secret.
pub(super) fn has_base64_run(text: &[u8]) -> bool {
    let mut length = 0;
    text.iter().filter(|byte| !byte.is_ascii_whitespace()).any(|&byte| {
        length = if base64_symbol(byte).is_some() { length + 1 } else { 0 };
        length >= BASE64_RUN
    })
}

/// Converts a character of either alphabet to that of RFC 4648, section 4.
const fn base64_symbol(byte: u8) -> Option<u8> {
    match byte {
        b'-' => Some(b'+'),
        b'_' => Some(b'/'),
        b'+' | b'/' => Some(byte),
        _ if byte.is_ascii_alphanumeric() => Some(byte),
        _ => None,
    }
}

/// Returns everything that the text can be decoded to.
pub(super) fn decodings(text: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let symbols: Vec<u8> = text.iter().filter_map(|&byte| base64_symbol(byte)).collect();
    let base64 = (0..4).filter_map(move |start| {
        let symbols = symbols.get(start..)?;
        // A single trailing symbol is not a byte.
        let end = symbols.len() - usize::from(symbols.len() % 4 == 1);
        LENIENT.decode(&symbols[..end]).ok()
    });
    let symbols: Vec<u8> = text.iter().filter_map(|&byte| base32_symbol(byte)).collect();
    let base32 = (0..8).filter_map(move |start| Some(base32(symbols.get(start..)?)));
    let digits = hex_digits(text);
    let hex = (0..2).filter_map(move |start| {
        let pairs = digits.get(start..)?.chunks_exact(2);
        Some(pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
    });
    base64.chain(base32).chain(hex).chain([8, 10, 16].map(|radix| numbers(text, radix)))
}

/// Returns the value of a base32 character (RFC 4648, section 6), in any case.
const fn base32_symbol(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a'),
        b'2'..=b'7' => Some(byte - b'2' + 26),
        _ => None,
    }
}

/// Packs values of five bits each into bytes.
fn base32(values: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * 5 / 8);
    for group in values.chunks(8) {
        let bits = group.iter().fold(0_u64, |bits, &value| bits << 5 | u64::from(value));
        let aligned = bits << (64 - 5 * group.len());
        bytes.extend_from_slice(&aligned.to_be_bytes()[..group.len() * 5 / 8]);
    }
    bytes
}

/// Returns the values of the hexadecimal digits, without those of the prefixes `0x` and `\x`.
fn hex_digits(text: &[u8]) -> Vec<u8> {
    let mut digits = Vec::new();
    for (&byte, before) in text.iter().zip([0].iter().chain(text)) {
        if byte.eq_ignore_ascii_case(&b'x') {
            if *before == b'0' {
                digits.pop();
            }
        } else if let Some(digit) = char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()) {
            digits.push(digit);
        }
    }
    digits
}

/// Returns the bytes of a list of numbers such as `[104, 105]`, `\x68\x69`, `\u0068` or `&#104;`.
fn numbers(text: &[u8], radix: u32) -> Vec<u8> {
    let words = text.split(|byte| !byte.is_ascii_alphanumeric());
    let bytes = words.filter_map(|word| {
        let word = word.strip_prefix(b"0").filter(|rest| rest.starts_with(b"x")).unwrap_or(word);
        let word = word.strip_prefix(b"x").or_else(|| word.strip_prefix(b"u")).unwrap_or(word);
        u8::from_str_radix(str::from_utf8(word).ok()?, radix).ok()
    });
    bytes.collect()
}

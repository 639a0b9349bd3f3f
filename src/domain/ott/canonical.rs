//! The canonical form of users' names.
//!
//! All comparisons of spellings use this form. The platform does not document how it compares
//! names, so spellings that it may treat as one user have one form here.

use std::{borrow::Cow, iter::once};

use icu_normalizer::ComposingNormalizerBorrowed;
use uuid::Uuid;

use crate::base::text::is_unprintable;

/// Ideographic full stop, a label separator in domain names (RFC 3490, section 3.1). NFKC maps the
/// other variants of the dot to it or to the ASCII dot.
pub(super) const IDEOGRAPHIC_FULL_STOP: char = '\u{3002}';

/// Maximum number of passes until folding is stable. Two are enough for all of Unicode 16.
const MAX_PASSES: usize = 4;

/// Folds a text: Unicode NFKC, then simple case folding, then NFKC again. Does not allocate if the
/// text is lower-case ASCII.
///
/// Case folding maps each character to one character, and none from outside ASCII to ASCII:
/// `\u{df}` stays different from `ss`, and the dotless `\u{131}` from `i`.
pub(crate) fn fold(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(text.to_ascii_lowercase())
        } else {
            Cow::Borrowed(text)
        };
    }
    let nfkc = ComposingNormalizerBorrowed::new_nfkc();
    let mut folded = nfkc.normalize(text).into_owned();
    for _ in 0..MAX_PASSES {
        let lower: String = folded.chars().map(fold_case).collect();
        let next = nfkc.normalize(&lower);
        if *next == *folded {
            break;
        }
        folded = next.into_owned();
    }
    Cow::Owned(folded)
}

/// Returns the lower case of the upper case, if each is one character, so that `\u{3c2}` and
/// `\u{3c3}` are equal.
fn fold_case(character: char) -> char {
    fn only(mut mapped: impl Iterator<Item = char>) -> Option<char> {
        mapped.next().filter(|_| mapped.next().is_none())
    }
    let upper = only(character.to_uppercase()).unwrap_or(character);
    let lower = only(upper.to_lowercase()).unwrap_or(character);
    if lower.is_ascii() == character.is_ascii() { lower } else { character }
}

/// Returns whether folding turns a character outside ASCII into ASCII, such as a full-width letter.
pub(super) fn folds_into_ascii(text: &str) -> bool {
    if text.is_ascii() {
        return false;
    }
    let nfkc = ComposingNormalizerBorrowed::new_nfkc();
    text.chars()
        .filter(|character| !character.is_ascii())
        .any(|character| nfkc.normalize_iter(once(character)).any(|folded| folded.is_ascii()))
}

/// Folds a text without its whitespace and invisible characters. For names in the platform's responses,
/// where spelling alone must not count as a difference.
pub(super) fn fold_visible(text: &str) -> String {
    let visible = |text: &str| -> String {
        text.chars().filter(|&character| !character.is_whitespace() && !is_unprintable(character)).collect()
    };
    let folded = fold(text).into_owned();
    fold(&visible(&folded)).into_owned()
}

/// Returns the canonical form (RFC 9562, section 4) of a folded text that is a UUID, with or
/// without hyphens, brackets and `urn:uuid:`.
pub(super) fn uuid(folded: &str) -> Option<String> {
    let brackets = ['{', '}', '(', ')', '[', ']'];
    let text = folded.trim_matches(brackets);
    let text = text.strip_prefix("urn:").unwrap_or(text);
    let text = text.strip_prefix("uuid:").unwrap_or(text).trim_matches(brackets);
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
        return None;
    }
    let digits: String = text.chars().filter(|character| *character != '-').collect();
    Uuid::try_parse(&digits).ok().map(|uuid| uuid.hyphenated().to_string())
}

/// Returns the UUID that lenient parsers read from a folded text that is not a UUID: Java's
/// `UUID.fromString` accepts groups with fewer or more leading zeros, and Go's
/// `github.com/google/uuid` ignores the first and the last of 38 bytes.
pub(super) fn uuid_of_lenient_parsers(folded: &str) -> Option<String> {
    let inner = folded.get(1..37).filter(|inner| folded.len() == 38 && is_canonical_uuid(inner));
    if let Some(inner) = inner {
        return Some(inner.to_owned());
    }
    let groups: Vec<&str> = folded.split('-').collect();
    let sizes = [8, 4, 4, 4, 12];
    if groups.len() != sizes.len() || groups.iter().any(|group| group.is_empty()) {
        return None;
    }
    let padded: Vec<String> = groups
        .iter()
        .zip(sizes)
        .map(|(group, size)| format!("{:0>size$}", group.trim_start_matches('0')))
        .collect();
    Some(padded.join("-")).filter(|text| is_canonical_uuid(text))
}

/// Returns whether a text is a UUID in canonical form.
pub(super) fn is_canonical_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

//! Splits `Set-Cookie` headers that a proxy has joined with commas.
//!
//! RFC 9110, section 5.3, forbids joining them, because a comma may also be part of a cookie. Only
//! commas that cannot be part of one count as separators: those after an attribute, before a new
//! `name=`. All others are kept; a line with an ambiguous one is reported.

use std::ops::Range;

/// Attributes with a value. One of these names after a comma is not the name of a cookie.
const ATTRIBUTES: [&[u8]; 5] = [b"expires", b"max-age", b"domain", b"path", b"samesite"];
/// Attributes with free text, which may contain commas.
const FREE_TEXT: [&[u8]; 2] = [b"comment", b"commenturl"];

/// Cookie strings of one header line.
pub(super) struct Unfolded<'h> {
    /// At least one string.
    pub(super) cookies: Vec<&'h [u8]>,
    /// Whether a comma was kept that may separate two cookies.
    pub(super) looks_folded: bool,
}

/// Splits a header line into its cookie strings.
pub(super) fn unfold(line: &[u8]) -> Unfolded<'_> {
    if !line.contains(&b',') {
        return Unfolded { cookies: vec![line], looks_folded: false };
    }
    let mut unfolded = Unfolded { cookies: Vec::new(), looks_folded: false };
    let mut rest = line;
    loop {
        let (separator, looks_folded) = find_separator(rest);
        unfolded.looks_folded |= looks_folded;
        let Some(separator) = separator else { break };
        unfolded.cookies.push(&rest[..separator]);
        rest = &rest[separator + 1..];
    }
    unfolded.cookies.push(rest);
    unfolded
}

/// Returns the index of the comma that ends the first cookie, and whether an ambiguous comma
/// precedes it.
fn find_separator(text: &[u8]) -> (Option<usize>, bool) {
    let mut looks_folded = false;
    let mut start = 0;
    for (index, part) in text.split(|byte| *byte == b';').enumerate() {
        let is_pair = index == 0;
        for comma in commas(part) {
            let follower = follower(&part[comma + 1..]);
            if follower == Follower::Cookie && !is_pair && !is_free_text(part) {
                return (Some(start + comma), looks_folded);
            }
            looks_folded |= follower != Follower::Nothing;
        }
        start += part.len() + 1;
    }
    (None, looks_folded)
}

/// Text after a comma.
#[derive(PartialEq, Eq)]
enum Follower {
    /// A cookie's name and `=`.
    Cookie,
    /// Another text with `=`.
    Unclear,
    /// A text without `=`, for example the second half of a date.
    Nothing,
}

fn follower(text: &[u8]) -> Follower {
    let upto_next_comma = text.split(|byte| *byte == b',').next().unwrap_or(text);
    let Some(equals) = upto_next_comma.iter().position(|byte| *byte == b'=') else {
        return Follower::Nothing;
    };
    let name = upto_next_comma[..equals].trim_ascii();
    let is_name = !name.is_empty() && name.iter().all(|byte| is_name_byte(*byte));
    if is_name && !ATTRIBUTES.contains(&name.to_ascii_lowercase().as_slice()) {
        Follower::Cookie
    } else {
        Follower::Unclear
    }
}

/// Accepts token characters (RFC 9110, section 5.6.2), and others that are common in cookie names.
const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
        || matches!(byte, b':' | b'@' | b'[' | b']')
}

/// Returns the indexes of the commas outside of a quoted value.
fn commas(part: &[u8]) -> impl Iterator<Item = usize> {
    let quoted = quoted_value(part).unwrap_or(0..0);
    let indexes = part.iter().enumerate().filter(|(_, byte)| **byte == b',').map(|(index, _)| index);
    indexes.filter(move |index| !quoted.contains(index))
}

/// Returns the range of the value of `name="value"`, including its quotes.
fn quoted_value(part: &[u8]) -> Option<Range<usize>> {
    let equals = part.iter().position(|byte| *byte == b'=')?;
    let opening = equals + 1 + part[equals + 1..].iter().position(|byte| !matches!(byte, b' ' | b'\t'))?;
    if part[opening] != b'"' {
        return None;
    }
    let length = part[opening + 1..].iter().position(|byte| *byte == b'"')?;
    Some(opening..opening + length + 2)
}

fn is_free_text(attribute: &[u8]) -> bool {
    let name = attribute.split(|byte| *byte == b'=').next().unwrap_or(attribute).trim_ascii();
    FREE_TEXT.contains(&name.to_ascii_lowercase().as_slice())
}

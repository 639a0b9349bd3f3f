//! Escapes of single characters within a text: of URLs, HTML, JSON and programming languages,
//! and of quoted-printable.

/// Maximum number of digits of an escape, including leading zeros.
const MAX_DIGITS: usize = 8;
/// Maximum size of the name of an HTML entity, in bytes.
const MAX_ENTITY_NAME: usize = 8;

/// Removes one layer of escapes after the other, and returns the text after each. This damages a
/// text that only looks escaped, so the results supplement the original text.
pub(super) fn unescaped(text: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    // Each iteration shortens the text.
    let shorter = |text: &[u8]| Some(unescape_once(text)).filter(|next| next.len() < text.len());
    std::iter::successors(shorter(text), move |text| shorter(text))
}

fn unescape_once(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let escape = match first {
            b'%' => percent(after),
            b'=' => hex_byte(after),
            b'&' => entity(after),
            b'\\' => backslash(after),
            _ => None,
        };
        let Some((character, after)) = escape else {
            plain.push(first);
            rest = after;
            continue;
        };
        match character {
            Escaped::Byte(byte) => plain.push(byte),
            Escaped::Character(character) => {
                plain.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            Escaped::Nothing => {}
        }
        rest = after;
    }
    plain
}

enum Escaped {
    Byte(u8),
    Character(char),
    /// A line break or a quote, which is not a part of a secret.
    Nothing,
}

type Found<'a> = Option<(Escaped, &'a [u8])>;

/// `%41` and `%u0041`.
fn percent(text: &[u8]) -> Found<'_> {
    match text.split_first()? {
        (b'u' | b'U', digits) => character(digits, 16, 4, 4),
        _ => hex_byte(text),
    }
}

/// Parses two hexadecimal digits.
fn hex_byte(text: &[u8]) -> Found<'_> {
    let (digits, rest) = text.split_at_checked(2)?;
    Some((Escaped::Byte(u8::try_from(number(digits, 16)?).ok()?), rest))
}

/// `&#65;`, `&#x41;` and `&plus;`; the semicolon can be missing after a number.
fn entity(text: &[u8]) -> Found<'_> {
    if let Some(digits) = text.strip_prefix(b"#") {
        let (found, rest) = match digits.split_first()? {
            (b'x' | b'X', digits) => character(digits, 16, 1, MAX_DIGITS)?,
            _ => character(digits, 10, 1, MAX_DIGITS)?,
        };
        return Some((found, rest.strip_prefix(b";").unwrap_or(rest)));
    }
    let end = text.iter().take(MAX_ENTITY_NAME + 1).position(|&byte| byte == b';')?;
    let found = match &text[..end] {
        // These can begin an escape that was escaped itself.
        b"amp" => Escaped::Byte(b'&'),
        b"bsol" => Escaped::Byte(b'\\'),
        b"percnt" => Escaped::Byte(b'%'),
        b"equals" => Escaped::Byte(b'='),
        // The symbols of base64.
        b"plus" => Escaped::Byte(b'+'),
        b"sol" => Escaped::Byte(b'/'),
        b"hyphen" | b"dash" => Escaped::Byte(b'-'),
        b"lowbar" => Escaped::Byte(b'_'),
        // No entity is an ASCII letter or digit.
        name if !name.is_empty() && name.iter().all(u8::is_ascii_alphabetic) => Escaped::Nothing,
        _ => return None,
    };
    Some((found, &text[end + 1..]))
}

/// `\u0041`, `\u{41}`, `\U00000041`, `\x41`, `\101` and `\n`. Other characters are kept.
fn backslash(text: &[u8]) -> Found<'_> {
    let (first, after) = text.split_first()?;
    let found = match first {
        b'u' | b'x' if after.starts_with(b"{") => {
            let (found, rest) = character(&after[1..], 16, 1, MAX_DIGITS)?;
            rest.strip_prefix(b"}").map(|rest| (found, rest))
        }
        b'u' => character(after, 16, 4, 4),
        b'U' => character(after, 16, 8, 8),
        b'x' => hex_byte(after),
        b'0'..=b'7' => character(text, 8, 3, 3),
        // The second backslash can begin an escape that was escaped itself.
        b'\\' => Some((Escaped::Byte(b'\\'), after)),
        _ => None,
    };
    found.or_else(|| first.is_ascii_lowercase().then_some((Escaped::Nothing, after)))
}

/// Parses the number at the beginning of the text, with the given minimum and maximum number of
/// digits, as a character.
fn character(text: &[u8], radix: u32, at_least: usize, at_most: usize) -> Found<'_> {
    let digits = text.iter().take(at_most).take_while(|&&byte| char::from(byte).is_digit(radix)).count();
    if digits < at_least {
        return None;
    }
    let (digits, rest) = text.split_at_checked(digits)?;
    Some((Escaped::Character(char::from_u32(number(digits, radix)?)?), rest))
}

fn number(digits: &[u8], radix: u32) -> Option<u32> {
    // A sign is not a digit.
    let is_number = digits.iter().all(|&byte| char::from(byte).is_digit(radix));
    u32::from_str_radix(str::from_utf8(digits).ok().filter(|_| is_number)?, radix).ok()
}

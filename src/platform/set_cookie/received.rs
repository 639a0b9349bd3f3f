//! One cookie with its attributes (RFC 6265, section 5.2).

use std::time::{Duration, SystemTime};

use crate::{base::clock::MAX_TIMESTAMP, http_client::date::parse_date};

/// A cookie, borrowed from its header.
#[derive(Default)]
pub(super) struct ReceivedCookie<'h> {
    /// Name; not empty, without `;` and `=`.
    pub(super) name: &'h [u8],
    /// Value; without `;`.
    pub(super) value: &'h [u8],
    /// `Domain` without a leading dot; empty if absent.
    pub(super) domain: &'h str,
    /// `Path`; empty if absent or if it means the default path.
    pub(super) path: &'h str,
    /// `SameSite` as sent; empty if absent.
    pub(super) same_site: &'h str,
    /// Whether `Secure` is present.
    pub(super) secure: bool,
    /// Whether `HttpOnly` is present.
    pub(super) http_only: bool,
    /// Number of known attributes with an invalid value.
    pub(super) ignored_attributes: u32,
    max_age: Option<Duration>,
    expires: Option<SystemTime>,
}

impl<'h> ReceivedCookie<'h> {
    /// Parses one cookie string; `None` if it has no `=` or no name.
    pub(super) fn parse(text: &'h [u8]) -> Option<Self> {
        let mut parts = text.split(|byte| *byte == b';');
        let (name, value) = split_pair(parts.next()?)?;
        if name.is_empty() {
            return None;
        }
        let mut cookie = Self { name, value, ..Self::default() };
        for attribute in parts {
            let (name, value) = split_pair(attribute).unwrap_or((attribute.trim_ascii(), b""));
            if cookie.set_attribute(name, value).is_none() {
                cookie.ignored_attributes += 1;
            }
        }
        Some(cookie)
    }

    /// Sets an attribute; the last valid one of each name counts. `None` if the attribute is known,
    /// but its value is invalid.
    fn set_attribute(&mut self, name: &[u8], value: &'h [u8]) -> Option<()> {
        let is = |attribute: &[u8]| name.eq_ignore_ascii_case(attribute);
        if is(b"expires") {
            self.expires = Some(parse_date(value)?);
        } else if is(b"max-age") {
            self.max_age = Some(max_age(value)?);
        } else if is(b"domain") {
            let domain = visible_text(value)?;
            if !domain.is_empty() {
                self.domain = domain.strip_prefix('.').unwrap_or(domain);
            }
        } else if is(b"path") {
            let path = visible_text(value)?;
            self.path = if path.starts_with('/') { path } else { "" };
        } else if is(b"samesite") {
            self.same_site = visible_text(value)?;
        } else if is(b"secure") {
            self.secure = true;
        } else if is(b"httponly") {
            self.http_only = true;
        }
        Some(())
    }

    /// Returns name and value as text, if they can be returned to a caller.
    pub(super) fn as_text(&self) -> Option<(&'h str, &'h str)> {
        let text = |bytes| {
            let text = str::from_utf8(bytes).ok()?;
            let is_clean = if text.is_ascii() {
                text.bytes().all(|byte| byte == b'\t' || !byte.is_ascii_control())
            } else {
                text.chars().all(|character| character == '\t' || !character.is_control())
            };
            is_clean.then_some(text)
        };
        Some((text(self.name)?, text(self.value)?))
    }

    /// Returns whether the later cookie replaces this one (RFC 6265, 5.3, step 11).
    pub(super) fn is_replaced_by(&self, later: &Self) -> bool {
        (self.name, self.path) == (later.name, later.path) && self.domain.eq_ignore_ascii_case(later.domain)
    }

    /// Returns whether the cookie has expired on arrival. `Max-Age` takes precedence over
    /// `Expires`.
    pub(super) fn has_expired(&self, now: SystemTime) -> bool {
        match self.max_age {
            Some(age) => age.is_zero(),
            None => self.expires.is_some_and(|expires| expires <= now),
        }
    }

    /// Returns the expiry time, within 1970 to 9999; `None` for a session cookie.
    pub(super) fn expires_at(&self, now: SystemTime) -> Option<SystemTime> {
        let latest = SystemTime::UNIX_EPOCH + MAX_TIMESTAMP;
        let expires = match self.max_age {
            Some(Duration::ZERO) => SystemTime::UNIX_EPOCH,
            Some(age) => now.checked_add(age).unwrap_or(latest),
            None => self.expires?,
        };
        Some(expires.clamp(SystemTime::UNIX_EPOCH, latest))
    }
}

/// Splits at the first `=` and trims both parts; `None` without `=`.
///
/// A header value contains no whitespace but SP and HTAB.
fn split_pair(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = text.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (&text[..equals], &text[equals + 1..]);
    Some((name.trim_ascii(), value.trim_ascii()))
}

/// Parses `Max-Age` (RFC 6265, section 5.2.2): digits, with a minus sign for a time in the past.
/// Returns zero for any time in the past.
fn max_age(value: &[u8]) -> Option<Duration> {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    if digits.len() < value.len() {
        return Some(Duration::ZERO);
    }
    // A number too large for the type exceeds the latest possible time.
    Some(Duration::from_secs(str::from_utf8(digits).ok()?.parse().unwrap_or(u64::MAX)))
}

/// Returns the value of an attribute, if it is UTF-8 without control characters.
fn visible_text(value: &[u8]) -> Option<&str> {
    str::from_utf8(value).ok().filter(|text| !text.chars().any(char::is_control))
}

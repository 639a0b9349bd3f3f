//! HTTP dates, parsed like browsers parse cookie dates.
//!
//! One parser for every date that a server sends (`Date`, `Expires`, `Retry-After`). It follows the
//! algorithm of RFC 6265, section 5.1.1, which finds the parts of a date in any order. This covers
//! the three formats of RFC 9110 and the many variations that servers send. It differs in two
//! points:
//!
//! - A numeric UTC offset after the time is applied. RFC 6265 ignores it, which misreads
//!   `08:00:00 +0200` by two hours. Zone names are ignored: every date without a numeric
//!   offset is UTC.
//! - Second 60 (a leap second) is read as second 59 instead of making the date unreadable.

use std::time::{Duration, SystemTime};

use time::{Date, Month, Time, UtcDateTime};

const MONTHS: [&[u8; 3]; 12] =
    [b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"];

/// Maximum distance of a time zone from UTC, in hours.
const MAX_OFFSET_HOURS: u16 = 14;

/// Parses a date.
///
/// Returns `None` if a part is missing or out of range, if the month does not have that
/// day, or if the year is before 1601. The result may be before 1970.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use ott_gateway::http_client::date::parse_date;
///
/// let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
/// for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "6-Nov-94 8:49:37", "Nov 6 10:49:37 +0200 1994"] {
///     assert_eq!(parse_date(text.as_bytes()), Some(expected));
/// }
/// ```
#[must_use]
pub fn parse_date(text: &[u8]) -> Option<SystemTime> {
    let (mut time, mut day, mut month, mut year, mut offset) = (None, None, None, None, None);
    let mut offset_may_follow = false;
    for (delimiter, token) in tokens(text) {
        if offset_may_follow && let Some(seconds) = utc_offset(delimiter, token, year.is_some()) {
            offset = Some(seconds);
            offset_may_follow = false;
            continue;
        }
        if time.is_none()
            && let Some(found) = time_of_day(token)
        {
            time = Some(found);
            offset_may_follow = true;
            continue;
        }
        offset_may_follow &= is_utc_name(token);
        if day.is_none()
            && let Some(found) = leading_number(token, 1, 2)
        {
            day = Some(found);
        } else if month.is_none()
            && let Some(found) = month_name(token)
        {
            month = Some(found);
        } else if year.is_none()
            && let Some(found) = leading_number(token, 2, 4)
        {
            year = Some(full_year(found));
        }
    }
    let [hour, minute, second] = time?;
    let year = year.filter(|year| *year >= 1601)?;
    let date = Date::from_calendar_date(year.into(), month?, day?.try_into().ok()?).ok()?;
    let second = if second == 60 { 59 } else { second };
    let time =
        Time::from_hms(hour.try_into().ok()?, minute.try_into().ok()?, second.try_into().ok()?).ok()?;
    system_time(UtcDateTime::new(date, time).unix_timestamp() - offset.unwrap_or(0))
}

/// Splits a date into tokens, each with the delimiter before it.
fn tokens(text: &[u8]) -> impl Iterator<Item = (Option<u8>, &[u8])> {
    let mut start = 0_usize;
    text.split(|byte| is_delimiter(*byte))
        .map(move |token| {
            let delimiter = start.checked_sub(1).and_then(|index| text.get(index)).copied();
            start += token.len() + 1;
            (delimiter, token)
        })
        .filter(|(_, token)| !token.is_empty())
}

const fn is_delimiter(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x20..=0x2f | 0x3b..=0x40 | 0x5b..=0x60 | 0x7b..=0x7e)
}

/// Reads `8:49:37`, optionally followed by a non-digit, as hours, minutes and seconds.
fn time_of_day(token: &[u8]) -> Option<[u16; 3]> {
    let mut fields = token.splitn(3, |byte| *byte == b':');
    Some([
        whole_number(fields.next()?)?,
        whole_number(fields.next()?)?,
        leading_number(fields.next()?, 1, 2)?,
    ])
}

/// Parses a UTC offset, in seconds: `+0200`, `+02:00`, or `+2` if `is_short_allowed`.
///
/// A four-digit year is never mistaken for an offset, because the largest offset is less than the
/// first valid year. A two-digit year or a day could be, so short offsets are only parsed after the
/// year has been found.
fn utc_offset(delimiter: Option<u8>, token: &[u8], is_short_allowed: bool) -> Option<i64> {
    let (hours, minutes) = match token {
        [hours @ .., b':', _, _] => (hours, &token[hours.len() + 1..]),
        [_, _, _, _] => token.split_at(2),
        _ if is_short_allowed => (token, b"0".as_slice()),
        _ => return None,
    };
    let (hours, minutes) = (whole_number(hours)?, whole_number(minutes)?);
    if hours > MAX_OFFSET_HOURS || minutes > 59 {
        return None;
    }
    let seconds = i64::from(hours) * 3600 + i64::from(minutes) * 60;
    match delimiter {
        Some(b'+') => Some(seconds),
        Some(b'-') => Some(-seconds),
        _ => None,
    }
}

fn is_utc_name(token: &[u8]) -> bool {
    [b"GMT".as_slice(), b"UTC", b"UT", b"Z"].iter().any(|name| name.eq_ignore_ascii_case(token))
}

fn month_name(token: &[u8]) -> Option<Month> {
    let name = token.first_chunk::<3>()?.to_ascii_lowercase();
    let index = MONTHS.iter().position(|month| **month == *name)?;
    Month::try_from(u8::try_from(index + 1).ok()?).ok()
}

/// Completes a two-digit year (RFC 6265, 5.1.1, steps 3 and 4).
const fn full_year(year: u16) -> u16 {
    match year {
        0..=69 => year + 2000,
        70..=99 => year + 1900,
        _ => year,
    }
}

/// Parses a number that consists of one or two digits only.
fn whole_number(text: &[u8]) -> Option<u16> {
    leading_number(text, 1, 2).filter(|_| text.len() <= 2 && text.iter().all(u8::is_ascii_digit))
}

/// Parses the number at the start of the text, if it has `min` to `max` digits (at most 4).
fn leading_number(text: &[u8], min: usize, max: usize) -> Option<u16> {
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if length < min || length > max {
        return None;
    }
    Some(text[..length].iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0')))
}

fn system_time(unix_seconds: i64) -> Option<SystemTime> {
    let distance = Duration::from_secs(unix_seconds.unsigned_abs());
    if unix_seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    }
}

#[cfg(test)]
mod tests;

//! `Retry-After` as a duration (RFC 9110, section 10.2.3).
//!
//! Clamping and jitter are left to the code that waits, and to the code that passes the delay to a
//! caller.

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap,
    header::{DATE, RETRY_AFTER},
};

use super::date::parse_date;

/// Delay assumed for a `Retry-After` that cannot be parsed.
///
/// The server asked for a pause of unknown length. Five seconds relieve it without a long delay.
pub const UNREADABLE_WAIT: Duration = Duration::from_secs(5);

/// Returns the delay that a response requests; `None` if it requests none.
///
/// - A number is in seconds. Decimals are rounded up.
/// - A date may have any format that [`parse_date`] accepts. It is compared with the response's
///   `Date`, so that the clocks need not agree, or with `now` if that is missing or invalid. A date
///   in the past means no delay.
/// - Whitespace and quotes around a value are ignored.
/// - Of several values, in one or more header lines, the longest delay counts.
/// - A value that cannot be parsed, such as a negative number, counts as [`UNREADABLE_WAIT`].
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    if !headers.contains_key(RETRY_AFTER) {
        return None;
    }
    let sent = headers.get_all(DATE).iter().find_map(|date| parse_date(date.as_bytes())).unwrap_or(now);
    let lines = headers.get_all(RETRY_AFTER).iter();
    lines.filter_map(|line| wait_of_line(line.as_bytes(), sent)).max().or(Some(UNREADABLE_WAIT))
}

/// Returns the longest delay in one header line; `None` if the line is empty.
fn wait_of_line(line: &[u8], sent: SystemTime) -> Option<Duration> {
    let values: Vec<&[u8]> = line
        .split(|byte| *byte == b',')
        .map(trim)
        // The comma after a weekday separates it from the rest of its date.
        .filter(|value| !value.is_empty() && !is_weekday(value))
        .collect();
    let waits: Vec<Option<Duration>> = values.iter().map(|value| wait(value, sent)).collect();
    if waits.iter().all(Option::is_none) && values.len() > 1 {
        // A date may also have commas elsewhere: "6 Nov 1994, 08:49:37".
        return Some(wait(line, sent).unwrap_or(UNREADABLE_WAIT));
    }
    waits.into_iter().map(|wait| wait.unwrap_or(UNREADABLE_WAIT)).max()
}

fn wait(value: &[u8], sent: SystemTime) -> Option<Duration> {
    seconds(value).or_else(|| {
        let until = parse_date(value)?;
        Some(until.duration_since(sent).unwrap_or(Duration::ZERO))
    })
}

/// Parses a number of seconds, rounded up.
fn seconds(value: &[u8]) -> Option<Duration> {
    let text = str::from_utf8(value).ok()?;
    // No letter but the exponent's, which excludes "inf" and "nan".
    if !text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte)) {
        return None;
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number too large for the type exceeds any limit.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && number.is_sign_positive())?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the number is not negative, and `as` turns one that is too large into the maximum"
    )]
    let whole = number.ceil() as u64;
    Some(Duration::from_secs(whole))
}

fn is_weekday(value: &[u8]) -> bool {
    let days = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    value.iter().all(u8::is_ascii_alphabetic)
        && value
            .get(..3)
            .is_some_and(|start| days.iter().any(|day| start.eq_ignore_ascii_case(day.as_bytes())))
}

fn trim(mut value: &[u8]) -> &[u8] {
    let is_padding = |byte: u8| matches!(byte, b' ' | b'\t' | b'"' | b'\'');
    while let [first, rest @ ..] = value
        && is_padding(*first)
    {
        value = rest;
    }
    while let [rest @ .., last] = value
        && is_padding(*last)
    {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(784_111_700);
    const DATE_30: &str = "Sun, 06 Nov 1994 08:49:30 GMT";

    fn read_optional(values: &[&[u8]], dates: &[&str]) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(RETRY_AFTER, HeaderValue::from_bytes(value).unwrap());
        }
        for date in dates {
            headers.append(DATE, HeaderValue::from_str(date).unwrap());
        }
        retry_after(&headers, SystemTime::UNIX_EPOCH + NOW)
    }

    fn read(values: &[&[u8]], dates: &[&str]) -> Duration {
        read_optional(values, dates).expect("a wait")
    }

    fn wait_of(text: &str) -> Duration {
        read(&[text.as_bytes()], &[])
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn response_without_the_header_has_no_delay() {
        assert_eq!(read_optional(&[], &[DATE_30]), None);
    }

    #[test]
    fn seconds_are_rounded_up_and_saturate() {
        for (text, expected) in [
            ("0", 0),
            ("7", 7),
            ("007", 7),
            (" 7\t", 7),
            ("\"7\"", 7),
            ("' 7 '", 7),
            ("+7", 7),
            ("7.", 7),
            ("7.0", 7),
            ("2.542", 3),
            ("0.001", 1),
            (".5", 1),
            ("1e-05", 1),
            ("1.5E1", 15),
            ("99999999999999999999999", u64::MAX),
            ("99999999999999999999999.5", u64::MAX),
            ("1e300", u64::MAX),
        ] {
            assert_eq!(wait_of(text), seconds(expected), "{text}");
        }
        assert_eq!(wait_of(&"9".repeat(400)), seconds(u64::MAX));
    }

    #[test]
    fn invalid_value_counts_as_five_seconds() {
        for text in [
            "",
            "  ",
            "\"\"",
            ",",
            "soon",
            "Sunday",
            "7s",
            "7 seconds",
            "1,x",
            "NaN",
            "inf",
            "-inf",
            "infinity",
            "1e999",
            "-1",
            "-0.5",
            "-0",
            "-1e999",
            "0x7",
            "1_0",
            "--1",
            "1.2.3",
            "e",
            ".",
            "-",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            "1994-11-06T08:49:37Z",
        ] {
            assert_eq!(wait_of(text), seconds(5), "{text}");
        }
        assert_eq!(read(&[b"\xff\xfe"], &[]), seconds(5));
    }

    #[test]
    fn longest_of_several_values_counts() {
        for (values, expected) in [
            (&["120, 120"][..], 120),
            (&["1,120,3"], 120),
            (&["120", "7"], 120),
            (&["7", "", "soon"], 7),
            (&["2, soon"], 5),
            (&["3", DATE_30, "4"], 30),
            (&["Sun, 06 Nov 1994 08:49:00 GMT, Sunday, 06-Nov-94 08:49:30 GMT"], 30),
            (&["Sun, 06 Nov 1994 08:49:30 GMT, 31.5"], 32),
        ] {
            let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
            let date = "Sun, 06 Nov 1994 08:49:00 GMT";
            assert_eq!(read(&values, &[date]), seconds(expected), "{values:?}");
        }
    }

    #[test]
    fn every_spelling_of_a_date_is_relative_to_the_date_of_the_response() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 6 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 10:49:37 +0200",
            "\"06 Nov 1994 08:49:37\"",
            "6 November 1994, 08:49:37",
        ] {
            for date in [DATE_30, "Sunday, 06-Nov-94 08:49:30 UTC", "6 Nov 1994 02:49:30 -0600"] {
                assert_eq!(read(&[text.as_bytes()], &[date]), seconds(7), "{text} at {date}");
            }
        }
        let value: &[&[u8]] = &[b"Sun, 06 Nov 1994 08:49:00 GMT"];
        assert_eq!(read(value, &[DATE_30]), seconds(0), "in the past");
    }

    #[test]
    fn own_clock_is_used_if_the_response_has_no_valid_date() {
        let value: &[&[u8]] = &[b"Sun, 06 Nov 1994 08:49:37 GMT"];
        assert_eq!(read(value, &[]), seconds(77));
        assert_eq!(read(value, &["today"]), seconds(77));
        assert_eq!(read(value, &["today", DATE_30]), seconds(7));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn arbitrary_values_never_panic_and_always_have_a_delay(
            values in prop::collection::vec("[ -~\\x{80}-\\x{ff}]{0,24}|[-+0-9.eE, ]{0,12}", 1..4),
            date in "[ -~]{0,32}",
        ) {
            let values: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
            prop_assert!(read_optional(&values, &[&date]).is_some());
        }

        #[test]
        fn decimals_are_never_rounded_down(whole in 0_u32.., fraction in "[0-9]{1,9}") {
            let text = format!("{whole}.{fraction}");
            let up = u64::from(fraction.bytes().any(|digit| digit != b'0'));
            prop_assert_eq!(wait_of(&text), seconds(u64::from(whole) + up));
        }

        #[test]
        fn delay_of_a_date_is_its_distance(ahead in 0_u64..1_000_000_000) {
            let until = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + NOW + Duration::from_secs(ahead));
            prop_assert_eq!(wait_of(&until), seconds(ahead));
        }
    }
}

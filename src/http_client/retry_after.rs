//! `Retry-After` as a duration (RFC 9110, 10.2.3).
//!
//! Nothing is clamped here: how long is waited, and how much is passed on, is decided
//! by who waits and who passes it on.

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap,
    header::{DATE, RETRY_AFTER},
};

/// How long the answer asks to wait. A date (any of the three forms of RFC 9110, 5.6.7)
/// is read against the answer's own `Date`, so that no shared clock is needed, and
/// against `now` only if there is none; one that has passed is no wait at all.
/// None if the header is missing or is neither.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Too long for a number is longer than anyone waits.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let answered = headers
        .get(DATE)
        .and_then(|date| date.to_str().ok())
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .unwrap_or(now);
    Some(until.duration_since(answered).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(text: &'static str, date: Option<&'static str>) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
        if let Some(date) = date {
            headers.insert(DATE, HeaderValue::from_static(date));
        }
        retry_after(&headers, SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_700))
    }

    #[test]
    fn seconds_are_read_and_saturate() {
        assert_eq!(read("7", None), Some(Duration::from_secs(7)));
        assert_eq!(read("0", None), Some(Duration::ZERO));
        assert_eq!(read("99999999999999999999999", None), Some(Duration::from_secs(u64::MAX)));
    }

    #[test]
    fn what_is_no_wait_is_ignored() {
        for text in ["-1", "1.5", "soon", "", "+3", "1e3"] {
            assert_eq!(read(text, None), None, "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), SystemTime::UNIX_EPOCH), None);
    }

    #[test]
    fn all_three_forms_of_a_date_are_read_against_the_date_of_the_answer() {
        let date = Some("Sun, 06 Nov 1994 08:49:30 GMT");
        for text in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            assert_eq!(read(text, date), Some(Duration::from_secs(7)), "{text}");
        }
        assert_eq!(read("Sun, 06 Nov 1994 08:49:00 GMT", date), Some(Duration::ZERO), "in the past");
        assert_eq!(
            read("Sun, 06 Nov 1994 08:49:37 GMT", None),
            Some(Duration::from_secs(77)),
            "against our own clock"
        );
    }
}

//! Lifetime of an access token, read from the token response.
//!
//! A lifetime that cannot be read counts as missing: the token is used for a few minutes and
//! then renewed.

use std::time::{Duration, SystemTime};

use serde_json::value::RawValue;

use crate::http_client::json::Object;

/// Lifetime assumed if the response reports none.
const ASSUMED: Duration = Duration::from_mins(5);

/// A longer lifetime is reported as a problem. `access_token` uses a token for less than this.
const MAX: Duration = Duration::from_hours(30 * 24);

/// An `expires_on` further away than this is not a time in seconds: 100 years.
const MAX_EXPIRES_ON_SECONDS: f64 = 100.0 * 365.25 * 86_400.0;

/// Lifetime, and the problem with the one in the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifetime {
    pub(super) duration: Duration,
    pub(super) problem: Option<Problem>,
}

/// Problem with the lifetime in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// Neither `expires_in` nor `expires_on`.
    Missing,
    /// `expires_in` is not a positive number; `expires_on` is used instead.
    ExpiresInUnusable,
    /// Neither can be used.
    Unusable,
    /// More than 30 days.
    TooLong,
}

impl Problem {
    /// Returns the text for the log.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Missing => "the response contains neither expires_in nor expires_on; assuming 5 minutes",
            Self::ExpiresInUnusable => "expires_in is not a positive number of seconds; using expires_on",
            Self::Unusable => {
                "expires_in is not a positive number of seconds, and expires_on is not a time in the future; \
                 assuming 5 minutes"
            }
            Self::TooLong => "the lifetime is longer than 30 days; using 30 days",
        }
    }
}

/// Reads the lifetime: `expires_in` in seconds, or else `expires_on` in Unix time, relative to
/// `now`, the time of the response.
pub(super) fn read(response: &Object<'_>, now: SystemTime) -> Lifetime {
    let present = |name| response.raw(name).filter(|value| value.get() != "null");
    let (lifetime, end) = (present("expires_in"), present("expires_on"));
    if let Some(seconds) = lifetime.and_then(number).and_then(positive) {
        return reported(seconds, None);
    }
    let problem = lifetime.map(|_| Problem::ExpiresInUnusable);
    if let Some(seconds) = end.and_then(number).and_then(|moment| until(moment, now)) {
        return reported(seconds, problem);
    }
    let is_missing = lifetime.is_none() && end.is_none();
    let problem = if is_missing { Problem::Missing } else { Problem::Unusable };
    Lifetime { duration: ASSUMED, problem: Some(problem) }
}

fn reported(seconds: f64, problem: Option<Problem>) -> Lifetime {
    if seconds > MAX.as_secs_f64() {
        return Lifetime { duration: MAX, problem: Some(Problem::TooLong) };
    }
    // The value is within bounds, so the conversion cannot fail.
    let duration = Duration::try_from_secs_f64(seconds).unwrap_or(ASSUMED);
    Lifetime { duration, problem }
}

/// Returns the whole seconds, or `None` if there are less than one.
fn positive(seconds: f64) -> Option<f64> {
    Some(seconds.floor()).filter(|seconds| *seconds >= 1.0)
}

/// Returns the seconds until a Unix time. Milliseconds are recognized by their magnitude.
fn until(moment: f64, now: SystemTime) -> Option<f64> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let seconds = moment.floor() - now.floor();
    if seconds <= MAX.as_secs_f64() {
        return positive(seconds);
    }
    let from_milliseconds = (moment / 1000.0).floor() - now.floor();
    match positive(from_milliseconds) {
        Some(seconds) if seconds <= MAX.as_secs_f64() => Some(seconds),
        _ => Some(seconds).filter(|seconds| *seconds <= MAX_EXPIRES_ON_SECONDS),
    }
}

/// Parses a number in any spelling: a JSON number, or a string that contains one, with or without
/// whitespace and the unit `s`. A number too large for `f64` is infinite.
fn number(value: &RawValue) -> Option<f64> {
    let text = serde_json::from_str::<String>(value.get()).ok();
    let text = text.as_deref().unwrap_or(value.get()).trim();
    let text = text.strip_suffix('s').unwrap_or(text).trim_end();
    // `f64` also parses "inf" and "nan".
    let is_numeric = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E');
    if !text.bytes().all(is_numeric) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 11 July 2019, 16:56:04 UTC, an hour before the documented `expires_on` of 1562867764.
    const NOW: u64 = 1_562_864_164;
    const DAY: u64 = 24 * 60 * 60;

    fn lifetime(members: &str) -> (u64, Option<Problem>) {
        let json = format!("{{{members}}}");
        let object = Object::parse(json.as_bytes()).expect("a JSON object");
        let Lifetime { duration, problem } = read(&object, SystemTime::UNIX_EPOCH + Duration::from_secs(NOW));
        (duration.as_secs(), problem)
    }

    #[test]
    fn expires_in_is_read_in_any_numeric_spelling_and_rounded_down() {
        for spelling in [
            "7200",
            "7200.0",
            "7200.9",
            "7.2e3",
            "72E2",
            "0.72e4",
            r#""7200""#,
            r#"" 7200 ""#,
            r#""7200.0""#,
            r#""7.2e3""#,
            r#""+7200""#,
            r#""07200""#,
            r#""7200s""#,
            r#""7200 s""#,
            r#""7200\n""#,
        ] {
            assert_eq!(lifetime(&format!(r#""expires_in":{spelling}"#)), (7200, None), "{spelling}");
        }
    }

    #[test]
    fn expires_in_precedes_expires_on_and_the_last_duplicate_counts() {
        assert_eq!(lifetime(r#""expires_in":60,"expires_on":1562867764"#), (60, None));
        assert_eq!(lifetime(r#""expires_in":60,"expires_on":1"#), (60, None));
        assert_eq!(lifetime(r#""expires_in":60,"expires_in":90"#), (90, None));
        assert_eq!(lifetime(r#""expires_in":null,"expires_on":1562867764"#), (3600, None));
    }

    #[test]
    fn unusable_expires_in_counts_as_missing() {
        for spelling in [
            "0",
            "-1",
            "-0",
            "0.5",
            "-7200",
            r#""0""#,
            r#""soon""#,
            r#""""#,
            r#"" ""#,
            "true",
            "[]",
            "[7200]",
            "{}",
            r#""PT2H""#,
            r#""2h""#,
            r#""7,200""#,
            r#""7_200""#,
            r#""0x1C20""#,
            r#""inf""#,
            r#""NaN""#,
            r#""infinity""#,
            r#""1e""#,
            r#""--5""#,
            r#""-inf""#,
            "-1e999",
            r#""\ud83d""#,
        ] {
            let expires_in = format!(r#""expires_in":{spelling}"#);
            assert_eq!(lifetime(&expires_in), (300, Some(Problem::Unusable)), "{spelling}");
            let both = format!(r#"{expires_in},"expires_on":1562867764"#);
            assert_eq!(lifetime(&both), (3600, Some(Problem::ExpiresInUnusable)), "{spelling}");
        }
    }

    #[test]
    fn expires_on_is_compared_with_the_time_of_the_response() {
        for spelling in [
            "1562867764",
            "1562867764.9",
            r#""1562867764""#,
            r#"" 1562867764 ""#,
            "1.562867764e9",
            "1562867764000",
        ] {
            assert_eq!(lifetime(&format!(r#""expires_on":{spelling}"#)), (3600, None), "{spelling}");
        }
        // In the past, now, microseconds, a date, nonsense.
        for spelling in [
            "1562864164",
            "1562864163",
            "1",
            "0",
            "-1",
            "-1e999",
            "1562867764000000",
            "1e300",
            "1e999",
            r#""2019-07-11T17:56:04Z""#,
            r#""soon""#,
            "{}",
            "true",
        ] {
            let expected = (300, Some(Problem::Unusable));
            assert_eq!(lifetime(&format!(r#""expires_on":{spelling}"#)), expected, "{spelling}");
        }
    }

    #[test]
    fn missing_lifetime_defaults_to_five_minutes() {
        for members in ["", r#""expires_in":null"#, r#""expires_in":null,"expires_on":null"#] {
            assert_eq!(lifetime(members), (300, Some(Problem::Missing)), "{members}");
        }
    }

    #[test]
    fn lifetime_is_capped_at_thirty_days() {
        assert_eq!(lifetime(r#""expires_in":2592000"#), (30 * DAY, None));
        for members in [
            r#""expires_in":2592001"#,
            r#""expires_in":31536000"#,
            r#""expires_in":9223372036854775808"#,
            r#""expires_in":1e999"#,
            r#""expires_in":"99999999999999999999999999""#,
            // A year from now.
            r#""expires_on":1594400164"#,
        ] {
            assert_eq!(lifetime(members), (30 * DAY, Some(Problem::TooLong)), "{members}");
        }
    }

    proptest! {
        #[test]
        fn any_lifetime_is_positive_and_at_most_thirty_days(
            expires_in in value(), expires_on in value()
        ) {
            let (seconds, problem) =
                lifetime(&format!(r#""expires_in":{expires_in},"expires_on":{expires_on}"#));
            prop_assert!((1..=30 * DAY).contains(&seconds));
            prop_assert!(problem.is_none() || seconds == 300 || problem != Some(Problem::Missing));
        }
    }

    /// Any JSON value.
    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<f64>().prop_map(|number| serde_json::json!(number).to_string()),
            any::<i64>().prop_map(|number| number.to_string()),
            "[0-9]{1,30}(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,3})?".prop_filter_map("JSON", |text| {
                let text = text.trim_start_matches('0').to_owned();
                serde_json::from_str::<&RawValue>(&text).is_ok().then_some(text)
            }),
            any::<String>().prop_map(|text| serde_json::json!(text).to_string()),
            Just("null".to_owned()),
            Just("[{}]".to_owned()),
        ]
    }
}

use http::header::{CONTENT_TYPE, RETRY_AFTER};

use super::*;

/// The answers' clock: 11 July 2019, 16:56:04 UTC, an hour before the documented
/// `expires_on` of 1562867764.
const NOW: u64 = 1_562_864_164;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

fn granted(body: &str) -> Result<Fetched, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, "application/json; charset=utf-8".parse().expect("a header value"));
    let body = Ok(Zeroizing::new(body.as_bytes().to_vec()));
    Answer { status: StatusCode::OK, headers: &headers, body, now: now() }.judge()
}

fn life_of(rest: &str) -> Option<u64> {
    let fetched = granted(&format!(r#"{{"access_token":"good"{rest}}}"#));
    match fetched {
        Ok(fetched) => Some(fetched.lifetime().as_secs()),
        Err(failure) => {
            assert!(matches!(failure.error, CredentialError::Failing { .. }), "{failure:?}");
            None
        }
    }
}

#[test]
fn lifetime_is_what_the_answer_says_by_its_own_clock() {
    for (rest, expected) in [
        (r#","expires_in":7200"#, Some(7200)),
        (r#","expires_in":"7200""#, Some(7200)),
        (r#","expires_on":1562867764"#, Some(3600)),
        (r#","expires_on":"1562867764""#, Some(3600)),
        // Both: the one that needs no shared clock.
        (r#","expires_in":60,"expires_on":1562867764"#, Some(60)),
        (r#","expires_in":60,"expires_on":1"#, Some(60)),
        // Neither: five minutes.
        ("", Some(300)),
        (r#","expires_in":null,"expires_on":null"#, Some(300)),
        // Believed, but renewed every day.
        (r#","expires_in":2592000"#, Some(24 * 60 * 60)),
        // Absurd: too long, in milliseconds, not integer, not a number.
        (r#","expires_in":2592001"#, None),
        (r#","expires_on":1562867764000"#, None),
        (r#","expires_in":9223372036854775808"#, None),
        (r#","expires_on":-9223372036854775808"#, None),
        (r#","expires_in":7200.0"#, None),
        (r#","expires_in":7.2e3"#, None),
        (r#","expires_in":"7200.5""#, None),
        (r#","expires_in":"soon""#, None),
        (r#","expires_in":"","expires_on":1562867764"#, None),
        (r#","expires_in":true"#, None),
        (r#","expires_on":{}"#, None),
        // Over already.
        (r#","expires_in":0"#, None),
        (r#","expires_in":-1"#, None),
        (r#","expires_on":1562864164"#, None),
        (r#","expires_on":1"#, None),
    ] {
        assert_eq!(life_of(rest), expected, "{rest}");
    }
}

#[test]
fn token_is_taken_only_if_it_is_one() {
    for body in [
        r#"{"access_token":"good","expires_in":7200,"token_type":"bearer","id_token":"x","new":[1]}"#,
        r#"{"access_token":"good","expires_in":7200,"token_type":"Bearer"}"#,
        r#"{"access_token":"good","expires_in":7200,"token_type":null}"#,
        r#"{"access_token":"\u0067ood","expires_in":7200}"#,
    ] {
        assert_eq!(granted(body).expect(body).header(), "Bearer good");
    }
    for body in [
        "",
        "null",
        "[]",
        r#""good""#,
        "{}",
        r#"{"expires_in":7200}"#,
        r#"{"access_token":null,"expires_in":7200}"#,
        r#"{"access_token":"","expires_in":7200}"#,
        r#"{"access_token":7,"expires_in":7200}"#,
        r#"{"access_token":["good"],"expires_in":7200}"#,
        r#"{"access_token":"two words","expires_in":7200}"#,
        r#"{"access_token":"a\r\nb","expires_in":7200}"#,
        r#"{"access_token":"\u00e4","expires_in":7200}"#,
        r#"{"access_token":"good","expires_in":7200,"token_type":"mac"}"#,
        r#"{"access_token":"good","expires_in":7200}}"#,
        r#"{"access_token":"good","expires_in":7200"#,
    ] {
        let failure = granted(body).expect_err(body);
        assert!(matches!(failure.error, CredentialError::Failing { .. }), "{body}: {failure:?}");
    }
    let long = format!(r#"{{"access_token":"{}","expires_in":7200}}"#, "a".repeat(16 * 1024 + 1));
    assert!(granted(&long).is_err());
}

#[test]
fn retry_after_is_read_in_all_its_forms_and_kept_within_bounds() {
    for (text, expected_ms) in [
        ("7", 7_000),
        (" 7 ", 7_000),
        ("0", 100),
        ("30", 30_000),
        ("31", 30_000),
        ("99999999999999999999999", 30_000),
        ("7.5", 8_000),
        // An unreadable value counts as 5 seconds.
        ("-1", 5_000),
        ("", 5_000),
        ("soon", 5_000),
        // The three forms of a date (RFC 9110), against the answer's own.
        ("Thu, 11 Jul 2019 16:56:14 GMT", 10_000),
        ("Thursday, 11-Jul-19 16:56:14 GMT", 10_000),
        ("Thu Jul 11 16:56:14 2019", 10_000),
        ("Thu, 11 Jul 2019 16:00:00 GMT", 100),
        ("Fri, 11 Jul 2059 16:00:00 GMT", 30_000),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, text.parse().expect("a header value"));
        let body = Ok(Zeroizing::default());
        let answer = Answer { status: StatusCode::TOO_MANY_REQUESTS, headers: &headers, body, now: now() };
        let failure = answer.judge().expect_err("a 429 is a failure");
        assert_eq!(failure.retry_after, Some(Duration::from_millis(expected_ms)), "{text}");
    }
}

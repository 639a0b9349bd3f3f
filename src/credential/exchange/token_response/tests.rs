use http::header::{CONTENT_TYPE, RETRY_AFTER};

use super::*;

/// The clock of the responses: 11 July 2019, 16:56:04 UTC, an hour before the documented
/// `expires_on` of 1562867764.
const NOW: u64 = 1_562_864_164;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

fn granted(body: &str) -> Result<Fetched, CredentialError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, "application/json; charset=utf-8".parse().expect("a header value"));
    let body = Ok(Zeroizing::new(body.as_bytes().to_vec()));
    TokenResponse { status: StatusCode::OK, headers: &headers, body, now: now() }
        .interpret()
        .map(|granted| granted.token)
}

#[test]
fn only_well_formed_tokens_are_accepted() {
    for body in [
        r#"{"access_token":"good","expires_in":7200,"token_type":"bearer","id_token":"x","new":[1]}"#,
        r#"{"access_token":"good","expires_in":7200,"token_type":"Bearer"}"#,
        r#"{"access_token":"good","expires_in":7200,"token_type":null}"#,
        r#"{"access_token":"\u0067ood","expires_in":7200}"#,
        r#"{"access_token":"good","token_type":" Bearer "}"#,
        r#"{"access_token":"good","token_type":""}"#,
        r#"{"access_token":"good","token_type":7}"#,
        r#"{"access_token":" good\n"}"#,
        // The last of duplicate members counts.
        r#"{"access_token":"bad","token_type":"mac","access_token":"good","token_type":"bearer"}"#,
        // A byte order mark is skipped.
        "\u{feff}{\"access_token\":\"good\"}",
        // A lifetime that cannot be read does not make the token unusable.
        r#"{"access_token":"good","expires_in":"soon","expires_on":{}}"#,
        r#"{"access_token":"good","expires_in":-1}"#,
        // Invalid Unicode in a member that is not read.
        r#"{"access_token":"good","scope":"\ud83d"}"#,
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
        assert_eq!(failure.kind(), CredentialErrorKind::Failing, "{body}");
    }
    let long = format!(r#"{{"access_token":"{}","expires_in":7200}}"#, "a".repeat(16 * 1024 + 1));
    assert!(granted(&long).is_err());
}

#[test]
fn cause_contains_only_the_status_and_known_codes() {
    use CredentialErrorKind::{Blocked, Failing, Protocol, Rejected};
    for (status, body, kind, cause) in [
        (400, r#"{"error":"invalid_client"}"#, Rejected, "HTTP status 400, error invalid_client"),
        (
            400,
            r#"{"error":"invalid_scope"}"#,
            Protocol { status: 400 },
            "HTTP status 400, error invalid_scope",
        ),
        (400, r#"{"error":"canary"}"#, Protocol { status: 400 }, "HTTP status 400"),
        (400, r#"{"error":{"code":1018,"message":"canary"}}"#, Rejected, "HTTP status 400, API code 1018"),
        (400, r#"{"error":{"code":" 1018 "}}"#, Rejected, "HTTP status 400, API code 1018"),
        (400, r#"{"error":{"code":"canary"}}"#, Protocol { status: 400 }, "HTTP status 400"),
        (400, "canary", Protocol { status: 400 }, "HTTP status 400"),
        (403, "\u{feff}{\"error\":\"access_denied\"}", Rejected, "HTTP status 403, error access_denied"),
        (403, "canary", Blocked, "HTTP status 403"),
        (401, "canary", Rejected, "HTTP status 401"),
        (503, "canary", Failing, "HTTP status 503"),
        (307, "canary", Protocol { status: 307 }, "HTTP status 307"),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, "application/json".parse().expect("a header value"));
        let status = StatusCode::from_u16(status).expect("a status");
        let body = Ok(Zeroizing::new(body.as_bytes().to_vec()));
        let error =
            TokenResponse { status, headers: &headers, body, now: now() }.interpret().expect_err("a failure");
        assert_eq!((error.kind(), error.cause()), (kind, cause));
    }
}

#[test]
fn retry_after_is_parsed_in_every_form_and_clamped() {
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
        // The three date formats (RFC 9110), relative to the `Date` of the response.
        ("Thu, 11 Jul 2019 16:56:14 GMT", 10_000),
        ("Thursday, 11-Jul-19 16:56:14 GMT", 10_000),
        ("Thu Jul 11 16:56:14 2019", 10_000),
        ("Thu, 11 Jul 2019 16:00:00 GMT", 100),
        ("Fri, 11 Jul 2059 16:00:00 GMT", 30_000),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, text.parse().expect("a header value"));
        let body = Ok(Zeroizing::default());
        let answer =
            TokenResponse { status: StatusCode::TOO_MANY_REQUESTS, headers: &headers, body, now: now() };
        let failure = answer.interpret().expect_err("a 429 is a failure");
        assert_eq!(failure.retry_after(), Some(Duration::from_millis(expected_ms)), "{text}");
    }
}

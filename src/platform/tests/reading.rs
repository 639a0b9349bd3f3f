//! Nonstandard responses that browsers and the vendor's samples accept.

use super::fixture::*;

const ACCOUNT: &str = r#"{"id":"42","login":"john"}"#;

/// A 200 response to a login, with these header lines.
fn login_response(header_lines: &str, body: &str) -> Behaviour {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n");
    Behaviour::Raw(format!("{head}{header_lines}\r\n{body}").into_bytes())
}

async fn log_in_with(header_lines: &str, body: &str) -> Result<String, Failed> {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    upstream.next(LOGIN, login_response(header_lines, body));
    let logged_in = log_in(&client, &upstream.token(), &call()).await;
    logs_in(&client, &upstream).await;
    logged_in.map(|logged_in| logged_in.session.cookie_header().expose().to_owned())
}

#[tokio::test]
async fn malformed_header_lines_that_are_not_read_do_not_fail_a_login() {
    for lines in [
        "Content-Security-Policy: default-src 'self';\r\n  img-src *;\r\n\tscript-src 'none'\r\n",
        "X-Empty:\r\n folded\r\n",
        "X-Space : 1\r\n",
        "X Junk: 1\r\n",
        "no colon at all\r\n",
        ": no name\r\n",
        "X-Control: a\x01b\r\n",
        "X-Latin: caf\u{e9}\r\n",
    ] {
        let session = log_in_with(&format!("{lines}Set-Cookie: sid=1; Path=/\r\n"), ACCOUNT).await;
        assert_eq!(session.unwrap(), "sid=1", "{lines:?}");
    }
}

#[tokio::test]
async fn number_of_header_lines_is_bounded_by_their_bytes() {
    let lines = |count: u32, line: &dyn Fn(u32) -> String| (0..count).map(line).collect::<Vec<_>>().concat();
    let cookies = lines(32, &|n| format!("Set-Cookie: c{n}=v\r\n"));
    for others in [75, 101, 1100] {
        let others = lines(others, &|n| format!("X-{n}: 1\r\n"));
        let session = log_in_with(&format!("{others}{cookies}"), ACCOUNT).await.unwrap();
        assert_eq!(session.split("; ").count(), 32);
    }
    let large = lines(65, &|n| format!("X-{n}: {}\r\n", "x".repeat(1024)));
    let error = log_in_with(&format!("{large}{cookies}"), ACCOUNT).await.unwrap_err();
    assert!(matches!(error.kind, PlatformError::Malformed(Malformation::Headers)), "{error:?}");
    assert_eq!(error.certainty, Certainty::Done);
}

/// Room for many header lines is allocated only for a platform that sends them.
#[tokio::test]
async fn many_header_lines_cost_one_attempt_at_minting_and_only_once() {
    let lines = (0..1100).map(|n| format!("X-{n}: 1\r\n")).collect::<Vec<_>>().concat();
    let body = r#"{"ott":"OTT"}"#;
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    let response = Behaviour::Raw(format!("{head}{lines}\r\n{body}").into_bytes());
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    for attempts in [2, 1, 1] {
        for _ in 0..attempts {
            upstream.next(OTT, response.clone());
        }
        let call = call();
        issue(&client, &call).await.unwrap();
        assert_eq!(call.attempts(), attempts);
    }
    issues(&client).await;
}

#[tokio::test]
async fn byte_order_mark_before_the_account_is_skipped() {
    let session = log_in_with("Set-Cookie: sid=1\r\n", &format!("\u{feff}{ACCOUNT}")).await;
    assert_eq!(session.unwrap(), "sid=1");
}

#[tokio::test]
async fn unrequested_content_coding_is_reported() {
    let error = log_in_with("Content-Encoding: gzip\r\n", "\u{1f}\u{8b}...").await.unwrap_err();
    assert!(matches!(error.kind, PlatformError::Malformed(Malformation::ContentCoding)), "{error:?}");
    for label in ["identity", "Identity", "", "identity, identity", "utf-8", "gzip"] {
        let lines = format!("Content-Encoding: {label}\r\nSet-Cookie: sid=1\r\n");
        assert_eq!(log_in_with(&lines, ACCOUNT).await.unwrap(), "sid=1", "{label:?}");
    }
}

#[tokio::test]
async fn every_failure_has_a_cause_for_the_operator() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, Limits { max_attempts: 1, ..quick() });
    for (behaviour, cause) in [
        (Answer::html(200).into(), "content type"),
        (Answer::json(200, "{}").into(), "one-time token"),
        (Answer::json(200, "[").into(), "not a JSON object"),
        (Answer::json(200, "?").header("content-encoding", "br").into(), "compressed"),
        (Behaviour::Huge { status: 200, bytes: 20_000, announced: true }, "too large"),
        (Answer::html(403).into(), "HTTP status 403 without the platform's error object"),
        (Answer::json(400, r#"{"error":{"code":1018}}"#).into(), "HTTP status 400, API code 1018"),
        (Behaviour::Close, "connection closed before message completed"),
        (Behaviour::Raw(b"NONSENSE\r\n\r\n".to_vec()), "invalid HTTP version parsed"),
        (Behaviour::ShortAfter(5, Answer::json(200, r#"{"ott":"OTT"}"#)), "truncated"),
    ] {
        upstream.next(OTT, behaviour.clone());
        let error = issue(&client, &call()).await.unwrap_err().kind.to_string();
        assert!(error.contains(cause), "{behaviour:?}: {error}");
    }
    issues(&client).await;
    let address = upstream.address();
    drop(upstream);
    let url = format!("http://{address}");
    let client = client_of(
        &url,
        None,
        Limits { max_attempts: 1, ..quick() },
        crate::credential::Credential::for_test(),
    );
    let error = issue(&client, &call()).await.unwrap_err().kind.to_string();
    assert!(error.to_lowercase().contains("connection refused"), "{error}");
}

//! Issuing under faults: the number of requests, and the result.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::timeout};

use super::fixture::*;
use crate::{
    base::clock::{self, WallClock},
    credential::{Credential, CredentialErrorKind},
};

/// Applies the behaviour until the call has failed, and then checks that the platform works again.
async fn under(behaviour: impl Into<Behaviour>) -> (Failed, usize, Call) {
    let upstream = Upstream::http().await;
    let behaviour = behaviour.into();
    let client = client(&upstream, limits_under(&behaviour));
    upstream.always(OTT, behaviour);
    let call = call();
    let error = issue(&client, &call).await.unwrap_err();
    let asked = upstream.count(OTT);
    assert_eq!(call.attempts(), u32::try_from(asked).unwrap());
    assert_eq!(call.certainty(), error.certainty);
    upstream.always(OTT, Behaviour::Healthy);
    issues(&client).await;
    assert_eq!(upstream.count(OTT), asked + 1);
    (error, asked, call)
}

fn platform_error(status: u16, code: &str, message: &str) -> Answer {
    Answer::json(
        status,
        format!(r#"{{"error":{{"code":{code},"message":"{message}","domain":"PlatformAccountServer"}}}}"#),
    )
}

fn answer(error: &Failed) -> &crate::platform::error::ErrorResponse {
    let PlatformError::Response(answer) = &error.kind else { panic!("{error:?}") };
    answer
}

#[tokio::test]
async fn token_expires_thirty_seconds_after_its_request_was_sent() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    let held = Arc::new(Semaphore::new(0));
    upstream.next(OTT, Behaviour::Held(Arc::clone(&held), Box::new(Behaviour::Healthy)));
    let before = WallClock::system().now();
    let call = call();
    let permit = issue_permit(subject("john@example.com"));
    let span = CallSpan::default();
    let (issued, sent) = tokio::join!(client.issue_ott(&permit, &call, &span), async {
        upstream.wait_for(OTT, 1).await;
        let sent = WallClock::system().now();
        tokio::time::sleep(Duration::from_millis(100)).await;
        held.add_permits(1);
        sent
    });
    let issued = issued.unwrap();
    let life = Duration::from_secs(30);
    assert!(issued.expires_at >= before + life && issued.expires_at <= sent + life);
    assert_eq!(issued.ott.expose(), "OTT-1");
    assert_eq!((call.certainty(), call.http_status()), (Certainty::Done, Some(200)));
}

#[tokio::test]
async fn interrupted_minting_is_attempted_three_times_and_its_outcome_is_unknown() {
    let cut = || Answer::json(200, r#"{"ott":"OTT-CUT"}"#);
    for behaviour in [
        Behaviour::Reset,
        Behaviour::Close,
        Behaviour::CutAfter(9, cut()),
        Behaviour::ShortAfter(9, cut()),
        Behaviour::Stall,
        Behaviour::Drip(Duration::from_secs(1), cut()),
        Behaviour::HeaderFlood,
    ] {
        let (error, asked, _) = under(behaviour.clone()).await;
        assert!(matches!(error.kind, PlatformError::Interrupted(_)), "{behaviour:?}: {error:?}");
        assert_eq!((asked, error.certainty), (3, Certainty::Unknown), "{behaviour:?}");
    }
}

#[tokio::test]
async fn issuing_is_attempted_three_times_after_server_errors() {
    for behaviour in [
        Behaviour::from(platform_error(500, "1000", "internal")),
        Answer::html(502).into(),
        Answer::empty(503).into(),
        Answer::empty(408).into(),
        Answer::html(425).into(),
        Answer::empty(499).into(),
        Behaviour::CutAfter(3, Answer::html(504)),
        Behaviour::Huge { status: 500, bytes: 100_000, announced: true },
        Behaviour::Huge { status: 599, bytes: 100_000, announced: false },
    ] {
        let (error, asked, call) = under(behaviour.clone()).await;
        assert_eq!((asked, error.certainty), (3, Certainty::Unknown), "{behaviour:?}");
        assert_eq!(Some(answer(&error).status), call.http_status());
    }
}

#[tokio::test]
async fn single_failure_is_hidden_from_the_caller() {
    for behaviour in [Behaviour::Reset, Answer::empty(503).into(), Answer::html(200).into()] {
        let upstream = Upstream::http().await;
        let client = client(&upstream, quick());
        upstream.next(OTT, behaviour);
        let call = call();
        issue(&client, &call).await.unwrap();
        assert_eq!((upstream.count(OTT), call.attempts(), call.certainty()), (2, 2, Certainty::Done));
    }
}

#[tokio::test]
async fn issuing_is_repeated_once_after_an_undocumented_response() {
    let json = |body: &str| Behaviour::from(Answer::json(200, body));
    let huge = |announced| Behaviour::Huge { status: 200, bytes: 16 * 1024 + 1, announced };
    let long = format!(r#"{{"ott":"{}"}}"#, "x".repeat(4097));
    for (behaviour, expected) in [
        (Answer::html(200).into(), Malformation::ContentType),
        (Answer::empty(204).into(), Malformation::ContentType),
        (
            Answer::empty(200).header("content-type", "text/plain").body("{}").into(),
            Malformation::ContentType,
        ),
        (
            Answer::empty(200).header("content-type", "application/jsonp").body("{}").into(),
            Malformation::ContentType,
        ),
        (json(""), Malformation::Json),
        (json(r#"{"ott":"OTT"#), Malformation::Json),
        (json(r#"{"ott":"OTT"} x"#), Malformation::Json),
        (json(r#"["OTT"]"#), Malformation::Json),
        (json("{}"), Malformation::Missing),
        (json(r#"{"ott":null}"#), Malformation::Missing),
        (json(r#"{"ott":""}"#), Malformation::Missing),
        (json(r#"{"ott":7}"#), Malformation::Missing),
        (json(r#"{"ott":"a\r\nb"}"#), Malformation::Missing),
        (json(r#"{"ott":"é"}"#), Malformation::Missing),
        (json(&long), Malformation::Missing),
        // Decided without waiting for the body, which never arrives.
        (Answer::json(200, "").header("content-length", "16385").into(), Malformation::TooLarge),
        (huge(true), Malformation::TooLarge),
        (huge(false), Malformation::TooLarge),
    ] {
        let (error, asked, _) = under(behaviour.clone()).await;
        let PlatformError::Malformed(malformation) = error.kind else { panic!("{behaviour:?}: {error:?}") };
        assert_eq!((malformation, asked, error.certainty), (expected, 2, Certainty::Done), "{behaviour:?}");
    }
}

#[tokio::test]
async fn unknown_members_are_ignored() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    for body in
        [r#"{"a":[1,{"ott":"no"}],"ott":"first","b":null,"ott":"last"}"#, " {\"ott\" : \"la\\u0073t\"}\n"]
    {
        upstream.next(
            OTT,
            Answer::empty(200).header("content-type", "Application/JSON; charset=utf-8").body(body),
        );
        assert_eq!(issue(&client, &call()).await.unwrap().ott.expose(), "last");
    }
    assert_eq!(upstream.count(OTT), 2);
}

#[tokio::test]
async fn definite_refusal_is_returned_at_once() {
    for (behaviour, code, has_body) in [
        (platform_error(400, "1018", "disabled"), Some(PlatformErrorCode::UserDisabled), true),
        (platform_error(400, r#""1033""#, "login"), Some(PlatformErrorCode::InvalidLogin), true),
        (platform_error(400, "77", "new"), Some(PlatformErrorCode::Unknown(77)), true),
        (platform_error(403, "403", "denied"), None, true),
        (platform_error(404, r#""404""#, "nobody"), None, true),
        (platform_error(409, "1004", "conflict"), Some(PlatformErrorCode::TenantNameConflict), true),
        (Answer::json(404, r#"{"error":{}}"#), None, true),
        (Answer::json(403, r#"{"error":"denied"}"#), None, false),
        (Answer::json(403, r#"{"message":"denied"}"#), None, false),
        (Answer::html(403), None, false),
        (Answer::html(404), None, false),
        (Answer::empty(405), None, false),
        (Answer::empty(406), None, false),
        (Answer::empty(411), None, false),
        (Answer::empty(415), None, false),
    ] {
        let status = behaviour.clone();
        let (error, asked, call) = under(behaviour).await;
        let answer = answer(&error);
        assert_eq!((asked, error.certainty), (1, Certainty::Refused), "{status:?}");
        assert_eq!(call.http_status(), Some(answer.status));
        assert_eq!(answer.body.is_some(), has_body, "{status:?}");
        assert_eq!(answer.body.as_ref().and_then(|body| body.code), code, "{status:?}");
    }
}

#[tokio::test]
async fn truncated_refusal_does_not_count_as_a_refusal() {
    let (error, asked, _) = under(Behaviour::CutAfter(5, platform_error(403, "1002", "denied"))).await;
    assert!(matches!(error.kind, PlatformError::Interrupted(_)));
    assert_eq!((asked, error.certainty), (3, Certainty::Unknown));
}

/// The body is the platform's error object followed by spaces, so that only its size matters.
#[tokio::test]
async fn error_object_is_read_up_to_64_kib() {
    const LIMIT: usize = 64 * 1024;
    for (status, attempts) in [(403, 1), (404, 1), (500, 3)] {
        for (length, is_read) in [(LIMIT, true), (LIMIT + 1, false)] {
            let json = padded(r#"{"error":{"code":1018}}"#, length);
            let unannounced = format!(
                "HTTP/1.1 {status} Scripted\r\ncontent-type: application/json\r\n\
                 transfer-encoding: chunked\r\n\r\n{length:x}\r\n{json}\r\n0\r\n\r\n"
            );
            for behaviour in
                [Answer::json(status, json.clone()).into(), Behaviour::Raw(unannounced.into_bytes())]
            {
                let (error, asked, _) = under(behaviour).await;
                assert_eq!((answer(&error).status, asked), (status, attempts));
                let code = answer(&error).body.as_ref().and_then(|body| body.code);
                assert_eq!(code, is_read.then_some(PlatformErrorCode::UserDisabled), "{status} {length}");
            }
        }
    }
}

#[tokio::test]
async fn redirect_is_not_followed() {
    let elsewhere = Upstream::http().await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("{}{OTT}", elsewhere.url());
        let (error, asked, _) = under(Answer::empty(status).header("location", location)).await;
        assert_eq!((answer(&error).status, asked, error.certainty), (status, 1, Certainty::Unknown));
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn errors_contain_no_values_of_the_request() {
    let long = "é".repeat(200);
    for (message, expected) in [
        ("user John@Example.com is not known", "user … is not known"),
        ("john@exa\\u0000mple.com", "…"),
        ("token access-token-1 refused", "token … refused"),
        ("two\\r\\nlines\\u2028three\\u202e", "twolinesthree"),
        (long.as_str(), &long[..256]),
    ] {
        let (error, ..) = under(platform_error(400, "1002", message)).await;
        let body = answer(&error).body.as_ref().unwrap();
        assert_eq!(body.message.as_deref(), Some(expected));
        assert_eq!(body.domain.as_deref(), Some("PlatformAccountServer"));
    }
}

#[tokio::test]
async fn domain_is_short_visible_ascii_without_values_of_the_request() {
    for (domain, expected) in [
        ("Pl\\nat form é", Some("Platform".to_owned())),
        ("access-token-1", None),
        ("\\u0000", None),
        (&"x".repeat(80), Some("x".repeat(64))),
    ] {
        let body = format!(r#"{{"error":{{"domain":"{domain}"}}}}"#);
        let (error, ..) = under(Answer::json(400, body)).await;
        assert_eq!(answer(&error).body.as_ref().unwrap().domain, expected);
    }
}

#[tokio::test]
async fn text_with_a_part_of_a_secret_is_withheld() {
    // The token is `access-token-1`.
    let long = format!("{}access-token-1", "x".repeat(60));
    for (leak, domain) in [
        ("access-t oken-1", None),
        ("ACCESS%2DTOKEN", None),
        ("YWNjZXNzLXRva2VuLTE=", None),
        ("access-token-2", None),
        ("cookie-0123", None),
        (long.as_str(), None),
        ("access is denied", Some("accessisdenied")),
    ] {
        let body = format!(r#"{{"error":{{"code":1002,"domain":"{leak}","message":"saw {leak}"}}}}"#);
        let answer_with_cookie =
            Answer::json(400, body).header("set-cookie", "sid=cookie-0123456789; Path=/");
        let (error, ..) = under(answer_with_cookie).await;
        let body = answer(&error).body.as_ref().unwrap();
        assert_eq!(body.domain.as_deref(), domain, "{leak}");
        // A verbatim repetition is replaced.
        let passed = domain.map(|_| format!("saw {leak}"));
        let passed = if leak == long { Some(format!("saw {}…", "x".repeat(60))) } else { passed };
        assert_eq!(body.message, passed, "{leak}");
        assert!(body.code.is_some(), "{leak}");
    }
    let body = r#"{"error":{"code":7777777700,"domain":"d","message":"m"}}"#;
    let (error, ..) = under(Answer::json(400, body).header("set-cookie", "sid=117777777700; Path=/")).await;
    assert_eq!(answer(&error).body.as_ref().unwrap().code, None, "a number can be a part of a secret too");
}

#[tokio::test]
async fn secret_split_over_the_texts_of_an_error_is_withheld() {
    // The token is `access-token-1`.
    for (error, is_withheld) in [
        (r#""domain":"access-","message":"token-1""#, true),
        (r#""message":"token-1","domain":"access-""#, true),
        (r#""message":"got access","domain":"tok""#, true),
        (r#""message":"no","domain":"oken","code":"1002""#, false),
        (r#""message":"no access","domain":"Platform""#, false),
    ] {
        let (failed, ..) = under(Answer::json(400, format!(r#"{{"error":{{{error}}}}}"#))).await;
        let body = answer(&failed).body.as_ref().unwrap();
        assert_eq!((body.domain.is_none(), body.message.is_none()), (is_withheld, is_withheld), "{error}");
    }
    let error = r#"{"error":{"code":7654321,"domain":"cookie","message":"0a1b2c3"}}"#;
    for cookie in ["cookie7654321", "76543210a1b2c3", "0a1b2c3cookie", "0a1b2c37654321", "cooki1234567"] {
        let failed = Answer::json(400, error).header("set-cookie", format!("sid={cookie}; Path=/"));
        let (failed, ..) = under(failed).await;
        let body = answer(&failed).body.as_ref().unwrap();
        let is_split = cookie != "cooki1234567";
        assert_eq!((body.domain.is_none(), body.message.is_none()), (is_split, is_split), "{cookie}");
    }
}

#[tokio::test]
async fn short_value_of_the_caller_does_not_hide_a_secret() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    for (login, message, expected) in [
        ("s", "token access-token-", None),
        ("e", "saw access-tok", None),
        ("t", "not at all", Some("no… a… all")),
    ] {
        upstream.next(OTT, platform_error(400, "1002", message));
        let permit = issue_permit(subject(login));
        let kind = client.issue_ott(&permit, &call(), &CallSpan::default()).await.unwrap_err();
        let PlatformError::Response(answer) = &kind else { panic!("{kind:?}") };
        assert_eq!(answer.body.as_ref().unwrap().message.as_deref(), expected, "{login}");
    }
}

#[tokio::test]
async fn refused_access_token_is_renewed_and_the_call_replayed_once() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    issues(&client).await;
    until_access_token_is_old().await;
    upstream.next(OTT, platform_error(401, "401", "expired"));
    let call = call();
    issue(&client, &call).await.unwrap();
    let sent: Vec<_> = upstream.requests_to(OTT);
    let tokens: Vec<_> = sent.iter().map(|request| request.header("authorization")).collect();
    assert_eq!(tokens[1..], [Some("Bearer access-token-1"), Some("Bearer access-token-2")]);
    assert_eq!(call.certainty(), Certainty::Done);
}

#[tokio::test]
async fn call_refused_with_the_new_token_too_ends_in_time() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    issues(&client).await;
    until_access_token_is_old().await;
    upstream.always(OTT, platform_error(401, "401", "revoked"));
    let error = issue(&client, &call_with(Duration::from_secs(3))).await.unwrap_err();
    // The API may learn of the new token a moment later, so a retry may help.
    let PlatformError::Credential(credential) = &error.kind else { panic!("{error:?}") };
    assert_eq!(credential.kind(), CredentialErrorKind::NotAcceptedYet);
    assert_eq!(error.certainty, Certainty::Refused);
    assert!((4..=8).contains(&upstream.count(OTT)), "{}", upstream.count(OTT));
    upstream.always(OTT, Behaviour::Healthy);
    issues(&client).await;
}

/// A token younger than this is not replaced because of a 401.
async fn until_access_token_is_old() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(10_100)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn replay_does_not_count_as_a_retry() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    for behaviour in [Answer::empty(503), Answer::empty(401), Answer::empty(503)] {
        upstream.next(OTT, behaviour);
    }
    issues(&client).await;
    assert_eq!(upstream.count(OTT), 4);
}

#[tokio::test]
async fn replays_do_not_use_the_retry_budget() {
    const CALLS: usize = 20;
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    for _ in 0..CALLS {
        upstream.next(OTT, Answer::empty(401));
    }
    // Concurrently, because a credential is renewed only once in 10 seconds; and more than the
    // budget would grant.
    let calls = (0..CALLS).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { issues(&client).await })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.expect("a token after the replay");
    }
    assert_eq!(upstream.count(OTT), 2 * CALLS);
}

#[tokio::test]
async fn without_an_access_token_nothing_is_sent() {
    let upstream = Upstream::http().await;
    let credential = Credential::failing_for_test(CredentialErrorKind::Rejected);
    let client = client_of(&upstream.url(), None, quick(), credential);
    let error = issue(&client, &call()).await.unwrap_err();
    let PlatformError::Credential(credential) = &error.kind else { panic!("{error:?}") };
    assert_eq!(credential.kind(), CredentialErrorKind::Rejected);
    assert_eq!((error.certainty, upstream.connections()), (Certainty::NotSent, 0));
    logs_in(&client, &upstream).await;
}

#[tokio::test]
async fn short_retry_after_is_waited_for() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    upstream.next(OTT, Answer::empty(429).header("retry-after", "1"));
    let began = clock::now();
    issues(&client).await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(upstream.count(OTT), 2);
}

#[tokio::test]
async fn other_rate_limits_are_returned() {
    let date = "Sun, 06 Nov 1994 08:49:30 GMT";
    for (retry_after, expected) in [
        (None, None),
        (Some("3"), Some(3)),
        (Some("2.542"), Some(3)),
        (Some("4, 4"), Some(4)),
        (Some("-1"), Some(5)),
        (Some("soon"), Some(5)),
        (Some("99999999999999999999"), Some(u64::MAX)),
        (Some("Sun, 06 Nov 1994 08:49:37 GMT"), Some(7)),
        (Some("Sunday, 06-Nov-94 08:49:37 GMT"), Some(7)),
        (Some("Sun Nov  6 08:49:37 1994"), Some(7)),
        (Some("Sun, 6 Nov 1994 08:49:37 UTC"), Some(7)),
    ] {
        let mut behaviour = Answer::empty(429).header("date", date);
        if let Some(text) = retry_after {
            behaviour = behaviour.header("retry-after", text);
        }
        let (error, asked, _) = under(behaviour).await;
        assert_eq!((asked, error.certainty), (1, Certainty::Refused));
        assert_eq!(answer(&error).retry_after, expected.map(Duration::from_secs), "{retry_after:?}");
    }
}

#[tokio::test]
async fn delay_that_does_not_fit_the_deadline_is_not_started() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    upstream.next(OTT, Answer::empty(429).header("retry-after", "2"));
    let error = issue(&client, &call_with(Duration::from_secs(2))).await.unwrap_err();
    assert_eq!(answer(&error).status, 429);
    assert_eq!(upstream.count(OTT), 1);
}

#[tokio::test]
async fn with_too_little_time_left_nothing_is_sent() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    for call in [call_with(Duration::from_millis(19)), call_with(Duration::ZERO)] {
        let error = issue(&client, &call).await.unwrap_err();
        assert!(matches!(error.kind, PlatformError::DeadlinePassed));
        assert_eq!((error.certainty, call.attempts()), (Certainty::NotSent, 0));
    }
    assert_eq!(upstream.connections(), 0);
    issues(&client).await;
}

#[tokio::test]
async fn nothing_is_sent_for_a_disconnected_caller() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    let call = call();
    call.abandon();
    let error = issue(&client, &call).await.unwrap_err();
    assert!(matches!(error.kind, PlatformError::DeadlinePassed));
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn disconnected_caller_stops_retries_but_not_the_attempt_in_progress() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    for (then, certainty) in
        [(Behaviour::Healthy, Certainty::Done), (Answer::empty(503).into(), Certainty::Unknown)]
    {
        let asked = upstream.count(OTT);
        let held = Arc::new(Semaphore::new(0));
        upstream.next(OTT, Behaviour::Held(Arc::clone(&held), Box::new(then)));
        let call = call();
        let permit = issue_permit(subject("john@example.com"));
        let span = CallSpan::default();
        let (_, ()) = tokio::join!(client.issue_ott(&permit, &call, &span), async {
            upstream.wait_for(OTT, asked + 1).await;
            call.abandon();
            assert_eq!(call.certainty(), Certainty::Unknown);
            held.add_permits(1);
            call.idle().await;
        });
        assert_eq!((upstream.count(OTT), call.certainty()), (asked + 1, certainty));
    }
}

#[tokio::test]
async fn attempt_in_progress_outlives_the_deadline_and_is_not_repeated() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    let held = Arc::new(Semaphore::new(0));
    upstream.next(OTT, Behaviour::Held(Arc::clone(&held), Box::new(Answer::empty(503).into())));
    let call = call_with(Duration::from_secs(4));
    let permit = issue_permit(subject("john@example.com"));
    let span = CallSpan::default();
    let (result, ()) = tokio::join!(client.issue_ott(&permit, &call, &span), async {
        upstream.wait_for(OTT, 1).await;
        tokio::time::sleep(call.deadline().remaining() + Duration::from_millis(50)).await;
        held.add_permits(1);
    });
    let error = result.unwrap_err();
    assert!(matches!(&error, PlatformError::Response(answer) if answer.status == 503), "{error:?}");
    assert_eq!((upstream.count(OTT), call.attempts()), (1, 1));
}

#[tokio::test]
async fn dropped_attempt_is_not_in_progress() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    upstream.next(OTT, Behaviour::Stall);
    let call = call();
    {
        let permit = issue_permit(subject("john@example.com"));
        let span = CallSpan::default();
        tokio::select! {
            _ = client.issue_ott(&permit, &call, &span) => panic!("it stalls"),
            () = upstream.wait_for(OTT, 1) => {}
        }
    }
    assert_eq!(call.certainty(), Certainty::Unknown);
    call.abandon();
    call.idle().await;
}

/// Runs an operation until the breaker admits it, and returns its outcome.
async fn probe<T>(operation: &impl AsyncFn() -> Result<T, Failed>) -> Result<T, Failed> {
    let probing = async {
        loop {
            match operation().await {
                Err(Failed { kind: PlatformError::BreakerOpen { retry_after }, certainty }) => {
                    assert!(retry_after <= Duration::from_secs(1));
                    assert_eq!(certainty, Certainty::NotSent);
                    tokio::time::sleep(retry_after).await;
                }
                outcome => return outcome,
            }
        }
    };
    timeout(PATIENCE, probing).await.expect("the breaker admits a probe")
}

/// Runs a failing operation until the breaker is open. Returns the number of requests.
async fn open_breaker<T>(operation: &impl AsyncFn() -> Result<T, Failed>) -> usize {
    for sent in 0..1000 {
        if let Err(Failed { kind: PlatformError::BreakerOpen { .. }, .. }) = operation().await {
            return sent;
        }
    }
    panic!("the breaker stays closed");
}

/// Runs a failing operation a hundred times while the breaker is open. Returns the number of
/// requests, which is one per second.
async fn under_open_breaker<T>(operation: &impl AsyncFn() -> Result<T, Failed>) -> usize {
    let (began, mut sent) = (clock::now(), 0);
    for _ in 0..100 {
        let Err(error) = operation().await else { panic!("it fails") };
        match error.kind {
            PlatformError::BreakerOpen { .. } => assert_eq!(error.certainty, Certainty::NotSent),
            _ => sent += 1,
        }
    }
    assert!(sent <= usize::try_from(began.elapsed().as_secs()).unwrap() + 1, "{sent} probes");
    sent
}

#[tokio::test]
async fn endpoint_that_is_down_gets_only_probes_and_one_detects_its_recovery() {
    let upstream = Upstream::http().await;
    let limits = Limits { max_attempts: 1, ..quick() };
    let client = client(&upstream, limits);
    upstream.always(OTT, Answer::empty(503));
    let issue_one = async || issue(&client, &call()).await;
    let sent = open_breaker(&issue_one).await;
    assert!(sent >= 20 && upstream.count(OTT) == sent, "{sent}");
    let probes = under_open_breaker(&issue_one).await;
    assert_eq!(upstream.count(OTT), sent + probes);
    logs_in(&client, &upstream).await;
    assert_eq!(upstream.count(LOGIN), 1, "the other endpoint is not affected");

    let error = probe(&issue_one).await.unwrap_err();
    assert_eq!(answer(&error).status, 503);
    assert_eq!(upstream.count(OTT), sent + probes + 1, "one probe");

    upstream.always(OTT, Behaviour::Healthy);
    probe(&issue_one).await.unwrap();
    issues(&client).await;
    assert_eq!(upstream.count(OTT), sent + probes + 3);
}

#[tokio::test]
async fn outage_of_logins_does_not_affect_minting_and_a_login_probes_for_recovery() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    upstream.always(LOGIN, Answer::empty(503));
    let log_in_one = async || {
        let outcome = log_in(&client, &upstream.token(), &call()).await;
        issues(&client).await;
        outcome
    };
    let sent = open_breaker(&log_in_one).await;
    assert!(sent >= 20 && upstream.count(LOGIN) == sent, "{sent}");
    let sent = sent + under_open_breaker(&log_in_one).await;
    assert_eq!(upstream.count(LOGIN), sent, "the other tokens are not spent");

    upstream.always(LOGIN, Behaviour::Healthy);
    probe(&log_in_one).await.unwrap();
    logs_in(&client, &upstream).await;
    assert_eq!(upstream.count(LOGIN), sent + 2);
}

#[tokio::test]
async fn refusals_never_open_the_breaker() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, Limits { max_attempts: 1, ..quick() });
    upstream.always(OTT, platform_error(404, "404", "nobody"));
    for _ in 0..50 {
        assert_eq!(answer(&issue(&client, &call()).await.unwrap_err()).status, 404);
    }
    assert_eq!(upstream.count(OTT), 50);
}

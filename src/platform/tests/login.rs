//! Logins under faults: a token is sent once, and its outcome is reported correctly.

use std::{sync::Arc, time::Duration};

use socket2::{Domain, Socket, Type};
use tokio::sync::Semaphore;

use super::fixture::*;
use crate::credential::Credential;

const ACCOUNT: &str = r#"{"id":"42","login":"john"}"#;

fn account_with_cookie() -> Answer {
    Answer::json(200, ACCOUNT).header("set-cookie", "sid=CANARY; Path=/")
}

/// Applies the behaviour to one login, and then checks that the platform works again.
async fn under(behaviour: impl Into<Behaviour>) -> (Failed, Upstream) {
    let upstream = Upstream::http().await;
    let behaviour = behaviour.into();
    let client = client(&upstream, limits_under(&behaviour));
    upstream.next(LOGIN, behaviour);
    let call = call();
    let token = upstream.token();
    let error = log_in(&client, &token, &call).await.unwrap_err();
    assert_eq!(upstream.count(LOGIN), 1, "a token was sent twice");
    assert_eq!((call.attempts(), call.certainty()), (1, error.certainty));
    logs_in(&client, &upstream).await;
    assert_eq!(upstream.count(LOGIN), 2);
    (error, upstream)
}

#[tokio::test]
async fn account_is_returned_verbatim_with_its_session() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    let body = "{\"z\" : [1 , 2],\"id\":\"a\\u0062\",\"n\":1.0e+400,\"login\":\"old\",\"o\":{\"a\":1,\"a\":2},\
                \"login\":\"j\",\"nil\":null}";
    upstream.next(
        LOGIN,
        Answer::json(200, body)
            .header("set-cookie", "sid=abc; Path=/; HttpOnly")
            .header("set-cookie", "lang=en; Max-Age=60"),
    );
    let call = call();
    let logged_in = log_in(&client, "OTT", &call).await.unwrap();
    let members = logged_in.account.into_members();
    let members: Vec<_> = members.iter().map(|(name, value)| (name.as_str(), value.get())).collect();
    assert_eq!(
        members,
        [
            ("z", "[1 , 2]"),
            ("id", "\"a\\u0062\""),
            ("n", "1.0e+400"),
            ("o", "{\"a\":1,\"a\":2}"),
            ("login", "\"j\""),
            ("nil", "null"),
        ]
    );
    assert_eq!(logged_in.session.cookie_header().expose(), "sid=abc; lang=en");
    assert_eq!((call.certainty(), call.http_status(), call.attempts()), (Certainty::Done, Some(200), 1));
    assert_eq!(upstream.count(LOGOUT), 0);
}

#[tokio::test]
async fn deeply_nested_account_is_kept() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    let deep = format!(r#"{{"id":"1","login":"j","deep":{}{}}}"#, "[".repeat(50_000), "]".repeat(50_000));
    upstream.next(LOGIN, Answer::json(200, deep));
    let members = log_in(&client, "OTT", &call()).await.unwrap().account.into_members();
    assert_eq!(members[2].1.get().len(), 100_000);
}

#[tokio::test]
async fn login_without_cookies_succeeds() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    upstream.next(LOGIN, Answer::json(200, ACCOUNT));
    assert!(log_in(&client, "OTT", &call()).await.unwrap().session.is_empty());
}

#[tokio::test]
async fn interrupted_login_is_never_repeated_and_its_outcome_is_unknown() {
    for behaviour in [
        Behaviour::Reset,
        Behaviour::Close,
        Behaviour::Stall,
        Behaviour::HeaderFlood,
        Behaviour::CutAfter(9, Answer::json(200, ACCOUNT)),
        Behaviour::ShortAfter(9, Answer::json(401, ACCOUNT)),
    ] {
        let (error, upstream) = under(behaviour.clone()).await;
        assert!(matches!(error.kind, PlatformError::Interrupted(_)), "{behaviour:?}: {error:?}");
        assert_eq!((error.certainty, upstream.count(LOGOUT)), (Certainty::Unknown, 0), "{behaviour:?}");
    }
}

#[tokio::test]
async fn session_of_a_truncated_account_is_logged_out() {
    for behaviour in [
        Behaviour::CutAfter(9, account_with_cookie()),
        Behaviour::ShortAfter(9, account_with_cookie()),
        Behaviour::Drip(Duration::from_secs(1), account_with_cookie()),
    ] {
        let (error, upstream) = under(behaviour.clone()).await;
        assert!(matches!(error.kind, PlatformError::Interrupted(_)), "{behaviour:?}: {error:?}");
        assert_eq!(error.certainty, Certainty::Unknown);
        upstream.wait_for(LOGOUT, 1).await;
        assert_eq!(upstream.requests_to(LOGOUT)[0].header("cookie"), Some("sid=CANARY"));
    }
}

#[tokio::test]
async fn login_with_a_server_error_is_never_repeated_and_its_outcome_is_unknown() {
    for behaviour in [
        Behaviour::from(Answer::json(500, r#"{"error":{"code":1000}}"#)),
        Answer::html(502).into(),
        Answer::empty(503).header("retry-after", "1").into(),
        Behaviour::CutAfter(3, Answer::html(504)),
        Behaviour::Huge { status: 500, bytes: 100_000, announced: false },
    ] {
        let (error, _) = under(behaviour.clone()).await;
        assert!(matches!(&error.kind, PlatformError::Response(answer) if answer.status >= 500), "{error:?}");
        assert_eq!(error.certainty, Certainty::Unknown, "{behaviour:?}");
    }
}

#[tokio::test]
async fn internal_error_of_the_platform_leaves_the_outcome_unknown_unless_the_token_was_refused() {
    for (status, code, certainty) in [
        (403, 1000, Certainty::Unknown),
        (409, 1019, Certainty::Unknown),
        (400, 1000, Certainty::Refused),
        (404, 1019, Certainty::Refused),
    ] {
        let json = format!(r#"{{"error":{{"code":{code},"message":"it failed"}}}}"#);
        let (error, _) = under(Answer::json(status, json)).await;
        assert!(
            matches!(&error.kind, PlatformError::Response(answer) if answer.status == status),
            "{error:?}"
        );
        assert_eq!(error.certainty, certainty, "{status} with the code {code}");
    }
}

/// Proxies send these while the platform may have the token, and a redirect may follow the login.
#[tokio::test]
async fn inconclusive_status_leaves_the_outcome_unknown_and_its_session_is_logged_out() {
    for status in [301, 302, 303, 307, 308, 408, 425, 499] {
        let json = r#"{"error":{"code":1,"message":"?"}}"#;
        for answer in [Answer::json(status, json), Answer::html(status), Answer::empty(status)] {
            let upstream = Upstream::http().await;
            let client = client(&upstream, quick());
            upstream.next(LOGIN, answer.header("set-cookie", "sid=CANARY; Path=/"));
            let error = log_in(&client, &upstream.token(), &call()).await.unwrap_err();
            assert_eq!(error.certainty, Certainty::Unknown, "{status}");
            assert_eq!((upstream.count(LOGIN), upstream.count(LOGOUT)), (1, 1), "{status}");
            assert_eq!(upstream.requests_to(LOGOUT)[0].header("cookie"), Some("sid=CANARY"));
            logs_in(&client, &upstream).await;
        }
    }
}

/// A request that a proxy refuses may have reached the platform before.
#[tokio::test]
async fn refusal_without_the_platforms_error_object_leaves_the_outcome_unknown() {
    for status in [400, 401, 403, 404, 405, 409, 410, 413, 415, 429, 431, 451] {
        for answer in [Answer::html(status), Answer::empty(status), Answer::json(status, "{}")] {
            let (error, _) = under(answer).await;
            assert!(matches!(&error.kind, PlatformError::Response(answer) if answer.status == status));
            assert_eq!(error.certainty, Certainty::Unknown, "{status}");
        }
    }
}

/// It may come from a proxy: the platform's error objects are small.
#[tokio::test]
async fn too_large_refusal_leaves_the_outcome_unknown() {
    for (length, certainty) in [(64 * 1024, Certainty::Refused), (64 * 1024 + 1, Certainty::Unknown)] {
        let json = padded(r#"{"error":{"code":403}}"#, length);
        let (error, _) = under(Answer::json(403, json)).await;
        assert_eq!(error.certainty, certainty, "{length}");
    }
}

/// Cookies of a refusal by the platform belong to no login. A refusal by a proxy proves nothing.
#[tokio::test]
async fn cookies_of_a_refusal_are_logged_out_unless_the_platform_itself_refused_the_token() {
    let json = r#"{"error":{"code":403,"message":"?"}}"#;
    for (answer, logouts) in [
        (Answer::json(401, json), 0),
        (Answer::json(404, json), 0),
        (Answer::html(403), 1),
        (Answer::html(401), 1),
    ] {
        let case = format!("{answer:?}");
        let (_, upstream) = under(answer.header("set-cookie", "sid=CANARY; Path=/")).await;
        assert_eq!(upstream.count(LOGOUT), logouts, "{case}");
    }
}

#[tokio::test]
async fn refused_login_is_never_repeated() {
    for status in [400, 401, 403, 404, 405, 409, 410, 415, 429] {
        let json = format!(r#"{{"error":{{"code":{status},"message":"no OTT-1 here"}}}}"#);
        for behaviour in [Answer::json(status, json), Answer::html(status), Answer::empty(status)] {
            let is_json = format!("{behaviour:?}").contains("application/json");
            let (error, _) = under(behaviour.header("retry-after", "1")).await;
            let PlatformError::Response(answer) = &error.kind else { panic!("{error:?}") };
            let certainty = if is_json { Certainty::Refused } else { Certainty::Unknown };
            assert_eq!((answer.status, error.certainty), (status, certainty));
            assert_eq!(answer.retry_after, Some(Duration::from_secs(1)));
            let message = answer.body.as_ref().and_then(|body| body.message.as_deref());
            assert_eq!(message, is_json.then_some("no … here"));
        }
    }
}

#[tokio::test]
async fn undocumented_login_response_counts_as_done_and_its_session_is_logged_out() {
    let json = |body: &str| Answer::json(200, body);
    for (answer, expected) in [
        (Answer::html(200), Malformation::ContentType),
        (Answer::empty(204), Malformation::ContentType),
        (json(r#"{"id":"#), Malformation::Json),
        (json("[]"), Malformation::Json),
        (json("\"\u{feff}\""), Malformation::Json),
        (json("{}"), Malformation::Missing),
        (json(r#"{"id":"1"}"#), Malformation::Missing),
        (json(r#"{"login":"j"}"#), Malformation::Missing),
        (json(r#"{"id":null,"login":"j"}"#), Malformation::Missing),
        (json(r#"{"id":7,"login":"j"}"#), Malformation::Missing),
        (json(r#"{"id":"","login":"j"}"#), Malformation::Missing),
        (json(r#"{"id":"1","login":"j","login":false}"#), Malformation::Missing),
        (json(&format!(r#"{{"id":"1","login":"j"{}}}"#, " ".repeat(256 * 1024))), Malformation::TooLarge),
    ] {
        let (error, upstream) = under(answer.header("set-cookie", "sid=CANARY")).await;
        let PlatformError::Malformed(malformation) = error.kind else { panic!("{error:?}") };
        assert_eq!((malformation, error.certainty), (expected, Certainty::Done));
        upstream.wait_for(LOGOUT, 1).await;
        assert_eq!(upstream.requests_to(LOGOUT)[0].header("cookie"), Some("sid=CANARY"));
    }
}

#[tokio::test]
async fn too_large_login_response_is_malformed() {
    for announced in [true, false] {
        let (error, _) = under(Behaviour::Huge { status: 200, bytes: 256 * 1024 + 1, announced }).await;
        assert!(matches!(error.kind, PlatformError::Malformed(Malformation::TooLarge)), "{error:?}");
        assert_eq!(error.certainty, Certainty::Done);
    }
}

#[tokio::test]
async fn too_many_cookies_are_an_error_and_are_logged_out() {
    let mut many = Answer::json(200, ACCOUNT);
    for n in 0..33 {
        many = many.header("set-cookie", format!("c{n}=v"));
    }
    let long = account_with_cookie().header("set-cookie", format!("long={}", "x".repeat(16 * 1024)));
    for (answer, ended) in [(many, "c0=v; c1=v; "), (long, "sid=CANARY")] {
        let (error, upstream) = under(answer).await;
        assert!(matches!(error.kind, PlatformError::Malformed(Malformation::Cookies(_))), "{error:?}");
        assert_eq!(error.certainty, Certainty::Done);
        upstream.wait_for(LOGOUT, 1).await;
        assert!(upstream.requests_to(LOGOUT)[0].header("cookie").unwrap().starts_with(ended));
    }
}

#[tokio::test]
async fn cookies_that_browsers_keep_are_returned() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    let answer = Answer::json(200, ACCOUNT)
        .header("set-cookie", "sid:v2=1; Path=/")
        .header("set-cookie", "session[id]=2; Expires=never; Max-Age=")
        .header("set-cookie", "a@b=3; Path=/; secure, c=4; Path=/; HttpOnly")
        .header("set-cookie", "old=gone; Expires=Thu, 1 Jan 1970 00:00:00 UTC");
    upstream.next(LOGIN, answer);
    let session = log_in(&client, "OTT", &call()).await.unwrap().session;
    assert_eq!(session.cookie_header().expose(), "sid:v2=1; session[id]=2; a@b=3; c=4");
    assert_eq!((session.cookies().len(), upstream.count(LOGOUT)), (5, 0));
}

#[tokio::test]
async fn session_that_cannot_be_returned_is_an_error_and_is_logged_out() {
    let answer = account_with_cookie().header("set-cookie", "sid2=CAN\u{9b}ARY; Path=/");
    let (error, upstream) = under(answer).await;
    assert!(matches!(error.kind, PlatformError::Malformed(Malformation::Cookies(_))), "{error:?}");
    assert_eq!(error.certainty, Certainty::Done);
    upstream.wait_for(LOGOUT, 1).await;
    let logout = &upstream.requests_to(LOGOUT)[0];
    assert_eq!(logout.header("cookie"), Some("sid=CANARY; sid2=CAN\u{9b}ARY"));
}

#[tokio::test]
async fn login_with_set_cookie_headers_but_no_cookie_is_an_error() {
    let (error, upstream) = under(Answer::json(200, ACCOUNT).header("set-cookie", "CANARY; Path=/")).await;
    assert!(matches!(error.kind, PlatformError::Malformed(Malformation::Cookies(_))), "{error:?}");
    assert_eq!((error.certainty, upstream.count(LOGOUT)), (Certainty::Done, 0));
}

#[tokio::test]
async fn unsent_login_is_attempted_again_once() {
    // Bound but not listening, so that nothing else gets its port.
    let closed = tokio::net::TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = closed.local_addr().unwrap();
    let client = client_of(&format!("http://{address}"), None, quick(), Credential::for_test());
    let call = call();
    let error = log_in(&client, "OTT-1", &call).await.unwrap_err();
    assert!(matches!(error.kind, PlatformError::Unreachable(_)));
    assert_eq!((error.certainty, call.attempts(), call.http_status()), (Certainty::NotSent, 2, None));
}

#[tokio::test]
async fn login_is_not_repeated_with_too_little_time_left() {
    let client = client_of("http://127.0.0.1:9", None, quick(), Credential::for_test());
    let call = call_with(Duration::from_millis(1900));
    let error = log_in(&client, "OTT-1", &call).await.unwrap_err();
    assert!(matches!(error.kind, PlatformError::Unreachable(_)));
    assert_eq!(call.attempts(), 1);
}

#[tokio::test]
async fn with_too_little_time_left_no_login_is_sent() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    let error = log_in(&client, "OTT-1", &call_with(Duration::from_millis(399))).await.unwrap_err();
    assert!(matches!(error.kind, PlatformError::DeadlinePassed));
    assert_eq!((error.certainty, upstream.connections()), (Certainty::NotSent, 0));
    logs_in(&client, &upstream).await;
}

#[tokio::test]
async fn unknown_host_is_unreachable_for_both_operations() {
    // A label of more than 63 bytes: no resolver sends a query for it.
    let url = format!("https://{}.invalid", "x".repeat(64));
    let client = client_of(&url, None, quick(), Credential::for_test());
    let (issuing, spending) = (call(), call());
    let error = issue(&client, &issuing).await.unwrap_err();
    assert!(matches!(error.kind, PlatformError::NameLookup(_)), "{error:?}");
    assert!(error.kind.to_string().ends_with(".invalid: no such name"), "{error:?}");
    assert_eq!((error.certainty, issuing.attempts()), (Certainty::NotSent, 3));
    let error = log_in(&client, "OTT-1", &spending).await.unwrap_err();
    assert!(matches!(error.kind, PlatformError::NameLookup(_)), "{error:?}");
    assert_eq!((error.certainty, spending.attempts()), (Certainty::NotSent, 2));
    // They do not open the breaker either.
    for _ in 0..20 {
        let error = log_in(&client, "OTT-1", &call()).await.unwrap_err();
        assert!(matches!(error.kind, PlatformError::NameLookup(_)), "{error:?}");
    }
}

#[tokio::test]
async fn unresponsive_host_is_unreachable_for_both_operations() {
    // A full backlog drops every further SYN.
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let _fills_the_backlog = tokio::net::TcpStream::connect(address).await.unwrap();
    let settings = settings(&format!("http://{address}"), quick());
    let mut http = http_settings(&settings, shared_tls());
    http.connect_timeout = Duration::from_millis(300);
    let client = client_over(settings, http, Credential::for_test());
    let (issuing, spending) = (call(), call());
    let (issued, logged_in) = tokio::join!(issue(&client, &issuing), log_in(&client, "OTT-1", &spending));
    for (error, attempts, expected) in
        [(issued.unwrap_err(), issuing.attempts(), 3), (logged_in.unwrap_err(), spending.attempts(), 2)]
    {
        assert!(matches!(error.kind, PlatformError::Unreachable(_)), "{error:?}");
        assert_eq!((error.certainty, attempts), (Certainty::NotSent, expected));
    }
}

#[tokio::test]
async fn logins_side_by_side_never_see_each_others_sessions() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let (client, token) = (client.clone(), upstream.token());
            tokio::spawn(async move { (log_in(&client, &token, &call()).await.unwrap(), token) })
        })
        .collect();
    for task in tasks {
        let (logged_in, token) = task.await.unwrap();
        assert_eq!(logged_in.session.cookie_header().expose(), format!("sid=SESSION-OF-{token}"));
        let login = &logged_in.account.into_members()[1];
        assert_eq!(login.1.get(), format!("\"user-of-{token}\""));
    }
    assert_eq!(upstream.count(LOGIN), 50);
}

#[tokio::test]
async fn login_on_a_closed_connection_is_never_sent_twice() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    for _ in 0..50 {
        upstream.next(LOGIN, Behaviour::AnswerAndClose(account_with_cookie()));
        logs_in(&client, &upstream).await;
        let sent_before = upstream.count(LOGIN);
        let call = call();
        let result = log_in(&client, &upstream.token(), &call).await;
        let sent = upstream.count(LOGIN) - sent_before;
        match result {
            Ok(_) => assert_eq!(sent, 1),
            // The close overtook the request, which may have been read or not.
            Err(error) => assert_eq!((error.certainty, sent), (Certainty::Unknown, 0)),
        }
        assert_eq!(call.attempts(), 1);
    }
    logs_in(&client, &upstream).await;
}

#[tokio::test]
async fn login_in_progress_outlives_its_caller() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    let held = Arc::new(Semaphore::new(0));
    upstream.next(LOGIN, Behaviour::Held(Arc::clone(&held), Box::new(Behaviour::Healthy)));
    let call = call_with(Duration::from_secs(4));
    let token = upstream.token();
    let (result, ()) = tokio::join!(log_in(&client, &token, &call), async {
        upstream.wait_for(LOGIN, 1).await;
        call.abandon();
        tokio::time::sleep(call.deadline().remaining() + Duration::from_millis(50)).await;
        assert_eq!(call.certainty(), Certainty::Unknown);
        held.add_permits(1);
        call.idle().await;
    });
    assert_eq!(call.certainty(), Certainty::Done);
    assert_eq!(result.unwrap().session.cookies().len(), 1);
}

#[tokio::test]
async fn documented_account_is_returned_unchanged() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    let documented = r#"{"activated": false, "business_types": [], "contact": {"address1": "", "email": "johncustomer@mysite.com"}, "created_at": "2019-08-10T08:00:00.807354+00:00", "id": "2955b448-7df8-43uc-9c63-a21511dbe06d", "login": "johncustomer@mysite.com", "personal_tenant_id": null, "tenant_id": "2de246a4-1t3e-937c-9e76-5a21bd6492b", "version": 1}"#;
    upstream.next(LOGIN, Answer::json(200, documented));
    let members = log_in(&client, "OTT", &call()).await.unwrap().account.into_members();
    let again: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
    assert_eq!(format!("{{{}}}", again.join(", ")), documented);
}

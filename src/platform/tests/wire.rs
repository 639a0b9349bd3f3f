//! Exact content of requests on the wire.

use std::fmt::Write as _;

use super::fixture::*;
use crate::{
    credential::Credential,
    domain::ott::{Subject, SubjectKind},
    http_client::{ConnectionReuse, Proxy, Resolver, build},
    observe::telemetry::{logging::captured::CapturedLog, tracing::CallSpan},
    platform::LogoutOutcome,
};

fn named(kind: SubjectKind, text: &str) -> Subject {
    Subject::new(kind, text.to_owned()).unwrap()
}

#[tokio::test]
async fn issuing_sends_exactly_the_documented_request() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    let call = call();
    issue(&client, &call).await.unwrap();
    let [request] = &upstream.requests()[..] else { panic!("one request") };
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", OTT));
    assert_eq!(request.text(), r#"{"purpose":"user_login","login":"john@example.com"}"#);
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("content-length"), Some("51"));
    assert_eq!(request.header("transfer-encoding"), None);
    assert_eq!(request.header("authorization"), Some("Bearer access-token-1"));
    assert_eq!(request.header("accept"), Some("application/json"));
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    assert_eq!(request.header("x-request-id"), Some(call.request_id().to_string().as_str()));
    assert_eq!(request.header("user-agent"), Some(concat!("ott-gateway/", env!("CARGO_PKG_VERSION"))));
    for absent in ["cookie", "referer", "proxy-authorization"] {
        assert_eq!(request.header(absent), None, "{absent}");
    }
}

/// The first request of a client is sent before the server's protocol is known.
#[tokio::test]
async fn each_http1_request_has_the_host_of_its_url_once() {
    let tls = Tls::new("localhost", false, &["http/1.1"]);
    for upstream in [Upstream::http().await, Upstream::https(tls).await] {
        let client = client(&upstream, quick());
        for _ in 0..3 {
            issues(&client).await;
            logs_in(&client, &upstream).await;
        }
        let url = upstream.url();
        let requests = upstream.requests();
        assert_eq!(requests.len(), 6);
        for request in requests {
            assert_eq!(request.header("host"), url.split_once("://").map(|(_, host)| host), "{url}");
        }
    }
}

#[tokio::test]
async fn each_kind_of_subject_has_its_own_member() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    for (subject, body) in [
        (named(SubjectKind::ExternalId, "ext\"1"), r#"{"purpose":"user_login","external_id":"ext\"1"}"#),
        (named(SubjectKind::UserId, "2955-43uc"), r#"{"purpose":"user_login","user_id":"2955-43uc"}"#),
        (named(SubjectKind::Login, "J\u{fc}rgen\\"), r#"{"purpose":"user_login","login":"Jürgen\\"}"#),
    ] {
        client.issue_ott(&issue_permit(subject), &call(), &CallSpan::default()).await.unwrap();
        assert_eq!(upstream.requests().last().unwrap().text(), body);
    }
}

#[tokio::test]
async fn login_sends_json_and_no_authorization() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    let token = upstream.token();
    let call = call();
    log_in(&client, &token, &call).await.unwrap();
    let [request] = &upstream.requests()[..] else { panic!("one request") };
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", LOGIN));
    assert_eq!(request.text(), format!(r#"{{"ott":"{token}"}}"#));
    assert_eq!(request.header("x-request-id"), Some(call.request_id().as_str()));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("content-length"), Some(request.body.len().to_string().as_str()));
    assert_eq!(request.header("transfer-encoding"), None);
    for absent in ["authorization", "cookie", "referer"] {
        assert_eq!(request.header(absent), None, "{absent}");
    }
}

#[tokio::test]
async fn only_a_logout_sends_cookies_and_only_those_of_its_session() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    let first = log_in(&client, &upstream.token(), &call()).await.unwrap();
    let second = log_in(&client, &upstream.token(), &call()).await.unwrap();
    issues(&client).await;
    let logging_out = call();
    assert_eq!(client.log_out(&second.session, &logging_out).await, LogoutOutcome::LoggedOut);
    let [request] = &upstream.requests_to(LOGOUT)[..] else { panic!("one logout") };
    assert_eq!(request.method, "GET");
    assert_eq!(request.header("cookie"), Some("sid=SESSION-OF-OTT-2"));
    assert_eq!(request.header("x-request-id"), Some(logging_out.request_id().as_str()));
    assert_eq!(request.header("authorization"), None);
    assert!(request.body.is_empty());
    client.log_out(&first.session, &call()).await;
    let with_cookies =
        upstream.requests().iter().filter(|request| request.header("cookie").is_some()).count();
    assert_eq!(with_cookies, 2);
    assert_eq!(upstream.requests_to(LOGOUT)[1].header("cookie"), Some("sid=SESSION-OF-OTT-1"));
}

#[tokio::test]
async fn session_without_cookies_is_not_logged_out() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    client.log_out(&crate::domain::session::Session::default(), &call()).await;
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn logout_ends_in_time_for_every_fault() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, impatient());
    let session = log_in(&client, &upstream.token(), &call()).await.unwrap().session;
    for (behaviour, http_status) in
        [(Behaviour::Stall, None), (Behaviour::Reset, None), (Answer::html(503).into(), Some(503))]
    {
        upstream.next(LOGOUT, behaviour);
        match client.log_out(&session, &call()).await {
            LogoutOutcome::Refused { http_status: refused } => assert_eq!(Some(refused), http_status),
            LogoutOutcome::Failed { .. } => assert_eq!(http_status, None),
            LogoutOutcome::LoggedOut => panic!("the session is alive"),
        }
    }
    assert_eq!(upstream.count(LOGOUT), 3, "none is repeated");
}

#[tokio::test]
async fn connections_are_reused() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    for _ in 0..5 {
        issues(&client).await;
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn old_client_is_replaced_with_its_connections() {
    let upstream = Upstream::http().await;
    let data_center = DataCenter::parse(&upstream.url()).unwrap();
    let mut settings = HttpSettings::new(data_center.base_url().clone(), shared_tls(), Resolver::for_test());
    // Due at every request.
    settings.max_connection_age = std::time::Duration::ZERO;
    let client = client_over(self::settings(&upstream.url(), quick()), settings, Credential::for_test());
    issues(&client).await;
    // It connects in the background, with a separate request, before it serves calls.
    upstream.wait_for("/", 1).await;
    issues(&client).await;
    assert_eq!(upstream.requests_to("/")[0].method, "HEAD");
    assert!(upstream.connections() >= 2, "{}", upstream.connections());
}

#[test]
fn plain_http_is_only_allowed_on_loopback() {
    for (url, fine) in [
        ("http://127.0.0.1:8080", true),
        ("http://[::1]:8080", true),
        ("http://localhost:8080", true),
        ("https://eu2-cloud.acronis.com", true),
        ("http://eu2-cloud.acronis.com", false),
        ("http://10.0.0.1", false),
        ("http://localhost.example.com", false),
    ] {
        let settings = HttpSettings::new(url.parse().unwrap(), shared_tls(), Resolver::for_test());
        assert_eq!(build(&settings, ConnectionReuse::Never).is_ok(), fine, "{url}");
    }
}

#[tokio::test]
async fn configured_proxy_is_used() {
    let proxy = Upstream::http().await;
    let url = "http://127.0.0.1:9/api/2/idp/ott";
    proxy.next(url, Answer::json(200, r#"{"ott":"VIA-PROXY"}"#));
    let settings = settings("http://127.0.0.1:9", quick());
    let mut http = http_settings(&settings, shared_tls());
    http.proxy = Some(Proxy::new(proxy.url().parse().unwrap(), &http.tls));
    let client = client_over(settings, http, Credential::for_test());
    assert_eq!(issue(&client, &call()).await.unwrap().ott.expose(), "VIA-PROXY");
    assert_eq!(proxy.count(url), 1);
}

#[tokio::test]
async fn cause_contains_the_status_with_which_a_proxy_refuses() {
    let proxy = Upstream::http().await;
    let settings = settings("https://eu2.example:8443", Limits { max_attempts: 1, ..quick() });
    let mut http = http_settings(&settings, shared_tls());
    http.proxy = Some(Proxy::new(proxy.url().parse().unwrap(), &http.tls));
    let client = client_over(settings, http, Credential::for_test());
    proxy.always("eu2.example:8443", Answer::html(403));
    for _ in 0..2 {
        let error = issue(&client, &call()).await.unwrap_err();
        let PlatformError::Unreachable(cause) = &error.kind else { panic!("{error:?}") };
        assert_eq!(cause, "the proxy refused the tunnel with HTTP status 403");
        assert_eq!(error.certainty, Certainty::NotSent);
    }
    assert_eq!(proxy.count("eu2.example:8443"), 3, "its status is requested once");
    proxy.always("eu2.example:8443", Answer::html(407));
    let error = issue(&client, &call()).await.unwrap_err();
    assert!(error.kind.to_string().contains("HTTP status 407"), "{error:?}");
}

/// For a data center over TLS and one without, which use the proxy with and without a tunnel.
#[tokio::test]
async fn cause_names_a_proxy_that_cannot_be_reached() {
    let (silent, closing) = (
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let dead = closing.local_addr().unwrap();
    drop(closing);
    let cause = async |proxy: std::net::SocketAddr, server: &str| {
        let settings = settings(server, Limits { max_attempts: 1, ..quick() });
        let mut http = http_settings(&settings, shared_tls());
        let url = format!("http://user:canary@{proxy}");
        http.proxy = Some(Proxy::new(url.parse().unwrap(), &http.tls));
        let client = client_over(settings, http, Credential::for_test());
        let error = issue(&client, &call()).await.unwrap_err();
        let PlatformError::Unreachable(cause) = &error.kind else { panic!("{error:?}") };
        cause.clone()
    };
    for server in ["https://eu2.example:8443", "http://127.0.0.1:9"] {
        let cause = cause(dead, server).await;
        let expected = format!("cannot connect to the proxy {dead}: Connection refused");
        assert!(cause.to_lowercase().starts_with(&expected.to_lowercase()), "{cause}");
    }
    let address = silent.local_addr().unwrap();
    let closes = tokio::spawn(async move {
        while let Ok((mut stream, _)) = silent.accept().await {
            let mut head = [0; 1024];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut head).await;
        }
    });
    let cause = cause(address, "https://eu2.example:8443").await;
    assert_eq!(cause, format!("the proxy {address} closed the connection before the tunnel was open"));
    closes.abort();
}

/// Runs another test of this file in a process whose environment sets a proxy that does not exist.
#[test]
fn proxy_from_the_environment_is_ignored() {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        child.env(name, "http://127.0.0.1:9");
    }
    let test = "platform::tests::wire::issuing_sends_exactly_the_documented_request";
    let output =
        child.env_remove("NO_PROXY").env_remove("no_proxy").args([test, "--exact"]).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}");
}

#[tokio::test]
async fn no_secret_is_logged_or_shown_under_any_fault() {
    let log = CapturedLog::start();
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    let mut shown = String::new();
    let cookie = "sid=CANARY-COOKIE; Path=/";
    // Each echoes the values of its own request.
    let answers = |echo: &str| {
        [
            Answer::json(200, r#"{"ott":"CANARY-OTT","id":"1","login":"j"}"#),
            Answer::json(200, r#"{"ott":"CANARY-OTT"#),
            Answer::json(400, format!(r#"{{"error":{{"message":"{echo}"}}}}"#)),
            Answer::html(503),
        ]
        .map(|answer| answer.header("set-cookie", cookie).header("set-cookie", "CANARY-COOKIE"))
    };
    for (issued, spent) in answers("access-token-1 CANARY-LOGIN").into_iter().zip(answers("CANARY-OTT")) {
        let faults = |answer: Answer| {
            [Behaviour::Answer(answer.clone()), Behaviour::CutAfter(5, answer), Behaviour::Reset]
        };
        for (issued, spent) in faults(issued).into_iter().zip(faults(spent)) {
            upstream.next(OTT, issued).next(LOGIN, spent);
            let (issuing, spending) = (call(), call());
            let permit = issue_permit(subject("CANARY-LOGIN"));
            writeln!(shown, "{:?}", client.issue_ott(&permit, &issuing, &CallSpan::default()).await).unwrap();
            writeln!(shown, "{:?} {client:?}", log_in(&client, "CANARY-OTT", &spending).await).unwrap();
        }
    }
    let sent = upstream.requests();
    assert!(sent.iter().any(|request| request.text().contains("CANARY-OTT")));
    shown += &log.text();
    assert!(shown.contains("platform request ended"), "nothing was logged");
    for secret in ["CANARY", "access-token"] {
        let line = shown.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}

/// The future of a call is copied into a task, so every call pays for its size.
#[tokio::test]
async fn futures_of_calls_stay_small() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    let (call, span) = (call(), CallSpan::default());
    let permit = issue_permit(subject("john@example.com"));
    let issue = size_of_val(&client.issue_ott(&permit, &call, &span));
    let permit = login_permit();
    let log_in = size_of_val(&client.log_in(&permit, ott("OTT"), &call, &span));
    assert!(issue <= 2048 && log_in <= 2048, "{issue} {log_in}");
}

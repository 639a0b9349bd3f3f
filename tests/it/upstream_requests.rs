//! The exact requests that the gateway sends to the platform.

use ott_gateway::proto::ott::v1::{IssueOttRequest, issue_ott_request::Subject};

use crate::support::{
    call::{self, refused},
    gateway::Setup,
    upstream::{Answer, LOGIN, LOGOUT, OTT, Recorded, TOKEN, Tls, Upstream},
};

/// Base64 of `test-client:canary-client-secret`.
const BASIC: &str = "Basic dGVzdC1jbGllbnQ6Y2FuYXJ5LWNsaWVudC1zZWNyZXQ=";

/// Sorted header names.
fn header_names(request: &Recorded) -> Vec<&str> {
    let mut names: Vec<&str> = request.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names
}

fn has(request: &Recorded, text: &str) -> bool {
    String::from_utf8_lossy(&request.raw).to_lowercase().contains(&text.to_lowercase())
}

/// SHA-256 of the caller's token `of-the-caller`.
const CALLER_HASH: &str = "bd8f8f08856767c6c08200be7513153ac6fc21c386ac93f10dc7262c7cb38a41";

#[tokio::test]
async fn requests_have_exactly_the_documented_form() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address())
        .replacing("callers = [\"anonymous\"]", "callers = [\"anonymous\", \"token:ci\"]")
        .replacing("[audit]", &format!("[callers.tokens]\nci = \"sha256:{CALLER_HASH}\"\n[audit]"))
        .start();
    let mut client = gateway.client().await;
    let mut request = tonic::Request::new(call::issue("john@example.com"));
    request.metadata_mut().insert("x-request-id", "the-first".parse().expect("visible ASCII"));
    request.metadata_mut().insert("cookie", "a=b".parse().expect("visible ASCII"));
    request.metadata_mut().insert("authorization", "Bearer of-the-caller".parse().expect("visible ASCII"));
    let ott = client.issue_ott(request).await.expect("a token").into_inner().ott;
    client.login_with_ott(call::login(&ott)).await.expect("a session");

    let host = upstream.address().to_string();
    let token = &upstream.requests_to(TOKEN)[0];
    assert_eq!(token.method, "POST");
    assert_eq!(token.header("host"), Some(host.as_str()));
    assert_eq!(token.header("authorization"), Some(BASIC));
    assert_eq!(token.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(token.header("content-length"), Some("29"));
    assert_eq!(token.text(), "grant_type=client_credentials");

    let issue = &upstream.requests_to(OTT)[0];
    assert_eq!(issue.method, "POST");
    assert!(issue.raw.starts_with(b"POST /api/2/idp/ott HTTP/1.1\r\n"));
    assert_eq!(issue.header("host"), Some(host.as_str()));
    assert_eq!(issue.header("authorization"), Some("Bearer ACCESS"));
    assert_eq!(issue.header("content-type"), Some("application/json"));
    assert_eq!(issue.header("x-request-id"), Some("the-first"));
    assert_eq!(issue.text(), r#"{"purpose":"user_login","login":"john@example.com"}"#);
    assert_eq!(issue.header("content-length"), Some(issue.body.len().to_string().as_str()));

    let login = &upstream.requests_to(LOGIN)[0];
    assert!(login.raw.starts_with(b"POST /api/2/idp/ott/login HTTP/1.1\r\n"));
    assert_eq!(login.header("authorization"), None);
    assert_eq!(login.header("content-type"), Some("application/json"));
    assert_eq!(login.text(), format!(r#"{{"ott":"{ott}"}}"#));
    assert_eq!(login.header("content-length"), Some(login.body.len().to_string().as_str()));
    assert!(login.header("x-request-id").is_some());

    for (request, names) in [
        (token, "accept accept-encoding authorization content-length content-type host"),
        (issue, "accept accept-encoding authorization content-length content-type host x-request-id"),
        (login, "accept accept-encoding content-length content-type host x-request-id"),
    ] {
        let sent: Vec<_> = header_names(request).into_iter().filter(|name| *name != "user-agent").collect();
        assert_eq!(sent.join(" "), names, "{}", request.path);
    }
}

#[tokio::test]
async fn subjects_are_sent_as_json_by_their_kind() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut client = gateway.client().await;
    let hostile = r#"o'"\brien","user_id":"1"} é 😀"#;
    let odd = "2955b448-7df8-43uc-9c63-a21511dbe06d";
    for (subject, field, value) in [
        (Subject::Login(hostile.to_owned()), "login", hostile),
        (Subject::ExternalId("x-17".to_owned()), "external_id", "x-17"),
        (Subject::UserId(odd.to_owned()), "user_id", odd),
    ] {
        let request = IssueOttRequest { subject: Some(subject), purpose: 1, ..IssueOttRequest::default() };
        client.issue_ott(request).await.expect("a token");
        let sent = upstream.requests_to(OTT).pop().expect("a token request");
        let sent: serde_json::Value = serde_json::from_slice(&sent.body).expect("JSON");
        assert_eq!(sent, serde_json::json!({"purpose": "user_login", field: value}));
    }
}

#[tokio::test]
async fn redirects_are_not_followed_to_other_hosts() {
    let upstream = Upstream::http().await;
    let elsewhere = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut client = gateway.client().await;
    for status in [301, 302, 303, 307, 308] {
        let answer = Answer::empty(status).header("location", format!("{}{OTT}", elsewhere.url()));
        upstream.next(OTT, answer.clone()).next(LOGIN, answer);
        let issued = client.issue_ott(call::issue("someone")).await.expect_err("a redirect");
        let spent = client.login_with_ott(call::login("OTT")).await.expect_err("a redirect");
        assert_eq!(refused(&issued).reason, "PLATFORM_PROTOCOL_ERROR");
        assert_eq!(refused(&spent).reason, "LOGIN_OUTCOME_UNKNOWN");
    }
    assert_eq!(elsewhere.connections(), 0);
    assert_eq!((upstream.count(OTT), upstream.count(LOGIN)), (5, 5));
    call::issue_and_log_in(&mut client).await;

    // Redirects of the token endpoint are not followed either.
    let redirecting = Upstream::http().await;
    let location = format!("{}{TOKEN}", elsewhere.url());
    redirecting.next(TOKEN, Answer::empty(307).header("location", location));
    let gateway = Setup::for_platform(redirecting.address()).start();
    redirecting.wait_for(TOKEN, 1).await;
    let _ = gateway.client().await.issue_ott(call::issue("someone")).await;
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn cookies_are_sent_only_to_log_out_undelivered_sessions() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut client = gateway.client().await;
    let tracking = |answer: Answer| answer.header("set-cookie", "tracking=1; Path=/");
    let access = r#"{"access_token":"ACCESS","expires_in":7200}"#;
    upstream.next(TOKEN, tracking(Answer::json(200, access)));
    upstream.next(TOKEN, tracking(Answer::json(200, access)));
    upstream.next(OTT, tracking(Answer::empty(401)));
    for _ in 0..3 {
        call::issue_and_log_in(&mut client).await;
    }
    assert!(upstream.requests().iter().all(|request| !has(request, "cookie")), "{:?}", upstream.requests());

    upstream.next(
        LOGIN,
        Answer::json(200, "{}")
            .header("set-cookie", "sid=LOST; Path=/; HttpOnly")
            .header("set-cookie", "second=\"quoted value\"; Domain=elsewhere.example"),
    );
    client.login_with_ott(call::login("OTT")).await.expect_err("no account");
    upstream.wait_for(LOGOUT, 1).await;
    let logout = &upstream.requests_to(LOGOUT)[0];
    assert!(logout.raw.starts_with(b"GET /api/2/idp/logout HTTP/1.1\r\n"));
    assert_eq!(logout.header("cookie"), Some("sid=LOST; second=\"quoted value\""));
    assert_eq!(logout.header("authorization"), None);
    assert!(logout.body.is_empty());

    call::issue_and_log_in(&mut client).await;
    let with_cookies = upstream.requests().into_iter().filter(|request| has(request, "cookie")).count();
    assert_eq!(with_cookies, 1);
    assert_eq!(upstream.count(LOGOUT), 1);
}

#[tokio::test]
async fn environment_proxies_are_ignored_for_https() {
    let upstream = Upstream::https(Tls::new("localhost", false, &["http/1.1"])).await;
    let ca_file = upstream.ca_file().expect("it has TLS").display().to_string();
    let proxy = Upstream::http().await;
    let mut setup = Setup::for_platform(upstream.address()).replacing(
        &format!("\"http://{}\"", upstream.address()),
        &format!("\"{}\"\nca_file = \"{ca_file}\"", upstream.url()),
    );
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        setup = setup.environment(name, &proxy.url());
    }
    let gateway = setup.start();
    call::issue_and_log_in(&mut gateway.client().await).await;
    assert_eq!(proxy.connections(), 0);
    assert_eq!((upstream.count(TOKEN), upstream.count(OTT), upstream.count(LOGIN)), (1, 1, 1));
}

#[tokio::test]
async fn configured_proxy_is_used_instead_of_a_direct_connection() {
    let upstream = Upstream::http().await;
    let proxy = Upstream::http().await;
    let data_center = format!("data_center_url = \"{}\"", upstream.url());
    let gateway = Setup::for_platform(upstream.address())
        .replacing(&data_center, &format!("{data_center}\nproxy_url = \"{}\"", proxy.url()))
        .start();
    proxy.always(
        &format!("{}{TOKEN}", upstream.url()),
        Answer::json(200, r#"{"access_token":"VIA","expires_in":7200}"#),
    );
    proxy.always(&format!("{}{OTT}", upstream.url()), Answer::json(200, r#"{"ott":"VIA-PROXY"}"#));
    let issued = gateway.client().await.issue_ott(call::issue("someone")).await.expect("a token");
    assert_eq!(issued.into_inner().ott, "VIA-PROXY");
    assert_eq!(upstream.connections(), 0);
}

//! The gateway connects only to the configured data centers, regardless of platform responses,
//! environment and callers.

use crate::support::{
    calling::{by_hand, issue, login, result_of, with},
    gateway::Setup,
    upstream::{Answer, LOGIN, OTT, TOKEN, Upstream},
};
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_are_not_followed() {
    let (platform, elsewhere) = (Upstream::http().await, Upstream::http().await);
    let gateway = Setup::for_platform(platform.address()).start();
    let mut client = gateway.client().await;
    assert_eq!(result_of(&client.issue_ott(issue("x")).await), "OK");
    for status in [301, 302, 303, 307, 308] {
        let redirect =
            |path: &str| Answer::empty(status).header("location", format!("{}{path}", elsewhere.url()));
        platform.next(OTT, redirect(OTT)).next(LOGIN, redirect(LOGIN));
        assert_eq!(result_of(&client.issue_ott(issue("x")).await), "Internal PLATFORM_PROTOCOL_ERROR");
        let token = platform.token();
        assert_eq!(result_of(&client.login_with_ott(login(&token)).await), "Aborted LOGIN_OUTCOME_UNKNOWN");
    }
    assert_eq!(result_of(&client.issue_ott(issue("x")).await), "OK");
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn environment_proxies_are_ignored() {
    let (platform, proxy) = (Upstream::http().await, Upstream::http().await);
    let mut setup = Setup::for_platform(platform.address());
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        setup = setup.environment(name, &proxy.url());
    }
    let gateway = setup.environment("NO_PROXY", "").start();
    let mut client = gateway.client().await;
    let token = client.issue_ott(issue("x")).await.expect("a token").into_inner().ott;
    client.login_with_ott(login(&token)).await.expect("a session");
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_cannot_inject_headers_or_paths_at_the_platform() {
    let platform = Upstream::http().await;
    let gateway = Setup::for_platform(platform.address()).start();
    let mut client = gateway.client().await;
    let hostile = "x/../../token?a=b#c\"},{\"login\":\"admin\\";
    let headers = [
        ("x-request-id", "1/../x"),
        ("host", "evil.example"),
        ("cookie", "sid=stolen"),
        ("x-forwarded-for", "127.0.0.1"),
        ("transfer-encoding-x", "chunked"),
    ];
    let mut request = issue(hostile);
    for (name, value) in headers {
        request = with(request, name, value);
    }
    assert_eq!(result_of(&client.issue_ott(request).await), "OK");
    let sent = platform.requests_to(OTT).remove(0);
    let body: serde_json::Value = serde_json::from_str(sent.text()).expect("JSON");
    assert_eq!(body["login"], hostile, "the whole login as one value");
    assert_eq!(body.as_object().expect("an object").keys().filter(|key| *key == "login").count(), 1);
    for value in ["evil", "stolen", "..", "127.0.0.1\r\nx"] {
        let contained = sent.headers.iter().any(|(_, header)| header.contains(value));
        assert!(!contained, "{value}: {:?}", sent.headers);
    }
    assert!(sent.header("cookie").is_none());

    // Line breaks are refused before any request.
    for login in [&b"a\r\nx-injected: 1"[..], b"a\nb", b"a\0b"] {
        let length = u8::try_from(login.len()).expect("a short login");
        let body = [&[0x0a, length], login].concat();
        let (code, reason) = by_hand(gateway.address(), "/ott.v1.OttService/IssueOtt", &[], &body).await;
        assert_eq!((code, reason.as_str()), (tonic::Code::InvalidArgument, "INVALID_REQUEST"));
    }
    assert_eq!((platform.count(OTT), platform.count(TOKEN)), (1, 1));
}

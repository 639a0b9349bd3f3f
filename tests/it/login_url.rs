//! `target_uri` end to end: a login URL leads only to the data center or an allowed origin.

use tonic_types::StatusExt;

use crate::support::{
    calling::{issue, metric, result_of},
    gateway::Setup,
    upstream::{self, Upstream},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_url_leads_only_to_the_data_center_or_an_allowed_origin() {
    let platform = Upstream::http().await;
    let gateway = Setup::for_platform(platform.address())
        .replacing(
            "client_id = \"test-client\"",
            "client_id = \"test-client\"\ntarget_origins = [\"https://portal.example\"]",
        )
        .start();
    let mut client = gateway.client().await;
    let mut issue_to = async |target: &str| {
        let mut request = issue("x@example.com");
        request.get_mut().target_uri = target.to_owned();
        client.issue_ott(request).await
    };
    let data_center = platform.url();
    let good = [
        ("/mc/", format!("{data_center}/mc/")),
        ("/mc/a?b=c#d", format!("{data_center}/mc/a?b=c#d")),
        ("https://portal.example/", "https://portal.example/".to_owned()),
        ("https://portal.example/a%2Fb?next=https://other.example", String::new()),
        ("HTTPS://PORTAL.EXAMPLE:443/x", "https://portal.example/x".to_owned()),
    ];
    for (target, resolved) in good {
        let answer =
            issue_to(target).await.unwrap_or_else(|status| panic!("{target}: {status:?}")).into_inner();
        let url = url::Url::parse(&answer.login_url).expect("a URL");
        assert_eq!(url.origin().ascii_serialization(), data_center, "{url}");
        assert_eq!(url.path(), "/api/2/idp/external-login", "{target}");
        assert_eq!(url.query(), None, "nothing is sent to a server or logged there");
        let fragment: Vec<(String, String)> =
            url::form_urlencoded::parse(url.fragment().unwrap().as_bytes()).into_owned().collect();
        assert_eq!(fragment[0], ("ott".to_owned(), answer.ott));
        assert_eq!((fragment.len(), fragment[1].0.as_str()), (2, "targetURI"));
        let target_uri = url::Url::parse(&fragment[1].1).expect("an absolute URL");
        assert!(
            [data_center.as_str(), "https://portal.example"]
                .contains(&target_uri.origin().ascii_serialization().as_str()),
            "{target_uri}"
        );
        assert!(target_uri.username().is_empty() && target_uri.password().is_none());
        if !resolved.is_empty() {
            assert_eq!(target_uri.as_str(), resolved);
        }
    }
    let sent = platform.count(upstream::OTT);
    let bad = [
        "//evil.example/",
        "///evil.example/",
        "/\\evil.example/",
        "\\\\evil.example/",
        "/\t/evil.example/",
        "https://evil.example/",
        "https://portal.example.evil.example/",
        "https://portal.example@evil.example/",
        "https://user@portal.example/",
        "https://portal.example:8443/",
        "https:\\\\evil.example",
        "https:/evil.example",
        "http://portal.example/",
        "https://p\u{43e}rtal.example/",
        "https://portal\u{3002}evil.example/",
        "javascript:alert(1)",
        "data:text/html,x",
        "mc/",
        "?x",
        "#x",
        "/mc/\r\nlocation: https://evil.example",
        " /mc/",
        "https://[::1]/",
    ];
    for target in bad {
        let status = issue_to(target).await.expect_err(target);
        assert_eq!(result_of::<()>(&Err(status.clone())), "InvalidArgument INVALID_REQUEST", "{target:?}");
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "target_uri", "{target:?}");
        assert!(!status.message().contains("evil"), "the value is not repeated");
    }
    assert_eq!(platform.count(upstream::OTT), sent, "no token is issued for a refused URL");
    let answer = issue_to("").await.unwrap().into_inner();
    assert_eq!(answer.login_url, "", "no login URL unless requested");
    let shown =
        gateway.stderr().text() + &std::fs::read_to_string(gateway.folder().join("audit.jsonl")).unwrap();
    assert!(!shown.contains("external-login"), "no login URL in log or audit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_without_login_urls_refuses_them_before_anything_is_sent() {
    let platform = Upstream::http().await;
    let gateway = Setup::for_platform(platform.address())
        .replacing("callers = [\"anonymous\"]", "callers = [\"anonymous\"]\nlogin_urls = false")
        .start();
    let mut client = gateway.client().await;
    let mut issue_to = async |target: &str| {
        let mut request = issue("x@example.com");
        request.get_mut().target_uri = target.to_owned();
        result_of(&client.issue_ott(request).await)
    };
    assert_eq!(issue_to("/mc/").await, "PermissionDenied CALLER_NOT_ALLOWED");
    assert_eq!(platform.count(upstream::OTT), 0);
    assert_eq!(issue_to("https://evil.example/").await, "InvalidArgument INVALID_REQUEST");
    assert_eq!(issue_to("").await, "OK");
    let denied = metric(gateway.admin(), "ott_gateway_access_denied_total{reason=\"login_url\"}").await;
    assert_eq!(denied.to_string(), "1");
    let records: Vec<serde_json::Value> = std::fs::read_to_string(gateway.folder().join("audit.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|record: &serde_json::Value| record["event"] == "call")
        .collect();
    let shown: Vec<_> =
        records.iter().map(|record| (record["code"].as_str(), record.get("login_url"))).collect();
    let requested = serde_json::Value::Bool(true);
    assert_eq!(
        shown,
        [
            (Some("PERMISSION_DENIED"), Some(&requested)),
            (Some("INVALID_ARGUMENT"), Some(&requested)),
            (Some("OK"), None)
        ]
    );
    gateway.stderr().wait_for("the reason of the denial", |line| {
        line.contains("no access rule allows this call: login_url").then_some(())
    });
}

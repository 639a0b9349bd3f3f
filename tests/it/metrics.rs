//! Exact values of `/metrics` after events that the tests cause.
//!
//! Not here: late audit records (`audit.rs`), and events that a test cannot cause from outside:
//! panics, and dropped or suppressed log lines.

use std::{io::Write, net::TcpStream, sync::Arc, time::Duration};

use ott_gateway::{
    base::clock::WallClock,
    proto::ott::v1::{
        IssueOttRequest, LoginWithOttRequest, issue_ott_request::Subject,
        ott_service_client::OttServiceClient,
    },
};
use rustls::version::TLS13;
use tokio::sync::Semaphore;
use tonic::{Code, Request, transport::Channel};

use crate::support::{
    admin::Admin,
    authority::{Authority, secured, write},
    call::until_access_token_is_old,
    calling::until,
    gateway::{Gateway, Setup},
    upstream::{Answer, Behaviour, LOGIN, OTT, TOKEN, Upstream},
};

/// SHA-256 of `shop-token`.
const SHOP: &str = "sha256:88cc4600551e64b7cb97dd7f63ebad405255e5d17bdd71ee9fe1ed5cc20d0b3b";

fn issue_for(login: &str) -> Request<IssueOttRequest> {
    Request::new(IssueOttRequest {
        subject: Some(Subject::Login(login.to_owned())),
        ..IssueOttRequest::default()
    })
}

fn issue() -> Request<IssueOttRequest> {
    issue_for("canary-user@example.com")
}

fn login(ott: &str) -> Request<LoginWithOttRequest> {
    Request::new(LoginWithOttRequest { ott: ott.to_owned(), ..LoginWithOttRequest::default() })
}

fn with<T>(mut request: Request<T>, name: &'static str, value: &str) -> Request<T> {
    request.metadata_mut().append(name, value.parse().expect("a value"));
    request
}

async fn issued(client: &mut OttServiceClient<Channel>) -> String {
    client.issue_ott(issue()).await.expect("a token").into_inner().ott
}

async fn refused(client: &mut OttServiceClient<Channel>, request: Request<IssueOttRequest>) -> Code {
    client.issue_ott(request).await.expect_err("a failure").code()
}

fn not_found() -> Answer {
    Answer::json(404, r#"{"error":{"code":404,"message":"no such user"}}"#)
}

fn started(setup: Setup) -> (Gateway, Admin) {
    let gateway = setup.start();
    let admin = Admin(gateway.admin());
    (gateway, admin)
}

#[expect(clippy::too_many_lines, reason = "the events and then their metrics")]
#[tokio::test(flavor = "multi_thread")]
async fn every_result_of_a_call_is_counted() {
    let upstream = Upstream::http().await;
    let (gateway, admin) = started(Setup::for_platform(upstream.address()));
    let mut client = gateway.client().await;

    // Four successful calls.
    let ott = issued(&mut client).await;
    client.login_with_ott(login(&ott)).await.expect("a session");
    until_access_token_is_old().await;
    upstream.next(OTT, Answer::json(401, r#"{"error":{"code":401,"message":"expired"}}"#));
    issued(&mut client).await;
    upstream.next(OTT, Behaviour::Reset);
    issued(&mut client).await;

    // Platform errors.
    let replay = client.login_with_ott(login(&ott)).await.expect_err("it is spent");
    assert_eq!(replay.code(), Code::Unauthenticated);
    for _ in 0..3 {
        upstream.next(OTT, Answer::empty(503));
    }
    assert_eq!(refused(&mut client, issue()).await, Code::Unavailable);
    upstream.next(OTT, not_found());
    assert_eq!(refused(&mut client, issue()).await, Code::NotFound);
    upstream.next(LOGIN, Behaviour::Reset);
    let ambiguous = client.login_with_ott(login(&upstream.token())).await.expect_err("no answer");
    assert_eq!(ambiguous.code(), Code::Aborted);

    // A token that is already being spent.
    let held = Arc::new(Semaphore::new(0));
    upstream.next(LOGIN, Behaviour::Held(Arc::clone(&held), Box::new(Behaviour::Healthy)));
    let ott = upstream.token();
    let first = tokio::spawn({
        let (mut client, ott) = (client.clone(), ott.clone());
        async move { client.login_with_ott(login(&ott)).await }
    });
    upstream.wait_for(LOGIN, 4).await;
    admin.scrape().has(&[("ott_gateway_calls_in_flight", 1.0)]);
    assert_eq!(client.login_with_ott(login(&ott)).await.expect_err("in use").code(), Code::Aborted);
    held.add_permits(1);
    first.await.expect("no panic").expect("a session");

    // Callers that stop waiting: deadline and cancellation.
    upstream.next(OTT, Behaviour::Stall);
    let mut hurried = issue();
    hurried.set_timeout(Duration::from_secs(3));
    assert_eq!(refused(&mut client, hurried).await, Code::DeadlineExceeded);
    upstream.next(OTT, Behaviour::Held(Arc::clone(&held), Box::new(Behaviour::Healthy)));
    let requests = upstream.count(OTT);
    tokio::select! {
        _ = client.issue_ott(issue()) => panic!("it is held"),
        () = upstream.wait_for(OTT, requests + 1) => {}
    }
    admin.wait_for(r#"grpc_server_handled_total{grpc_code="Canceled",grpc_method="IssueOtt"}"#, 1.0).await;
    held.add_permits(1);

    // Calls that are refused before or in the handler.
    assert_eq!(refused(&mut client, with(issue(), "grpc-timeout", "soon")).await, Code::InvalidArgument);
    assert_eq!(refused(&mut client, Request::new(IssueOttRequest::default())).await, Code::InvalidArgument);
    let large = client.login_with_ott(login(&"x".repeat(20_000))).await.expect_err("too large");
    assert_eq!(large.code(), Code::ResourceExhausted);
    let mut grpc = tonic::client::Grpc::new(gateway.channel().await);
    grpc.ready().await.expect("a connection");
    let path = http::uri::PathAndQuery::from_static("/ott.v1.OttService/SpendEverything");
    let codec = tonic_prost::ProstCodec::<IssueOttRequest, IssueOttRequest>::default();
    assert_eq!(grpc.unary(issue(), path, codec).await.expect_err("unknown").code(), Code::Unimplemented);

    admin.wait_for("ott_gateway_calls_in_flight", 0.0).await;
    let scrape = admin.scrape();
    scrape.has(&[
        (r#"grpc_server_started_total{grpc_method="IssueOtt",grpc_service="ott.v1.OttService",grpc_type="unary"}"#, 9.0),
        (r#"grpc_server_started_total{grpc_method="LoginWithOtt"}"#, 6.0),
        (r#"grpc_server_started_total{grpc_method="unknown"}"#, 1.0),
        (r#"grpc_server_handled_total{grpc_method="IssueOtt",grpc_code="OK"}"#, 3.0),
        (r#"grpc_server_handled_total{grpc_method="IssueOtt",grpc_code="Unavailable"}"#, 1.0),
        (r#"grpc_server_handled_total{grpc_method="IssueOtt",grpc_code="NotFound"}"#, 1.0),
        (r#"grpc_server_handled_total{grpc_method="IssueOtt",grpc_code="DeadlineExceeded"}"#, 1.0),
        (r#"grpc_server_handled_total{grpc_method="IssueOtt",grpc_code="Canceled"}"#, 1.0),
        (r#"grpc_server_handled_total{grpc_method="IssueOtt",grpc_code="InvalidArgument"}"#, 2.0),
        (r#"grpc_server_handled_total{grpc_method="IssueOtt"}"#, 9.0),
        (r#"grpc_server_handled_total{grpc_method="LoginWithOtt",grpc_code="OK"}"#, 2.0),
        (r#"grpc_server_handled_total{grpc_method="LoginWithOtt",grpc_code="Unauthenticated"}"#, 1.0),
        (r#"grpc_server_handled_total{grpc_method="LoginWithOtt",grpc_code="Aborted"}"#, 2.0),
        (r#"grpc_server_handled_total{grpc_method="LoginWithOtt",grpc_code="ResourceExhausted"}"#, 1.0),
        (r#"grpc_server_handled_total{grpc_method="LoginWithOtt"}"#, 6.0),
        (r#"grpc_server_handled_total{grpc_method="unknown",grpc_code="Unimplemented"}"#, 1.0),
        (r#"grpc_server_handled_total{grpc_method="unknown"}"#, 1.0),
        (r#"grpc_server_handling_seconds_count{grpc_method="IssueOtt"}"#, 9.0),
        (r#"grpc_server_handling_seconds_bucket{grpc_method="LoginWithOtt",le="+Inf"}"#, 6.0),
        (r#"ott_gateway_errors_total{method="IssueOtt",reason="PLATFORM_UNAVAILABLE"}"#, 1.0),
        (r#"ott_gateway_errors_total{method="IssueOtt",reason="USER_NOT_FOUND"}"#, 1.0),
        (r#"ott_gateway_errors_total{method="IssueOtt",reason="DEADLINE_EXCEEDED"}"#, 1.0),
        (r#"ott_gateway_errors_total{method="IssueOtt",reason="INVALID_REQUEST"}"#, 2.0),
        (r#"ott_gateway_errors_total{method="LoginWithOtt",reason="OTT_REJECTED"}"#, 1.0),
        (r#"ott_gateway_errors_total{method="LoginWithOtt",reason="LOGIN_OUTCOME_UNKNOWN"}"#, 1.0),
        (r#"ott_gateway_errors_total{method="LoginWithOtt",reason="OTT_IN_USE"}"#, 1.0),
        (r#"ott_gateway_errors_total{method="LoginWithOtt",reason="REQUEST_TOO_LARGE"}"#, 1.0),
        (r#"ott_gateway_errors_total{method="unknown",reason="METHOD_UNKNOWN"}"#, 1.0),
        ("ott_gateway_errors_total", 10.0),
        (r#"ott_gateway_security_events_total{kind="ott_rejected"}"#, 1.0),
        (r#"ott_gateway_security_events_total{kind="ott_in_use"}"#, 1.0),
        (r#"ott_gateway_caller_calls_total{caller="anonymous",method="IssueOtt",code="OK"}"#, 3.0),
        (r#"ott_gateway_caller_calls_total{caller="anonymous",method="LoginWithOtt",code="Aborted"}"#, 2.0),
        // All except the call with a malformed deadline, which is refused before its caller is
        // identified, the call with a deadline, and the call of an unknown method.
        (r#"ott_gateway_calls_without_deadline_total{caller="anonymous"}"#, 13.0),
        (r#"ott_gateway_platform_requests_total{api_client="test",operation="IssueOtt",outcome="done",http_status="200"}"#, 4.0),
        (r#"ott_gateway_platform_requests_total{operation="IssueOtt",outcome="refused",http_status="401"}"#, 1.0),
        (r#"ott_gateway_platform_requests_total{operation="IssueOtt",outcome="refused",http_status="404"}"#, 1.0),
        (r#"ott_gateway_platform_requests_total{operation="IssueOtt",outcome="unknown",http_status="503"}"#, 3.0),
        (r#"ott_gateway_platform_requests_total{operation="LoginWithOtt",outcome="done",http_status="200"}"#, 2.0),
        (r#"ott_gateway_platform_requests_total{operation="LoginWithOtt",outcome="refused",http_status="401"}"#, 1.0),
        (r#"ott_gateway_platform_requests_total{operation="LoginWithOtt",outcome="unknown",http_status="none"}"#, 1.0),
        (r#"ott_gateway_platform_request_seconds_count{operation="LoginWithOtt"}"#, 4.0),
        (r#"ott_gateway_platform_retries_total{api_client="test",operation="IssueOtt"}"#, 3.0),
        (r#"ott_gateway_platform_retries_total{operation="LoginWithOtt"}"#, 0.0),
        // The first token and another after the 401.
        (r#"ott_gateway_access_token_refreshes_total{api_client="test",result="ok"}"#, 2.0),
        (r#"ott_gateway_audit_records_total{sink="file",result="ok"}"#, 16.0),
        (r#"ott_gateway_audit_records_total{sink="file",result="failed"}"#, 0.0),
        (r#"ott_gateway_connections{state="open"}"#, 2.0),
        ("ott_gateway_panics_total", 0.0),
    ]);
    assert_eq!(gateway.audit().len(), 16, "a record per call");
    let text = scrape.text();
    assert!(!text.contains("canary") && !text.contains("OTT-"), "no user and no token: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_and_denials_are_counted() {
    let upstream = Upstream::http().await;
    let setup = Setup::for_platform(upstream.address())
        .replacing(
            "[[access.rules]]",
            &format!(
                r#"
                [callers.tokens]
                shop = "{SHOP}"
                [[access.rules]]
                callers = ["token:shop"]
                methods = ["IssueOtt"]
                rate = "1/min"
                burst = 2
                logins = ["*@shop.example"]
                [[access.rules]]"#
            ),
        )
        .replacing(r#"callers = ["anonymous"]"#, "callers = [\"anonymous\"]\nmethods = [\"IssueOtt\"]");
    let (gateway, admin) = started(setup);
    let mut client = gateway.client().await;
    let shop = |login| with(issue_for(login), "authorization", "Bearer shop-token");

    for _ in 0..2 {
        client.issue_ott(shop("a@shop.example")).await.expect("a token");
    }
    assert_eq!(refused(&mut client, shop("a@shop.example")).await, Code::ResourceExhausted);
    assert_eq!(refused(&mut client, shop("a@bank.example")).await, Code::PermissionDenied);
    let spends = with(login("OTT-1"), "authorization", "Bearer shop-token");
    assert_eq!(client.login_with_ott(spends).await.expect_err("denied").code(), Code::PermissionDenied);
    let forged = with(issue(), "authorization", "Bearer another");
    assert_eq!(refused(&mut client, forged).await, Code::Unauthenticated);
    let twice = with(shop("a@shop.example"), "authorization", "Bearer shop-token");
    assert_eq!(refused(&mut client, twice).await, Code::Unauthenticated);
    let spoofed = with(issue(), "x-forwarded-client-cert", "URI=spiffe://mesh/admin");
    assert_eq!(refused(&mut client, spoofed).await, Code::Unauthenticated);
    client.issue_ott(issue()).await.expect("a token, as anonymous");

    admin.scrape().has(&[
        (r#"ott_gateway_caller_calls_total{caller="token:shop",method="IssueOtt",code="OK"}"#, 2.0),
        (r#"ott_gateway_caller_calls_total{caller="token:shop",method="IssueOtt",code="ResourceExhausted"}"#, 1.0),
        (r#"ott_gateway_caller_calls_total{caller="token:shop",method="IssueOtt",code="PermissionDenied"}"#, 1.0),
        (r#"ott_gateway_caller_calls_total{caller="token:shop",method="LoginWithOtt",code="PermissionDenied"}"#, 1.0),
        (r#"ott_gateway_caller_calls_total{caller="anonymous",method="IssueOtt",code="OK"}"#, 1.0),
        ("ott_gateway_caller_calls_total", 6.0),
        (r#"ott_gateway_quota_exceeded_total{caller="token:shop"}"#, 1.0),
        (r#"ott_gateway_quota_exceeded_total{caller="anonymous"}"#, 0.0),
        (r#"ott_gateway_access_denied_total{reason="user"}"#, 1.0),
        (r#"ott_gateway_access_denied_total{reason="method"}"#, 1.0),
        (r#"ott_gateway_access_denied_total{reason="caller"}"#, 0.0),
        ("ott_gateway_spoofed_identity_headers_total", 1.0),
        (r#"ott_gateway_security_events_total{kind="caller_unauthenticated"}"#, 3.0),
        (r#"ott_gateway_security_events_total{kind="duplicate_identity"}"#, 1.0),
        (r#"ott_gateway_errors_total{method="IssueOtt",reason="CALLER_UNAUTHENTICATED"}"#, 3.0),
        (r#"grpc_server_handled_total{grpc_method="IssueOtt",grpc_code="Unauthenticated"}"#, 3.0),
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn breaker_state_is_reported() {
    const STATE: &str = r#"ott_gateway_breaker_state{api_client="test",operation="IssueOtt"}"#;
    let upstream = Upstream::http().await;
    upstream.always(OTT, Answer::empty(500));
    let (gateway, admin) = started(Setup::for_platform(upstream.address()));
    let client = gateway.client().await;
    admin.scrape().has(&[(STATE, 0.0)]);
    let calls = (0..20).map(|_| {
        let mut client = client.clone();
        async move { refused(&mut client, issue()).await }
    });
    for code in futures_util::future::join_all(calls).await {
        assert_eq!(code, Code::Unavailable);
    }
    assert!(admin.scrape().value(STATE) > 0.0, "open, or half-open during a probe");
    let requests = upstream.count(OTT);
    let sum = |outcome| format!(r#"ott_gateway_platform_requests_total{{outcome="{outcome}"}}"#);
    let counted = f64::from(u32::try_from(requests).expect("few"));
    admin.wait_for(&sum("unknown"), counted).await;

    upstream.always(OTT, Behaviour::Healthy);
    let mut recovering = client.clone();
    while recovering.issue_ott(issue()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    admin.scrape().has(&[(STATE, 0.0), (&sum("done"), 1.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_credential_is_reported_before_calls_fail() {
    const REMAINING: &str = r#"ott_gateway_access_token_remaining_seconds{api_client="test"}"#;
    let upstream = Upstream::http().await;
    let refreshes = |result: &str| {
        format!(r#"ott_gateway_access_token_refreshes_total{{api_client="test",result="{result}"}}"#)
    };
    upstream.next(TOKEN, Answer::json(401, r#"{"error":"invalid_client"}"#));
    upstream.next(TOKEN, Answer::empty(503));
    let ahead = WallClock::system().now() + Duration::from_hours(1);
    let token = r#"{"access_token":"ACCESS","expires_in":7200,"token_type":"bearer"}"#;
    upstream.next(TOKEN, Answer::json(200, token).header("date", httpdate::fmt_http_date(ahead)));
    let (_gateway, admin) = started(Setup::for_platform(upstream.address()));
    admin.wait_for(&refreshes("rejected"), 1.0).await;
    admin.wait_for(&refreshes("failed"), 1.0).await;
    admin.scrape().has(&[(REMAINING, 0.0), (&refreshes("ok"), 0.0)]);
    admin.wait_for(&refreshes("ok"), 1.0).await;
    let scrape = admin.scrape();
    let remaining = scrape.value(REMAINING);
    assert!((7150.0..=7200.0).contains(&remaining), "{remaining}");
    let skew = scrape.value(r#"ott_gateway_clock_skew_seconds{api_client="test"}"#);
    assert!((3580.0..=3610.0).contains(&skew), "{skew}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_audit_writes_are_counted() {
    let upstream = Upstream::http().await;
    let setup = Setup::for_platform(upstream.address()).replacing("FOLDER/audit.jsonl", "/dev/full");
    let (gateway, admin) = started(setup);
    let mut client = gateway.client().await;
    for _ in 0..2 {
        assert_eq!(refused(&mut client, issue()).await, Code::Unavailable);
    }
    admin.scrape().has(&[
        (r#"ott_gateway_audit_records_total{sink="file",result="failed"}"#, 2.0),
        (r#"ott_gateway_audit_records_total{sink="file",result="ok"}"#, 0.0),
        (r#"ott_gateway_audit_records_total{sink="file",result="late"}"#, 0.0),
        (r#"ott_gateway_errors_total{method="IssueOtt",reason="AUDIT_UNAVAILABLE"}"#, 2.0),
    ]);
    assert_eq!(upstream.count(OTT), 0);
}

/// Adds a server certificate and an authority for client certificates.
fn with_tls(setup: Setup, authority: &Authority) -> Setup {
    authority.issue(&["localhost"]).write(setup.folder());
    setup.file("ca.crt", &authority.certificate());
    setup.replacing(
        "[admin]",
        r#"
        [server.tls]
        certificate_file = "FOLDER/tls.crt"
        private_key_file = "FOLDER/tls.key"
        client_ca_file = "FOLDER/ca.crt"
        client_auth = "optional"
        [admin]"#,
    )
}

/// A key set with one key with this id (RFC 7515, appendix A.3).
fn jwks(id: &str) -> String {
    format!(
        r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"{id}","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}}]}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn successful_and_refused_reloads_are_counted() {
    const ALL: [&str; 5] = ["rules", "certificate", "client_ca", "client_secret", "jwks"];
    let upstream = Upstream::http().await;
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let setup = with_tls(Setup::for_platform(upstream.address()), &old).replacing(
        "[admin]",
        r#"
        [callers.jwt]
        issuer = "https://issuer.example"
        audience = "ott-gateway"
        jwks_file = "FOLDER/jwks.json"
        [admin]"#,
    );
    setup.file("jwks.json", &jwks("one"));
    let (gateway, admin) = started(setup);
    let folder = gateway.folder();
    admin.wait_for(r#"ott_gateway_access_token_refreshes_total{result="ok"}"#, 1.0).await;
    let reloads =
        |what: &str, result: &str| format!(r#"ott_gateway_reloads_total{{what="{what}",result="{result}"}}"#);
    let failing = |what: &str| format!(r#"ott_gateway_reload_failing{{what="{what}"}}"#);
    let scrape = admin.scrape();
    for what in ALL {
        scrape.has(&[(&reloads(what, "ok"), 0.0), (&reloads(what, "failed"), 0.0), (&failing(what), 0.0)]);
        let loaded =
            scrape.value(&format!(r#"ott_gateway_reload_last_success_timestamp_seconds{{what="{what}"}}"#));
        let start = scrape.value("process_start_time_seconds");
        assert!((loaded - start).abs() < 20.0, "{what}: {loaded} {start}");
    }

    let config = std::fs::read_to_string(folder.join("config.toml")).expect("the configuration");
    write(folder, "config.toml", &config.replace("[[access.rules]]", "[[access.rools]]"));
    write(folder, "client-secret", "");
    write(folder, "ca.crt", "no certificate");
    write(folder, "jwks.json", r#"{"keys":[]}"#);
    gateway.signal("HUP");
    for what in ["rules", "client_secret", "client_ca", "jwks"] {
        admin.wait_for(&failing(what), 1.0).await;
        admin.scrape().has(&[(&reloads(what, "failed"), 1.0), (&reloads(what, "ok"), 0.0)]);
    }
    admin.scrape().has(&[(&failing("certificate"), 0.0), (&reloads("certificate", "failed"), 0.0)]);
    write(folder, "tls.crt", "no certificate");
    admin.wait_for(&failing("certificate"), 1.0).await;

    write(folder, "config.toml", &config.replace("user_rate = \"unlimited\"", ""));
    write(folder, "client-secret", "another-client-secret\n");
    write(folder, "jwks.json", &jwks("two"));
    write(folder, "ca.crt", &new.certificate());
    new.issue(&["localhost"]).write(folder);
    gateway.signal("HUP");
    for what in ALL {
        admin.wait_for(&reloads(what, "ok"), 1.0).await;
        admin.scrape().has(&[(&failing(what), 0.0), (&reloads(what, "failed"), 1.0)]);
    }
    // The new secret causes a new token.
    admin.wait_for(r#"ott_gateway_access_token_refreshes_total{result="ok"}"#, 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_without_a_call_are_counted() {
    let handshakes = |result: &str| format!(r#"ott_gateway_tls_handshakes_total{{result="{result}"}}"#);
    let security = |kind: &str| format!(r#"ott_gateway_security_events_total{{kind="{kind}"}}"#);
    let ended = |reason: &str| format!(r#"ott_gateway_connections_ended_total{{reason="{reason}"}}"#);
    let in_handshake = r#"ott_gateway_connections{state="handshake"}"#;
    let upstream = Upstream::http().await;
    let authority = Authority::new("server");
    let setup = with_tls(Setup::for_platform(upstream.address()), &authority)
        .replacing("[server]", "[server]\nmax_connections = 2");
    let (gateway, admin) = started(setup);
    let address = gateway.address();
    let connect = || TcpStream::connect(address).expect("it accepts");

    let _makes_room = connect();
    let without_preface = secured(address, authority.client(None, &["h2"], &TLS13)).await;
    let _without_preface = without_preface.expect("a handshake");
    admin.wait_for(in_handshake, 2.0).await;
    let _says_nothing = connect();
    admin.wait_for(&ended("evicted"), 1.0).await;
    admin.wait_for(&handshakes("timeout"), 1.0).await;
    admin.wait_for(&security("slow_preface"), 1.0).await;
    admin.wait_for(in_handshake, 0.0).await;

    connect().write_all(b"GET / HTTP/1.0\r\n\r\n").expect("it reads");
    admin.wait_for(&handshakes("failed"), 1.0).await;
    drop(secured(address, authority.client(None, &[], &TLS13)).await);
    admin.wait_for(&handshakes("no_alpn"), 1.0).await;
    admin.wait_for(in_handshake, 0.0).await;

    let mut client = OttServiceClient::new(authority.channel(address, None).await.expect("a connection"));
    client.issue_ott(issue()).await.expect("a token");
    admin.scrape().has(&[
        (&handshakes("ok"), 2.0),
        (&handshakes("failed"), 1.0),
        (&handshakes("timeout"), 1.0),
        (&handshakes("no_alpn"), 1.0),
        (&security("slow_handshake"), 1.0),
        (&security("slow_preface"), 1.0),
        (&ended("evicted"), 1.0),
        // No TLS, no ALPN, a slow handshake and a slow preface.
        (&ended("handshake"), 4.0),
        ("ott_gateway_connections_refused_total", 0.0),
        (r#"ott_gateway_connections{state="open"}"#, 1.0),
        (in_handshake, 0.0),
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_http2_streams_and_connections_are_counted_and_logged() {
    let upstream = Upstream::http().await;
    let (gateway, admin) = started(Setup::for_platform(upstream.address()));
    let resets = "ott_gateway_http2_stream_resets_total";
    let errors = |scope: &str, reason: &str| {
        format!("ott_gateway_http2_errors_total{{reason=\"{reason}\",scope=\"{scope}\"}}")
    };
    let frame = |kind: u8, flags: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).expect("a short one");
        [&[0, 0, length, kind, flags, 0, 0, 0, u8::from(kind != 4)], payload].concat()
    };
    let connect = || {
        let mut stream = TcpStream::connect(gateway.address()).expect("it accepts");
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("it reads");
        stream.write_all(&frame(4, 0, &[])).expect("it reads");
        stream
    };
    // Literal fields without indexing (RFC 7541, section 6.2.2).
    let field = |name: &str, value: &str| {
        let length = |text: &str| u8::try_from(text.len()).expect("a short one");
        [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
    };
    let logged = |message: &str, reason: &str| {
        let reason = format!("\"http2.error\":\"{reason}\"");
        let matches = |line: &&str| line.contains(message) && line.contains(&reason);
        gateway.stderr().wait_for(message, |text| {
            let line = text.lines().find(matches)?;
            assert!(line.contains("\"level\":\"INFO\"") && line.contains("127.0.0.1"), "{line}");
            Some(())
        });
    };

    // A header that HTTP/2 forbids.
    let mut malformed = connect();
    malformed.write_all(&frame(1, 5, &field("connection", "close"))).expect("it reads");
    admin.wait_for(&errors("stream", "protocol_error"), 1.0).await;
    logged("HTTP/2 stream rejected", "protocol_error");

    // A header name that makes the connection fail.
    let mut in_capitals = connect();
    in_capitals.write_all(&frame(1, 5, &field("X-Name", "a"))).expect("it reads");
    admin.wait_for(&errors("connection", "protocol_error"), 1.0).await;
    logged("HTTP/2 connection rejected", "protocol_error");

    // More than 2,000 resets, faster than the allowance is refilled.
    let mut rapid = connect();
    let request = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    let block: Vec<u8> = request.iter().flat_map(|(name, value)| field(name, value)).collect();
    let streams = (0..100_000_u32).map(|n| 2 * n + 1);
    for stream in streams {
        let mut both = [frame(1, 4, &block), frame(3, 0, &[0, 0, 0, 8])];
        for frame in &mut both {
            frame[5..9].copy_from_slice(&stream.to_be_bytes());
        }
        if rapid.write_all(&both.concat()).is_err() {
            break;
        }
    }
    admin.wait_for(&errors("connection", "too_many_resets"), 1.0).await;
    logged("HTTP/2 connection rejected", "too_many_resets");
    let counted = admin.scrape().value(resets);
    assert!((2001.0..100_000.0).contains(&counted), "{counted}");

    let mut client = gateway.client().await;
    client.issue_ott(issue()).await.expect("a token");
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_connections_are_counted() {
    let upstream = Upstream::http().await;
    let (mut gateway, admin) = started(Setup::for_platform(upstream.address()));
    let mut client = gateway.client().await;
    let held = Arc::new(Semaphore::new(0));
    upstream.next(OTT, Behaviour::Held(Arc::clone(&held), Box::new(Behaviour::Healthy)));
    let call = tokio::spawn(async move { client.issue_ott(issue()).await });
    upstream.wait_for(OTT, 1).await;
    admin.scrape().has(&[(r#"ott_gateway_connections{state="open"}"#, 1.0)]);
    gateway.signal("TERM");
    admin.wait_for(r#"ott_gateway_connections{state="draining"}"#, 1.0).await;
    admin.scrape().has(&[(r#"ott_gateway_connections{state="open"}"#, 0.0)]);
    held.add_permits(1);
    call.await.expect("no panic").expect("a token");
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn process_and_threads_are_reported() {
    let upstream = Upstream::http().await;
    let (_gateway, admin) = started(Setup::for_platform(upstream.address()));
    let scrape = admin.scrape();
    scrape.has(&[(&format!(r#"ott_gateway_build_info{{version="{}"}}"#, env!("CARGO_PKG_VERSION")), 1.0)]);
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    ] {
        assert!(scrape.find(name).is_some_and(|value| value >= 0.0), "{name}");
    }
    assert!(scrape.value("process_resident_memory_bytes") > 1e6);
    scrape.has(&[
        (r#"ott_gateway_thread_up{thread="worker-0"}"#, 1.0),
        (r#"ott_gateway_thread_up{thread="control"}"#, 1.0),
        (r#"ott_gateway_thread_up{thread="audit"}"#, 1.0),
        (r#"ott_gateway_thread_up{thread="log"}"#, 1.0),
    ]);
    let measured = || admin.scrape().value("ott_gateway_event_loop_lag_seconds_count") >= 1.0;
    until("the lag is measured", async || measured()).await;
}

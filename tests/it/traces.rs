//! Traces of a running gateway, received by an OTLP collector over gRPC.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use opentelemetry_proto::tonic::{
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use ott_gateway::proto::ott::v1::{IssueOttRequest, LoginWithOttRequest, issue_ott_request::Subject};
use tokio::net::TcpListener;
use tonic::{Code, Request};

use crate::support::{
    calling::{metric, until},
    collector::{collector, collector_with_tls},
    gateway::{Gateway, PATIENCE, Setup},
    port::Reserved,
    upstream::{self, Answer, LOGIN, OTT, Tls, Upstream},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const OTHER_TRACE: &str = "1bf7651916cd43dd8448eb211c80319c";

/// The bearer token of an identified caller.
const BEARER: &str = "5Bd0mXk2aWQ1rTz7uYc9pL3sVn6eHf8g";

fn traced(upstream: &Upstream, collector: SocketAddr, more: &str) -> Setup {
    let hash = digest(&SHA256, BEARER.as_bytes());
    Setup::for_platform(upstream.address())
        .replacing("callers = [\"anonymous\"]", "callers = [\"anonymous\", \"token:shop\"]")
        .replacing("[audit]", &format!("[callers.tokens]\nshop = \"sha256:{}\"\n[audit]", hex(hash.as_ref())))
        .replacing("[telemetry]", &format!("[telemetry]\notlp_endpoint = \"http://{collector}\"\n{more}"))
}

/// Stops the gateway gracefully, so that all spans are exported.
async fn stop(gateway: &mut Gateway) {
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
}

/// A request of an identified caller.
fn identified<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {BEARER}").parse().expect("a value");
    request.metadata_mut().insert("authorization", bearer);
    request
}

fn issue(trace: &str, flags: &str) -> Request<IssueOttRequest> {
    let subject = Some(Subject::Login("canary-user@example.com".to_owned()));
    let mut request = identified(IssueOttRequest { subject, ..IssueOttRequest::default() });
    let parent = format!("00-{trace}-{PARENT}-{flags}");
    request.metadata_mut().insert("traceparent", parent.parse().expect("a value"));
    request
}

fn attributes(pairs: &[KeyValue]) -> HashMap<&str, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    pairs.iter().map(|pair| (pair.key.as_str(), text(pair))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn call_is_a_child_span_of_its_caller_with_a_child_per_attempt() {
    let upstream = Upstream::http().await;
    let (address, received) = collector().await;
    let mut gateway = traced(&upstream, address, "trace_ratio = 0.0").start();
    let mut client = gateway.client().await;
    upstream.next(OTT, Answer::empty(503));
    let mut request = issue(TRACE, "01");
    request.metadata_mut().insert("x-request-id", "order-7".parse().expect("a value"));
    let ott = client.issue_ott(request).await.expect("a token").into_inner().ott;
    let mut spent = identified(LoginWithOttRequest { ott, ..LoginWithOttRequest::default() });
    spent
        .metadata_mut()
        .insert("traceparent", format!("00-{OTHER_TRACE}-{PARENT}-01").parse().expect("a value"));
    upstream.next(LOGIN, upstream::Behaviour::Reset);
    assert_eq!(client.login_with_ott(spent).await.expect_err("no answer").code(), Code::Aborted);
    // Not sampled: by the caller's decision, or without one.
    client.issue_ott(issue(TRACE, "00")).await.expect("a token");
    client
        .issue_ott(IssueOttRequest {
            subject: Some(Subject::Login("u".into())),
            ..IssueOttRequest::default()
        })
        .await
        .expect("a token");
    stop(&mut gateway).await;

    let mut servers = received.of_kind(SpanKind::Server);
    servers.sort_by_key(|span| span.start_time_unix_nano);
    let [issued, logged_in] = &servers[..] else { panic!("{servers:#?}") };
    assert_eq!(issued.name, "ott.v1.OttService/IssueOtt");
    assert_eq!((hex(&issued.trace_id), hex(&issued.parent_span_id)), (TRACE.into(), PARENT.into()));
    let expected = [
        ("rpc.system.name", "grpc"),
        ("rpc.method", "ott.v1.OttService/IssueOtt"),
        ("rpc.response.status_code", "OK"),
        ("ott_gateway.request_id", "order-7"),
        ("ott_gateway.api_client", "test"),
        ("ott_gateway.outcome", "done"),
    ];
    assert_eq!(attributes(&issued.attributes), expected.map(|(name, value)| (name, value.to_owned())).into());
    let of_login = attributes(&logged_in.attributes);
    assert_eq!(of_login["rpc.response.status_code"], "ABORTED");
    assert_eq!(of_login["ott_gateway.reason"], "LOGIN_OUTCOME_UNKNOWN");
    assert_eq!(of_login["ott_gateway.outcome"], "unknown");

    let mut attempts = received.of_kind(SpanKind::Client);
    attempts.sort_by_key(|span| span.start_time_unix_nano);
    let [first, second, third] = &attempts[..] else { panic!("{attempts:#?}") };
    let port = upstream.address().port().to_string();
    for (attempt, parent, path, method) in [
        (first, issued, OTT, "IssueOtt"),
        (second, issued, OTT, "IssueOtt"),
        (third, logged_in, LOGIN, "LoginWithOtt"),
    ] {
        assert_eq!(attempt.name, format!("POST {path}"));
        assert_eq!((&attempt.trace_id, &attempt.parent_span_id), (&parent.trace_id, &parent.span_id));
        let attributes = attributes(&attempt.attributes);
        for (name, value) in [
            ("http.request.method", "POST"),
            ("url.full", &format!("http://127.0.0.1:{port}{path}")),
            ("url.template", path),
            ("server.address", "127.0.0.1"),
            ("server.port", port.as_str()),
            ("ott_gateway.operation", method),
        ] {
            assert_eq!(attributes[name], value, "{name}");
        }
    }
    let is_error =
        |span: &Span| span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
    let of_first = attributes(&first.attributes);
    assert_eq!((of_first["http.response.status_code"].as_str(), is_error(first)), ("503", true));
    assert!(!of_first.contains_key("http.request.resend_count"));
    let of_second = attributes(&second.attributes);
    assert_eq!((of_second["http.response.status_code"].as_str(), is_error(second)), ("200", false));
    assert_eq!(of_second["http.request.resend_count"], "1");
    assert_eq!(
        (attributes(&third.attributes)["error.type"].as_str(), is_error(third)),
        ("interrupted", true)
    );

    let everything = format!("{:?}", received.spans());
    for secret in ["canary", "OTT-", "ACCESS", "SESSION-OF"] {
        assert!(!everything.contains(secret), "{secret}");
    }
    for request in upstream.requests() {
        assert_eq!(request.header("traceparent"), None, "the platform gets no trace context by default");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unidentified_callers_do_not_control_sampling() {
    let upstream = Upstream::http().await;
    let (address, received) = collector().await;
    let mut gateway = traced(&upstream, address, "trace_ratio = 0.0").start();
    let mut client = gateway.client().await;
    let mut anonymous = issue(TRACE, "01");
    anonymous.metadata_mut().remove("authorization");
    client.issue_ott(anonymous).await.expect("a token");
    let mut stranger = issue(TRACE, "01");
    stranger.metadata_mut().insert("authorization", "Bearer wrong".parse().expect("a value"));
    assert_eq!(client.issue_ott(stranger).await.expect_err("refused").code(), Code::Unauthenticated);
    client.issue_ott(issue(OTHER_TRACE, "01")).await.expect("a token");
    stop(&mut gateway).await;
    let traces: Vec<String> =
        received.of_kind(SpanKind::Server).iter().map(|span| hex(&span.trace_id)).collect();
    assert_eq!(traces, [OTHER_TRACE]);

    // Nor can it prevent sampling by a gateway that samples every call.
    let (address, received) = collector().await;
    let mut gateway = traced(&upstream, address, "trace_ratio = 1.0").start();
    let mut stranger = issue(TRACE, "00");
    stranger.metadata_mut().insert("authorization", "Bearer wrong".parse().expect("a value"));
    gateway.client().await.issue_ott(stranger).await.expect_err("refused");
    stop(&mut gateway).await;
    assert_eq!(received.of_kind(SpanKind::Server).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_context_reaches_the_platform_where_configured() {
    let upstream = Upstream::http().await;
    let (address, received) = collector().await;
    let mut gateway = traced(&upstream, address, "")
        .replacing("client_id = ", "propagate_trace = true\nclient_id = ")
        .start();
    let mut client = gateway.client().await;
    upstream.next(OTT, Answer::empty(503));
    client.issue_ott(issue(TRACE, "01")).await.expect("a token");
    client.issue_ott(issue(OTHER_TRACE, "00")).await.expect("a token");
    stop(&mut gateway).await;

    let mut attempts = received.of_kind(SpanKind::Client);
    attempts.sort_by_key(|span| span.start_time_unix_nano);
    let sent: Vec<String> = upstream
        .requests_to(OTT)
        .iter()
        .map(|request| request.header("traceparent").expect("a traceparent").to_owned())
        .collect();
    let [first, second, unsampled] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(attempts.len(), 2);
    for (header, attempt) in [first, second].into_iter().zip(&attempts) {
        assert_eq!(*header, format!("00-{TRACE}-{}-01", hex(&attempt.span_id)), "the parent is the attempt");
    }
    assert!(
        unsampled.starts_with(&format!("00-{OTHER_TRACE}-")) && unsampled.ends_with("-00"),
        "{unsampled}"
    );
    assert!(upstream.requests_to(upstream::TOKEN).iter().all(|it| it.header("traceparent").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_methods_propagate_the_trace_only_if_configured() {
    for propagate in [true, false] {
        let upstream = Upstream::http().await;
        let (address, _received) = collector().await;
        let gateway = traced(&upstream, address, "")
            .replacing("client_id = ", &format!("propagate_trace = {propagate}\nclient_id = "))
            .start();
        let mut client = gateway.client().await;
        client.issue_ott(issue(TRACE, "01")).await.expect("a token");
        let spent = LoginWithOttRequest { ott: upstream.token(), ..LoginWithOttRequest::default() };
        let mut spent = Request::new(spent);
        let parent = format!("00-{OTHER_TRACE}-{PARENT}-01");
        spent.metadata_mut().insert("traceparent", parent.parse().expect("a value"));
        client.login_with_ott(spent).await.expect("a session");
        for (path, trace) in [(OTT, TRACE), (LOGIN, OTHER_TRACE)] {
            let [request] = &upstream.requests_to(path)[..] else { panic!("one request to {path}") };
            let carried = request.header("traceparent").map(|text| text.starts_with(&format!("00-{trace}-")));
            assert_eq!(carried, propagate.then_some(true), "{path} {propagate}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unresponsive_collector_delays_neither_calls_nor_shutdown() {
    // The kernel accepts connections in its backlog; nothing responds.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let gone = Reserved::new();
    for collector in [silent.local_addr().expect("an address"), gone.address()] {
        let upstream = Upstream::http().await;
        // A call that waited for an export would exceed its deadline of 10 s.
        let setup = traced(&upstream, collector, "").environment("OTEL_EXPORTER_OTLP_TIMEOUT", "60000");
        let mut gateway = setup.start();
        let mut client = gateway.client().await;
        for _ in 0..200 {
            client.issue_ott(issue(TRACE, "01")).await.expect("a token");
        }
        stop(&mut gateway).await;
        let lost = ["trace export failed, dropped spans", "trace export timed out, dropped spans"];
        let is_reported = |line: &str| lost.iter().any(|message| line.contains(message)).then_some(());
        gateway.stderr().wait_for("lost spans", is_reported);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_success_of_a_collector_is_logged_and_counted() {
    let upstream = Upstream::http().await;
    let (address, received) = collector().await;
    received.reject_next(1, &format!("span too old\u{1b}[31m\nforged line{}", "x".repeat(100_000)));
    let gateway = traced(&upstream, address, "").environment("OTEL_BSP_SCHEDULE_DELAY", "50").start();
    let mut client = gateway.client().await;
    client.issue_ott(issue(TRACE, "01")).await.expect("a token");
    let found = |line: &str| line.contains("trace collector rejected spans").then(|| line.to_owned());
    let line = gateway.stderr().wait_for("a rejected span", found);
    assert!(line.contains("span too old") && line.contains("\"spans\":1"), "{line}");
    assert!(line.len() < 1000 && !line.contains('\u{1b}'), "{line}");
    let lost = "ott_gateway_trace_spans_lost_total{reason=\"rejected\"}";
    assert!((metric(gateway.admin(), lost).await - 1.0).abs() < 0.5);
    // The next batch is accepted.
    client.issue_ott(issue(OTHER_TRACE, "01")).await.expect("a token");
    let arrived = async {
        while !received.spans().iter().any(|span| hex(&span.trace_id) == OTHER_TRACE) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, arrived).await.expect("a span in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn collector_certificate_must_come_from_the_configured_authority() {
    let upstream = Upstream::http().await;
    let (good, other) = (Tls::new("localhost", false, &["h2"]), Tls::new("localhost", false, &["h2"]));
    let (address, received) = collector_with_tls(&good).await;
    let with = |ca_file: &std::path::Path, expected: &'static str| {
        let upstream = &upstream;
        let ca_file = ca_file.display().to_string();
        async move {
            let mut gateway = traced(upstream, address, &format!("otlp_ca_file = \"{ca_file}\""))
                .replacing(&format!("http://{address}"), &format!("https://localhost:{}", address.port()))
                .environment("OTEL_BSP_SCHEDULE_DELAY", "50")
                // Ignored for connections with a configured `ca_file`.
                .environment("SSL_CERT_FILE", "/nonexistent")
                .start();
            gateway.client().await.issue_ott(issue(TRACE, "01")).await.expect("a token");
            stop(&mut gateway).await;
            let log = gateway.stderr().text();
            assert!(log.contains(expected), "{log}");
            assert!(!log.contains("SSL_CERT_FILE"), "{log}");
        }
    };
    with(&other.ca_file, "invalid peer certificate").await;
    assert!(received.spans().is_empty());
    with(&good.ca_file, "gateway").await;
    assert_eq!(received.of_kind(SpanKind::Server).len(), 1);
}

/// An open connection to a collector is not used after its authority was withdrawn.
#[tokio::test(flavor = "multi_thread")]
async fn collector_whose_authority_was_withdrawn_gets_no_more_spans() {
    let upstream = Upstream::http().await;
    let (first, other) = (Tls::new("localhost", false, &["h2"]), Tls::new("localhost", false, &["h2"]));
    let (address, received) = collector_with_tls(&first).await;
    let setup = traced(&upstream, address, "otlp_ca_file = \"FOLDER/collector.crt\"")
        .replacing(&format!("http://{address}"), &format!("https://localhost:{}", address.port()))
        .environment("OTEL_BSP_SCHEDULE_DELAY", "50");
    let authorities = [&first, &other].map(|tls| std::fs::read_to_string(&tls.ca_file).expect("a file"));
    setup.file("collector.crt", &authorities[0]);
    let gateway = setup.start();
    let mut client = gateway.client().await;
    client.issue_ott(issue(TRACE, "01")).await.expect("a token");
    until("spans arrive", async || received.of_kind(SpanKind::Server).len() == 1).await;

    let replace = |authority: &str| {
        let folder = gateway.folder();
        std::fs::write(folder.join("collector.new"), authority).expect("a file");
        std::fs::rename(folder.join("collector.new"), folder.join("collector.crt")).expect("renamed");
    };
    let reloads = "ott_gateway_reloads_total{result=\"ok\",what=\"authorities\"}";
    let reloaded = async |times: f64| {
        until("the authorities are reloaded", async || {
            (metric(gateway.admin(), reloads).await - times).abs() < 0.5
        })
        .await;
    };
    replace(&authorities[1]);
    reloaded(1.0).await;
    client.issue_ott(issue(OTHER_TRACE, "01")).await.expect("a token");
    let retries = "ott_gateway_trace_export_retries_total";
    until("the collector is refused", async || metric(gateway.admin(), retries).await >= 1.0).await;
    assert_eq!(received.of_kind(SpanKind::Server).len(), 1, "no more spans arrive");
    replace(&authorities[0]);
    reloaded(2.0).await;
    until("the spans arrive", async || received.of_kind(SpanKind::Server).len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collector_from_the_environment_gets_configured_headers_and_resource() {
    let upstream = Upstream::http().await;
    let (address, received) = collector().await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=canary%2Dkey".to_owned()),
        ("OTEL_SERVICE_NAME", "login-prod".to_owned()),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=prod,service.instance.id=pod-7".to_owned()),
        ("OTEL_TRACES_SAMPLER", "always_on".to_owned()),
        ("OTEL_PROPAGATORS", "none".to_owned()),
    ];
    let mut setup = Setup::for_platform(upstream.address());
    for (name, value) in &variables {
        setup = setup.environment(name, value);
    }
    let mut gateway = setup.start();
    let mut request = issue(TRACE, "00");
    request.metadata_mut().remove("authorization");
    gateway.client().await.issue_ott(request).await.expect("a token");
    stop(&mut gateway).await;
    let [span] = &received.of_kind(SpanKind::Server)[..] else { panic!("{:?}", received.spans()) };
    assert_ne!(hex(&span.trace_id), TRACE, "trace context is not read");
    let mut resource = received.resource();
    resource.sort();
    let expected = [
        ("deployment.environment", "prod"),
        ("service.instance.id", "pod-7"),
        ("service.name", "login-prod"),
        ("service.version", env!("CARGO_PKG_VERSION")),
    ];
    assert_eq!(resource, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert!(received.headers().iter().all(|headers| headers["api-key"] == "canary-key"));

    // Disables tracing for all programs of a machine.
    let (address, received) = collector().await;
    let mut gateway = traced(&upstream, address, "").environment("OTEL_SDK_DISABLED", "true").start();
    gateway.client().await.issue_ott(issue(TRACE, "01")).await.expect("a token");
    stop(&mut gateway).await;
    assert!(received.spans().is_empty());
}

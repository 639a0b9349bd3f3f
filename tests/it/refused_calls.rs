//! Refused calls in audit and log: the user they asked for, and summaries of floods.

use bytes::Bytes;
use ott_gateway::proto::ott::v1::{
    IssueOttRequest, LoginWithOttRequest, issue_ott_request::Subject, ott_service_client::OttServiceClient,
};
use prost::Message;
use serde_json::{Value, json};
use tonic::Request;

use crate::support::{
    calling::{issue, metric, result_of, until, with},
    gateway::{Gateway, PATIENCE, Setup},
    raw::framed,
    upstream::Upstream,
};

const UNAUTHENTICATED: &str = "Unauthenticated CALLER_UNAUTHENTICATED";
const SUMMARIZED: &str = r#"ott_gateway_refused_calls_summarized_total{counted_by="peer"}"#;

/// A gateway with a caller that has the token `canary-limited`, and `server` settings.
fn setup(platform: &Upstream, server: &str) -> Setup {
    let token = "sha256:4ececb2d8ec1f9c6dbdf7cc0e409fa66eb0c1b49bd91b92508af8c1b89643364";
    Setup::for_platform(platform.address())
        .replacing("[audit]", &format!("[callers.tokens]\nlimited = \"{token}\"\n[audit]"))
        .replacing("drain_lame_duck", &format!("{server}\ndrain_lame_duck"))
}

/// The audit records of one event.
fn records(gateway: &Gateway, event: &str) -> Vec<Value> {
    gateway.audit_lines(event)
}

/// Number of calls in summary records.
fn summarized(gateway: &Gateway) -> u64 {
    records(gateway, "refused_calls").iter().filter_map(|record| record["count"].as_u64()).sum()
}

/// User, API client and `unvalidated` of the last record.
fn named(gateway: &Gateway) -> [Value; 3] {
    let record = records(gateway, "call").pop().expect("a record");
    ["user", "api_client", "unvalidated"].map(|name| record[name].clone())
}

fn issue_with(subject: Subject, api_client: &str) -> Request<IssueOttRequest> {
    let request = IssueOttRequest {
        subject: Some(subject),
        api_client: api_client.to_owned(),
        ..IssueOttRequest::default()
    };
    with(Request::new(request), "authorization", "Bearer wrong")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_call_is_recorded_with_its_user_and_api_client() {
    let platform = Upstream::http().await;
    let gateway = setup(&platform, "").start();
    let channel = gateway.channel().await;
    let mut client = OttServiceClient::new(channel.clone());

    let cases = [
        (Subject::Login("boss@example.com".to_owned()), "test", json!("login"), Value::Null),
        (Subject::ExternalId("x-17".to_owned()), "", json!("external_id"), Value::Null),
        (Subject::UserId("7\n8".to_owned()), "test", json!("user_id"), json!("user")),
        (Subject::Login("boss".to_owned()), "elsewhere", json!("login"), json!("api_client")),
    ];
    for (subject, api_client, kind, unvalidated) in cases {
        let (Subject::Login(value) | Subject::ExternalId(value) | Subject::UserId(value)) = subject.clone();
        assert_eq!(result_of(&client.issue_ott(issue_with(subject, api_client)).await), UNAUTHENTICATED);
        until("the record", async || named(&gateway)[0]["value"] == *value).await;
        let api_client = if api_client.is_empty() { Value::Null } else { json!(api_client) };
        assert_eq!(named(&gateway), [json!({ "kind": kind, "value": value }), api_client, unvalidated]);
    }

    // A stolen token is recorded only by its fingerprint.
    let issued = client.issue_ott(issue("x@example.com")).await.expect("a token").into_inner();
    let fingerprint = records(&gateway, "call").pop().expect("a record")["ott_fingerprint"].clone();
    let login = LoginWithOttRequest { ott: issued.ott.clone(), api_client: "test".to_owned() };
    let login = with(Request::new(login), "authorization", "Bearer wrong");
    assert_eq!(result_of(&client.login_with_ott(login).await), UNAUTHENTICATED);
    until("the record", async || records(&gateway, "call").len() == 6).await;
    assert_eq!(records(&gateway, "call")[5]["ott_fingerprint"], fingerprint);
    let text = std::fs::read_to_string(gateway.folder().join("audit.jsonl")).expect("the audit log");
    assert!(!text.contains(&issued.ott), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_call_waits_for_its_message_for_a_limited_time() {
    let platform = Upstream::http().await;
    let gateway = setup(&platform, "body_timeout = \"500ms\"").start();
    let stream = tokio::net::TcpStream::connect(gateway.address()).await.expect("the gateway accepts");
    let (mut requests, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let message = issue_with(Subject::Login("boss@example.com".to_owned()), "").into_inner().encode_to_vec();
    for sends_message in [true, false] {
        let request = http::Request::post("http://gateway/ott.v1.OttService/IssueOtt")
            .header("content-type", "application/grpc")
            .header("authorization", "Bearer wrong")
            .body(())
            .expect("a request");
        requests = requests.ready().await.expect("the connection is open");
        let (answer, mut body) = requests.send_request(request, false).expect("an open connection");
        if sends_message {
            // In separate frames, after the headers are read.
            let refused = r#"ott_gateway_security_events_total{kind="caller_unauthenticated"}"#;
            let is_refused = async || metric(gateway.admin(), refused).await > 0.0;
            until("the call is refused and waits", is_refused).await;
            body.send_data(Bytes::from(framed(false, &message)), true).expect("an open connection");
        }
        let answer = tokio::time::timeout(PATIENCE, answer).await.expect("in time").expect("an answer");
        assert_eq!(answer.headers()["grpc-status"], "16", "UNAUTHENTICATED");
    }
    until("both records", async || records(&gateway, "call").len() == 2).await;
    let users: Vec<Value> = records(&gateway, "call").iter().map(|record| record["user"].clone()).collect();
    assert_eq!(users, [json!({ "kind": "login", "value": "boss@example.com" }), Value::Null]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incomplete_message_does_not_hide_the_refusal_reason() {
    let platform = Upstream::http().await;
    let gateway = setup(&platform, "body_timeout = \"60s\"").start();
    let stream = tokio::net::TcpStream::connect(gateway.address()).await.expect("the gateway accepts");
    let (mut requests, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let refused = r#"ott_gateway_security_events_total{kind="caller_unauthenticated"}"#;
    for number in 1..=2_u32 {
        let is_malformed = number == 2;
        let mut request = http::Request::post("http://gateway/ott.v1.OttService/IssueOtt")
            .header("content-type", "application/grpc")
            .header("authorization", "Bearer wrong");
        if is_malformed {
            request = request.header("content-length", "3");
        }
        requests = requests.ready().await.expect("the connection is open");
        let request = request.body(()).expect("a request");
        let (_answer, mut body) = requests.send_request(request, false).expect("an open connection");
        let is_refused = async || metric(gateway.admin(), refused).await > f64::from(number) - 0.5;
        until("the call is refused and waits", is_refused).await;
        if is_malformed {
            body.send_data(Bytes::from(framed(false, b"more than announced")), true)
                .expect("an open connection");
        } else {
            body.send_reset(h2::Reason::CANCEL);
        }
    }
    until("both records", async || records(&gateway, "call").len() == 2).await;
    for record in records(&gateway, "call") {
        assert_eq!(
            (&record["code"], &record["reason"]),
            (&json!("UNAUTHENTICATED"), &json!("CALLER_UNAUTHENTICATED"))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_refused_calls_is_counted_exactly_and_summarized() {
    let platform = Upstream::http().await;
    let server = "refused_call_rate = \"1/h\"\nrefused_call_burst = 5";
    let mut gateway = setup(&platform, server).start();
    let channel = gateway.channel().await;
    let mut client = OttServiceClient::new(channel.clone());
    for number in 0..50 {
        let subject = Subject::Login(format!("user-{number}@example.com"));
        assert_eq!(result_of(&client.issue_ott(issue_with(subject, "test")).await), UNAUTHENTICATED);
    }
    let handled = r#"grpc_server_handled_total{grpc_code="Unauthenticated",grpc_method="IssueOtt",grpc_service="ott.v1.OttService",grpc_type="unary"}"#;
    assert!((metric(gateway.admin(), handled).await - 50.0).abs() < 0.5, "the metric counts every call");
    assert!((metric(gateway.admin(), SUMMARIZED).await - 45.0).abs() < 0.5);
    until("the calls without a record are counted", async || summarized(&gateway) == 45).await;
    assert_eq!(records(&gateway, "call").len(), 5);
    for record in records(&gateway, "refused_calls") {
        assert_eq!(record["counted_by"], "peer");
        assert_eq!(record["reasons"], json!({ "CALLER_UNAUTHENTICATED": record["count"] }));
        assert_eq!(record["peers"], json!(["127.0.0.1"]));
        assert_eq!(record["callers"], json!([]));
        assert!(record["first_time"].as_str() <= record["last_time"].as_str(), "{record}");
        for user in record["users"].as_array().expect("a list") {
            assert_eq!(user["kind"], "login");
        }
    }

    // Neither allowed calls nor identified callers from the same address are affected.
    let allowed = client.issue_ott(issue("someone@example.com")).await;
    assert_eq!(result_of(&allowed), "OK");
    let limited = with(Request::new(IssueOttRequest::default()), "authorization", "Bearer canary-limited");
    assert_ne!(result_of(&client.issue_ott(limited).await), "OK");
    until("both records", async || records(&gateway, "call").len() == 7).await;
    assert_eq!(records(&gateway, "call")[6]["caller"], "token:limited");

    // Pending counts are written before the gateway stops.
    for _ in 0..20 {
        let subject = Subject::Login("late@example.com".to_owned());
        assert_eq!(result_of(&client.issue_ott(issue_with(subject, "test")).await), UNAUTHENTICATED);
    }
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert_eq!(summarized(&gateway), 65);
    assert_eq!(records(&gateway, "call").len(), 7);
}

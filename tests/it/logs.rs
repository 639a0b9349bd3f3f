//! The log of a running gateway, and the ids of calls.

use std::time::Duration;

use ott_gateway::proto::ott::v1::{
    IssueOttRequest, LoginWithOttRequest, issue_ott_request::Subject, ott_service_client::OttServiceClient,
};
use serde_json::Value;
use tonic::{Request, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::support::{
    gateway::{Gateway, Setup},
    upstream::{Answer, Behaviour, LOGIN, OTT, TOKEN, Upstream},
};

fn issue(id: &str) -> Request<IssueOttRequest> {
    let subject = Some(Subject::Login("canary-user@example.com".to_owned()));
    let mut request = Request::new(IssueOttRequest { subject, ..IssueOttRequest::default() });
    request.metadata_mut().insert("x-request-id", id.parse().expect("a value"));
    request
}

fn login(id: &str, ott: &str) -> Request<LoginWithOttRequest> {
    let mut request =
        Request::new(LoginWithOttRequest { ott: ott.to_owned(), ..LoginWithOttRequest::default() });
    request.metadata_mut().insert("x-request-id", id.parse().expect("a value"));
    request
}

async fn fails(client: &mut OttServiceClient<Channel>, request: Request<IssueOttRequest>) -> Status {
    client.issue_ott(request).await.expect_err("a failure")
}

/// The lines of calls in the log so far.
fn call_lines(gateway: &Gateway) -> Vec<Value> {
    let text = gateway.stderr().text();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("one JSON object"));
    lines.filter(|line| line["target"] == "ott_gateway::call").collect()
}

/// Waits for the line of the call with this id, which must be the only one.
fn line_of(gateway: &Gateway, id: &str) -> Value {
    let find = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["target"] == "ott_gateway::call" && line["request.id"] == id).then_some(line)
    };
    let line = gateway.stderr().wait_for(id, find);
    let lines = call_lines(gateway).iter().filter(|line| line["request.id"] == id).count();
    assert_eq!(lines, 1, "one line per call");
    line
}

fn has(line: &Value, fields: &[(&str, Value)]) {
    for (name, value) in fields {
        assert_eq!(&line[name], value, "{name} in {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_call_logs_one_line_at_the_level_of_its_reason() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut client = gateway.client().await;

    upstream.next(OTT, Answer::json(404, r#"{"error":{"code":404,"message":"no such user"}}"#));
    fails(&mut client, issue("callers")).await;
    let line = line_of(&gateway, "callers");
    has(
        &line,
        &[
            ("level", "INFO".into()),
            ("message", "call failed".into()),
            ("caller.name", "anonymous".into()),
            ("rpc.method", "IssueOtt".into()),
            ("rpc.code", "NotFound".into()),
            ("reason", "USER_NOT_FOUND".into()),
            ("api_client.name", "test".into()),
            ("http.status", 404.into()),
            ("attempts", 1.into()),
            ("outcome", "refused".into()),
        ],
    );
    assert!(line["duration_ms"].is_u64(), "{line}");

    for _ in 0..3 {
        upstream.next(OTT, Answer::empty(503));
    }
    fails(&mut client, issue("passing")).await;
    has(
        &line_of(&gateway, "passing"),
        &[
            ("level", "WARN".into()),
            ("reason", "PLATFORM_UNAVAILABLE".into()),
            ("rpc.code", "Unavailable".into()),
            ("http.status", 503.into()),
            ("attempts", 3.into()),
            ("outcome", "unknown".into()),
        ],
    );

    upstream.next(OTT, Answer::html(403));
    fails(&mut client, issue("operators")).await;
    let blocked = [("level", "ERROR".into()), ("reason", "PLATFORM_BLOCKED".into()), ("attempts", 1.into())];
    has(&line_of(&gateway, "operators"), &blocked);

    upstream.next(LOGIN, Behaviour::Reset);
    client.login_with_ott(login("ambiguous", &upstream.token())).await.expect_err("no answer");
    has(
        &line_of(&gateway, "ambiguous"),
        &[
            ("level", "WARN".into()),
            ("rpc.method", "LoginWithOtt".into()),
            ("rpc.code", "Aborted".into()),
            ("reason", "LOGIN_OUTCOME_UNKNOWN".into()),
            ("http.status", Value::Null),
        ],
    );

    let requests = upstream.count(OTT);
    upstream.next(OTT, Behaviour::Stall);
    tokio::select! {
        _ = client.issue_ott(issue("gave-up")) => panic!("it stalls"),
        () = upstream.wait_for(OTT, requests + 1) => {}
    }
    let gave_up = [("level", "INFO".into()), ("rpc.code", "Cancelled".into()), ("outcome", "unknown".into())];
    has(&line_of(&gateway, "gave-up"), &gave_up);

    let mut hurried = issue("late");
    hurried.set_timeout(Duration::from_secs(2));
    upstream.next(OTT, Behaviour::Stall);
    fails(&mut client, hurried).await;
    let late = line_of(&gateway, "late");
    has(&late, &[("level", "WARN".into()), ("reason", "DEADLINE_EXCEEDED".into())]);
    let took = late["duration_ms"].as_u64().expect("a number");
    assert!((1900..60_000).contains(&took), "{late}");

    // Repeated failures are not suppressed, because each is a different call.
    for number in 0..30 {
        upstream.next(OTT, Answer::html(403));
        fails(&mut client, issue(&format!("again-{number}"))).await;
    }
    line_of(&gateway, "again-29");
    let again = call_lines(&gateway).iter().filter(|line| line["reason"] == "PLATFORM_BLOCKED").count();
    assert_eq!(again, 31);

    client.issue_ott(issue("good")).await.expect("a token");
    fails(&mut client, Request::new(IssueOttRequest::default())).await;
    assert!(
        call_lines(&gateway).iter().all(|line| line["request.id"] != "good"),
        "no line for a successful call"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn request_id_is_the_same_everywhere() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut client = gateway.client().await;
    let good = client.issue_ott(issue("order-7.a_B")).await.expect("a token");
    assert_eq!(good.metadata().get("x-request-id").expect("a request id"), "order-7.a_B");

    let too_long = "a".repeat(65);
    for (given, taken) in [("order-8", true), ("not well formed", false), (too_long.as_str(), false)] {
        upstream.next(OTT, Answer::html(403));
        let failed = fails(&mut client, issue(given)).await;
        let id =
            failed.metadata().get("x-request-id").expect("a request id").to_str().expect("text").to_owned();
        assert_eq!(id == given, taken, "{given}");
        assert_eq!(failed.get_details_request_info().expect("a request id").request_id, id);
        line_of(&gateway, &id);
        let sent = upstream.requests_to(OTT).pop().expect("a request");
        assert_eq!(sent.header("x-request-id"), Some(id.as_str()));
        let records = gateway.audit();
        let record = records.last().expect("a record");
        assert!(record.to_string().contains(&format!("\"{id}\"")), "{record}");
    }
    // The id is also used when no handler runs.
    let mut malformed = issue("order-9");
    malformed.metadata_mut().insert("grpc-timeout", "soon".parse().expect("a value"));
    let failed = fails(&mut client, malformed).await;
    assert_eq!(failed.metadata().get("x-request-id").expect("a request id"), "order-9");
    assert_eq!(failed.get_details_request_info().expect("a request id").request_id, "order-9");
    has(&line_of(&gateway, "order-9"), &[("level", "INFO".into()), ("reason", "INVALID_REQUEST".into())]);
    let mut twice = issue("order-10");
    twice.metadata_mut().append("x-request-id", "order-11".parse().expect("a value"));
    let good = client.issue_ott(twice).await.expect("a token");
    assert_eq!(
        good.metadata().get("x-request-id").expect("a request id").len(),
        36,
        "a generated id instead of either"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_level_logs_every_call_and_no_secret() {
    let upstream = Upstream::http().await;
    let setup = Setup::for_platform(upstream.address()).environment("RUST_LOG", "trace");
    let mut gateway = setup.start();
    let mut client = gateway.client().await;
    let ott = client.issue_ott(issue("good")).await.expect("a token").into_inner().ott;
    client.login_with_ott(login("spent", &ott)).await.expect("a session");
    client.login_with_ott(login("replay", &ott)).await.expect_err("it is spent");
    upstream.next(OTT, Answer::json(400, r#"{"error":{"code":400,"message":"canary-user@example.com"}}"#));
    fails(&mut client, issue("echo")).await;
    upstream.next(OTT, Answer::json(200, r#"{"ott":"OTT-canary"#));
    upstream.next(OTT, Answer::json(200, r#"{"ott":"OTT-canary"#));
    fails(&mut client, issue("malformed")).await;
    for (id, level, message) in [("good", "DEBUG", "call succeeded"), ("replay", "INFO", "call failed")] {
        has(&line_of(&gateway, id), &[("level", level.into()), ("message", message.into())]);
    }
    assert!(upstream.count(TOKEN) > 0);
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    let printed = format!("{}{}", gateway.stderr().text(), gateway.stdout().text());
    for secret in ["canary", "OTT-", "ACCESS", "SESSION-OF", "dGVzdC1jbGllbnQ6"] {
        let found = printed.lines().find(|line| line.contains(secret));
        assert_eq!(found, None, "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn login_without_a_usable_cookie_causes_a_warning() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut client = gateway.client().await;
    client.login_with_ott(login("with-cookie", &upstream.token())).await.expect("a session");
    let account = Answer::json(200, r#"{"id":"42","login":"john"}"#);
    upstream.next(LOGIN, account);
    client.login_with_ott(login("without-cookie", "OTT")).await.expect("an account");
    let warning = gateway.stderr().wait_for("the warning", |line| {
        line.contains("has no usable cookie").then(|| serde_json::from_str::<Value>(line).expect("JSON"))
    });
    let expected = [("level", "WARN"), ("request.id", "without-cookie"), ("api_client.name", "test")];
    has(&warning, &expected.map(|(name, value)| (name, Value::from(value))));
    assert_eq!(gateway.stderr().text().matches("has no usable cookie").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_drain_names_each_listener() {
    let upstream = Upstream::http().await;
    let setup = Setup::for_platform(upstream.address());
    let mut gateway = setup.replacing("[admin]", "health_listen = \"127.0.0.1:0\"\n[admin]").start();
    let mut listeners = [gateway.address(), gateway.health_address()].map(|address| address.to_string());
    listeners.sort();
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    for message in ["drain started", "sending GOAWAY", "drain finished"] {
        let text = gateway.stderr().text();
        let lines = text.lines().filter(|line| line.contains(message));
        let mut named: Vec<String> = lines
            .map(|line| {
                let line: Value = serde_json::from_str(line).expect("JSON");
                line["listener.address"].as_str().expect("an address").to_owned()
            })
            .collect();
        named.sort();
        assert_eq!(named, listeners, "{message}");
    }
}

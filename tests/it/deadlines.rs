//! Deadlines and callers that disconnect.

use std::{sync::Arc, time::Duration};

use ott_gateway::base::clock;
use prost::Message;
use serde_json::Value;
use tokio::sync::Semaphore;
use tonic::Code;

use crate::support::{
    admin::Admin,
    call::{self, Client, Refused, refused},
    calling::until,
    gateway::{Gateway, Setup},
    raw,
    upstream::{Answer, Behaviour, LOGIN, LOGOUT, OTT, TOKEN, Upstream},
};

const ISSUE: &str = "/ott.v1.OttService/IssueOtt";
const SPEND: &str = "/ott.v1.OttService/LoginWithOtt";

async fn start() -> (Upstream, Gateway, Client) {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    upstream.wait_for(TOKEN, 1).await;
    let client = gateway.client().await;
    (upstream, gateway, client)
}

/// Makes a call whose deadline the client does not enforce, so that the response is the gateway's.
async fn within(timeout: &str, gateway: &Gateway, path: &str, message: impl Message) -> Refused {
    let body = raw::framed(false, &message.encode_to_vec());
    let mut connection = raw::Connection::to(gateway.address()).await;
    refused(&connection.post(path, &[("grpc-timeout", timeout)], &body).await.status)
}

fn held(permits: &Arc<Semaphore>) -> Behaviour {
    Behaviour::Held(Arc::clone(permits), Box::new(Behaviour::Healthy))
}

/// Waits until there are `count` records, and returns the last one.
async fn record(gateway: &Gateway, count: usize) -> Value {
    until("the records", async || gateway.audit().len() >= count).await;
    let records = gateway.audit();
    assert_eq!(records.len(), count, "{records:?}");
    records.last().cloned().expect("at least one")
}

#[tokio::test]
async fn passed_deadline_is_reported_with_the_outcome() {
    let (upstream, gateway, mut client) = start().await;
    let permits = Arc::new(Semaphore::new(0));

    upstream.next(OTT, held(&permits));
    let began = clock::now();
    let issue = within("3S", &gateway, ISSUE, call::issue("someone")).await;
    assert!(began.elapsed() >= Duration::from_millis(2900), "{:?}", began.elapsed());
    assert_eq!((issue.code, issue.reason.as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    assert_eq!((issue.metadata["outcome"].as_str(), issue.metadata["attempts"].as_str()), ("unknown", "1"));
    assert_eq!((issue.pushback, issue.ratelimited), (None, None), "another token may be issued");
    permits.add_permits(1);
    let recorded = record(&gateway, 1).await;
    assert_eq!(recorded["reason"], "DEADLINE_EXCEEDED");
    assert_eq!(recorded["code"], "DEADLINE_EXCEEDED");

    upstream.next(LOGIN, held(&permits));
    let ott = upstream.token();
    let login = within("3S", &gateway, SPEND, call::login(&ott)).await;
    assert_eq!((login.code, login.reason.as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    assert_eq!(login.metadata["outcome"], "unknown");
    let trailers = (login.pushback.as_deref(), login.ratelimited.as_deref());
    assert_eq!(trailers, (Some("-1"), Some("true")), "the token may be spent");

    // The login still completes, and its undelivered session is logged out.
    permits.add_permits(1);
    upstream.wait_for(LOGOUT, 1).await;
    assert_eq!(
        upstream.requests_to(LOGOUT)[0].header("cookie"),
        Some(format!("sid=SESSION-OF-{ott}").as_str())
    );
    let recorded = record(&gateway, 2).await;
    assert_eq!((&recorded["outcome"], &recorded["platform_status"]), (&"done".into(), &200.into()));
    call::issue_and_log_in(&mut client).await;
    assert_eq!(upstream.count(LOGOUT), 1);
}

#[tokio::test]
async fn missing_or_longer_deadlines_are_limited_to_the_configured_one() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address())
        .replacing("[server]", "[server]\nmax_deadline = \"4s\"")
        .start();
    upstream.wait_for(TOKEN, 1).await;
    let client = gateway.client().await;
    upstream.next(LOGIN, Behaviour::Stall).next(LOGIN, Behaviour::Stall);
    let mut first = client.clone();
    let began = clock::now();
    let (first, second) =
        tokio::join!(first.login_with_ott(call::login("A")), within("1H", &gateway, SPEND, call::login("B")));
    assert!(began.elapsed() >= Duration::from_millis(3900), "{:?}", began.elapsed());
    for refused in [refused(&first.expect_err("it stalls")), second] {
        assert_eq!((refused.code, refused.reason.as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    }
    call::issue_and_log_in(&mut client.clone()).await;
}

#[tokio::test]
async fn malformed_timeout_is_refused_without_a_platform_request() {
    let (upstream, gateway, mut client) = start().await;
    let mut connection = raw::Connection::to(gateway.address()).await;
    let body = raw::framed(false, &call::issue("someone").encode_to_vec());
    for timeout in ["", "S", "10", "10s", "-1S", "1.5S", "123456789m", "1 S", "soon", "1S,2S"] {
        let answered = connection.post(ISSUE, &[("grpc-timeout", timeout)], &body).await;
        let refused = refused(&answered.status);
        assert_eq!(
            (refused.code, refused.reason.as_str()),
            (Code::InvalidArgument, "INVALID_REQUEST"),
            "{timeout:?}"
        );
        assert_eq!(refused.fields, ["grpc-timeout"], "{timeout:?}");
    }
    let twice = [("grpc-timeout", "1S"), ("grpc-timeout", "2S")];
    assert_eq!(refused(&connection.post(ISSUE, &twice, &body).await.status).fields, ["grpc-timeout"]);
    assert_eq!(upstream.count(OTT), 0);
    for timeout in ["1H", "5M", "8S", "8000m", "8000000u", "99999999n"] {
        let answered = connection.post(ISSUE, &[("grpc-timeout", timeout)], &body).await;
        // 99999999n is a tenth of a second, too short for a busy machine.
        let allowed = [Code::Ok, if timeout == "99999999n" { Code::DeadlineExceeded } else { Code::Ok }];
        assert!(allowed.contains(&answered.status.code()), "{timeout}: {:?}", answered.status);
    }
    call::issue_and_log_in(&mut client).await;
}

#[tokio::test]
async fn nothing_is_sent_with_too_little_time_left() {
    let (upstream, gateway, mut client) = start().await;
    let before = upstream.requests().len();
    let mut calls = 0;
    // Of 35 ms, 20 are reserved for the response, and an attempt needs 20 more.
    for timeout in ["0S", "1n", "1m", "20m", "35m"] {
        let issue = within(timeout, &gateway, ISSUE, call::issue("someone")).await;
        let login = within(timeout, &gateway, SPEND, call::login("OTT")).await;
        for refused in [issue, login] {
            calls += 1;
            assert_eq!(
                (refused.code, refused.reason.as_str()),
                (Code::DeadlineExceeded, "DEADLINE_EXCEEDED")
            );
            assert_eq!(refused.metadata["outcome"], "not_sent", "{timeout}");
            assert_eq!(refused.metadata["attempts"], "0", "{timeout}");
            assert_eq!((refused.pushback, refused.ratelimited), (None, None), "nothing is spent");
        }
    }
    assert_eq!(upstream.requests().len(), before);
    record(&gateway, calls).await;
    call::issue_and_log_in(&mut client).await;
}

#[tokio::test]
async fn deadline_includes_the_wait_for_an_access_token() {
    let upstream = Upstream::http().await;
    let permits = Arc::new(Semaphore::new(0));
    upstream.next(TOKEN, held(&permits));
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut client = gateway.client().await;
    let refused = within("200m", &gateway, ISSUE, call::issue("someone")).await;
    assert_eq!((refused.code, refused.reason.as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    assert_eq!(refused.metadata["outcome"], "not_sent");
    assert_eq!(upstream.count(OTT), 0);
    permits.add_permits(1);
    call::issue_and_log_in(&mut client).await;
    assert_eq!((upstream.count(TOKEN), upstream.count(OTT)), (1, 1), "the token request was not cancelled");
}

#[tokio::test]
async fn cancelled_login_leaves_a_record_and_no_session() {
    let (upstream, gateway, client) = start().await;
    let permits = Arc::new(Semaphore::new(0));
    upstream.next(LOGIN, held(&permits));
    let ott = upstream.token();
    let (mut leaving, message) = (client.clone(), call::login(&ott));
    let call = tokio::spawn(async move { leaving.login_with_ott(message).await });
    upstream.wait_for(LOGIN, 1).await;
    call.abort();
    let _ = call.await;
    // When another call on this connection succeeds, the gateway has seen the reset.
    client.clone().issue_ott(call::issue("someone")).await.expect("an open connection");
    permits.add_permits(1);

    upstream.wait_for(LOGOUT, 1).await;
    let logout = &upstream.requests_to(LOGOUT)[0];
    assert_eq!(logout.header("cookie"), Some(format!("sid=SESSION-OF-{ott}").as_str()));
    assert_eq!(logout.header("authorization"), None);
    let recorded = record(&gateway, 2).await;
    assert_eq!(recorded["method"], "LoginWithOtt");
    assert_eq!((&recorded["code"], &recorded["outcome"]), (&"CANCELLED".into(), &"done".into()));
    assert_eq!(recorded["platform_status"], 200);

    call::issue_and_log_in(&mut client.clone()).await;
    assert_eq!((upstream.count(LOGIN), upstream.count(LOGOUT)), (2, 1));
}

#[tokio::test]
async fn cancelled_call_stops_retries_and_leaves_one_record() {
    let (upstream, gateway, client) = start().await;
    let permits = Arc::new(Semaphore::new(0));
    let failing = Behaviour::Held(Arc::clone(&permits), Box::new(Answer::empty(503).into()));
    upstream.next(OTT, failing);
    let mut leaving = client.clone();
    let call = tokio::spawn(async move { leaving.issue_ott(call::issue("someone")).await });
    upstream.wait_for(OTT, 1).await;
    call.abort();
    let _ = call.await;
    client.clone().login_with_ott(call::login("OTT")).await.expect_err("an invalid token");
    permits.add_permits(1);
    let records = record(&gateway, 2).await;
    assert_eq!((&records["method"], &records["code"]), (&"IssueOtt".into(), &"CANCELLED".into()));
    assert_eq!((&records["outcome"], &records["attempts"]), (&"unknown".into(), &1.into()));
    call::issue_and_log_in(&mut client.clone()).await;
    assert_eq!(upstream.count(OTT), 2, "no second attempt");
}

#[tokio::test]
async fn lost_connections_leave_nothing_behind() {
    let (upstream, gateway, client) = start().await;
    let permits = Arc::new(Semaphore::new(0));
    for _ in 0..10 {
        upstream.next(LOGIN, held(&permits));
    }
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let mut leaving = gateway.client().await;
        let message = call::login(&upstream.token());
        calls.spawn(async move { leaving.login_with_ott(message).await.map(drop) });
    }
    upstream.wait_for(LOGIN, 10).await;
    // Dropping the clients closes their connections.
    calls.shutdown().await;
    let cancelled = r#"grpc_server_handled_total{grpc_code="Canceled",grpc_method="LoginWithOtt"}"#;
    Admin(gateway.admin()).wait_for(cancelled, 10.0).await;
    permits.add_permits(10);
    upstream.wait_for(LOGOUT, 10).await;
    record(&gateway, 10).await;
    let mut ended: Vec<_> = upstream
        .requests_to(LOGOUT)
        .iter()
        .map(|request| request.header("cookie").map(str::to_owned))
        .collect();
    ended.sort_unstable();
    ended.dedup();
    assert_eq!(ended.len(), 10, "each session is logged out once");
    client.clone().issue_ott(call::issue("someone")).await.expect("a working gateway");
}

//! Time that runs out, and callers that go away.

use std::{sync::Arc, time::Duration};

use ott_gateway::clock;
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
    upstream.asked(TOKEN, 1).await;
    let client = gateway.client().await;
    (upstream, gateway, client)
}

/// A call with a deadline that its sender does not keep itself: what comes back is the
/// gateway's own answer.
async fn within(timeout: &str, gateway: &Gateway, path: &str, message: impl Message) -> Refused {
    let body = raw::framed(false, &message.encode_to_vec());
    let mut connection = raw::Connection::to(gateway.address()).await;
    refused(&connection.post(path, &[("grpc-timeout", timeout)], &body).await.status)
}

fn held(permits: &Arc<Semaphore>) -> Behaviour {
    Behaviour::Held(Arc::clone(permits), Box::new(Behaviour::Healthy))
}

/// Waits until there are this many records, and returns the last one.
async fn record(gateway: &Gateway, count: usize) -> Value {
    until("the records", async || gateway.audit().len() >= count).await;
    let records = gateway.audit();
    assert_eq!(records.len(), count, "{records:?}");
    records.last().cloned().expect("at least one")
}

#[tokio::test]
async fn a_deadline_is_answered_by_its_name_and_with_the_outcome() {
    let (upstream, gateway, mut client) = start().await;
    let permits = Arc::new(Semaphore::new(0));

    upstream.next(OTT, held(&permits));
    let asked = clock::now();
    let issue = within("3S", &gateway, ISSUE, call::issue("someone")).await;
    assert!(asked.elapsed() >= Duration::from_millis(2900), "{:?}", asked.elapsed());
    assert_eq!((issue.code, issue.reason.as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    assert_eq!((issue.metadata["outcome"].as_str(), issue.metadata["attempts"].as_str()), ("unknown", "1"));
    assert_eq!((issue.pushback, issue.ratelimited), (None, None), "another token may be minted");
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

    // The login comes to its end nevertheless; nobody gets its session, so it is ended.
    permits.add_permits(1);
    upstream.asked(LOGOUT, 1).await;
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
async fn without_a_deadline_the_configured_one_holds_and_a_longer_one_is_cut() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address())
        .replacing("[server]", "[server]\nmax_deadline = \"4s\"")
        .start();
    upstream.asked(TOKEN, 1).await;
    let client = gateway.client().await;
    upstream.next(LOGIN, Behaviour::Stall).next(LOGIN, Behaviour::Stall);
    let mut first = client.clone();
    let asked = clock::now();
    let (first, second) =
        tokio::join!(first.login_with_ott(call::login("A")), within("1H", &gateway, SPEND, call::login("B")));
    assert!(asked.elapsed() >= Duration::from_millis(3900), "{:?}", asked.elapsed());
    for refused in [refused(&first.expect_err("it stalls")), second] {
        assert_eq!((refused.code, refused.reason.as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    }
    call::issue_and_log_in(&mut client.clone()).await;
}

#[tokio::test]
async fn a_malformed_timeout_is_refused_and_sends_nothing() {
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
        // 99999999n is a tenth of a second, which a busy machine may not keep.
        let allowed = [Code::Ok, if timeout == "99999999n" { Code::DeadlineExceeded } else { Code::Ok }];
        assert!(allowed.contains(&answered.status.code()), "{timeout}: {:?}", answered.status);
    }
    call::issue_and_log_in(&mut client).await;
}

#[tokio::test]
async fn with_too_little_time_left_nothing_is_sent() {
    let (upstream, gateway, mut client) = start().await;
    let before = upstream.requests().len();
    let mut calls = 0;
    // Of 35 ms the margin for the way back takes 20, and an attempt needs 20 more.
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
async fn a_deadline_counts_the_wait_for_an_access_token() {
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
    assert_eq!((upstream.count(TOKEN), upstream.count(OTT)), (1, 1), "it did not take the request along");
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_a_record_and_no_session() {
    let (upstream, gateway, client) = start().await;
    let permits = Arc::new(Semaphore::new(0));
    upstream.next(LOGIN, held(&permits));
    let ott = upstream.token();
    let (mut leaving, message) = (client.clone(), call::login(&ott));
    let call = tokio::spawn(async move { leaving.login_with_ott(message).await });
    upstream.asked(LOGIN, 1).await;
    call.abort();
    let _ = call.await;
    // Another call on the same connection: by its answer the gateway has seen the reset.
    client.clone().issue_ott(call::issue("someone")).await.expect("the connection is well");
    permits.add_permits(1);

    upstream.asked(LOGOUT, 1).await;
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
async fn a_caller_that_goes_away_ends_the_retries_and_leaves_one_record() {
    let (upstream, gateway, client) = start().await;
    let permits = Arc::new(Semaphore::new(0));
    let failing = Behaviour::Held(Arc::clone(&permits), Box::new(Answer::empty(503).into()));
    upstream.next(OTT, failing);
    let mut leaving = client.clone();
    let call = tokio::spawn(async move { leaving.issue_ott(call::issue("someone")).await });
    upstream.asked(OTT, 1).await;
    call.abort();
    let _ = call.await;
    client.clone().login_with_ott(call::login("OTT")).await.expect_err("it is no token");
    permits.add_permits(1);
    let records = record(&gateway, 2).await;
    assert_eq!((&records["method"], &records["code"]), (&"IssueOtt".into(), &"CANCELLED".into()));
    assert_eq!((&records["outcome"], &records["attempts"]), (&"unknown".into(), &1.into()));
    call::issue_and_log_in(&mut client.clone()).await;
    assert_eq!(upstream.count(OTT), 2, "nobody waited for a second attempt");
}

#[tokio::test]
async fn connections_that_break_off_leave_nothing_behind() {
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
    upstream.asked(LOGIN, 10).await;
    // The connections go with their clients.
    calls.shutdown().await;
    let cancelled = r#"grpc_server_handled_total{grpc_code="Canceled",grpc_method="LoginWithOtt"}"#;
    Admin(gateway.admin()).comes_to(cancelled, 10.0).await;
    permits.add_permits(10);
    upstream.asked(LOGOUT, 10).await;
    record(&gateway, 10).await;
    let mut ended: Vec<_> = upstream
        .requests_to(LOGOUT)
        .iter()
        .map(|request| request.header("cookie").map(str::to_owned))
        .collect();
    ended.sort_unstable();
    ended.dedup();
    assert_eq!(ended.len(), 10, "each session once");
    client.clone().issue_ott(call::issue("someone")).await.expect("all is well");
}

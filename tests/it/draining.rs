//! Shutdown: no result is lost, and peers cannot delay it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ott_gateway::base::clock;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{
    call::{self, Client, refused},
    gateway::{Gateway, PATIENCE, Setup},
    upstream::{Answer, Behaviour, LOGIN, LOGOUT, OTT, TOKEN, Upstream},
};

async fn start(server: &str) -> (Upstream, Gateway, Client) {
    let upstream = Upstream::http().await;
    let gateway =
        Setup::for_platform(upstream.address()).replacing("drain_lame_duck = \"100ms\"", server).start();
    upstream.wait_for(TOKEN, 1).await;
    let client = gateway.client().await;
    (upstream, gateway, client)
}

fn held(permits: &Arc<Semaphore>) -> Behaviour {
    Behaviour::Held(Arc::clone(permits), Box::new(Behaviour::Healthy))
}

/// Waits until health reports this status.
async fn until_health(gateway: &Gateway, status: ServingStatus) {
    let mut client = HealthClient::new(gateway.channel().await);
    let began = clock::now();
    loop {
        let request = HealthCheckRequest { service: "ott.v1.OttService".to_owned() };
        if client.check(request).await.expect("an answer").into_inner().status() == status {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "health does not report {status:?}");
    }
}

/// Waits until the log contains `words`.
fn logged(gateway: &Gateway, words: &str) {
    gateway.stderr().wait_for(words, |line| line.contains(words).then_some(()));
}

#[tokio::test]
async fn process_stops_after_its_calls_have_completed() {
    let (upstream, mut gateway, client) = start("drain_lame_duck = \"100ms\"").await;
    let permits = Arc::new(Semaphore::new(0));
    upstream.next(OTT, held(&permits)).next(LOGIN, held(&permits));
    let (mut issuing, mut spending) = (client.clone(), gateway.client().await);
    let login = call::login(&upstream.token());
    let issued = tokio::spawn(async move { issuing.issue_ott(call::issue("someone")).await });
    let spent = tokio::spawn(async move { spending.login_with_ott(login).await });
    upstream.wait_for(OTT, 1).await;
    upstream.wait_for(LOGIN, 1).await;

    gateway.signal("TERM");
    logged(&gateway, "sending GOAWAY to all connections");
    permits.add_permits(2);
    issued.await.expect("no panic").expect("a token");
    let session = spent.await.expect("no panic").expect("a session").into_inner().session;
    assert!(!session.expect("a session").cookie_header.is_empty());
    let status = gateway.ended().await;
    assert_eq!(status.code(), Some(0));
    let records = gateway.audit();
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record["code"] == "OK"), "{records:?}");
}

#[tokio::test]
async fn lame_duck_reports_not_serving_and_still_serves_calls() {
    let (_upstream, mut gateway, mut client) = start("drain_lame_duck = \"15s\"").await;
    until_health(&gateway, ServingStatus::Serving).await;
    gateway.signal("TERM");
    logged(&gateway, "drain started");
    until_health(&gateway, ServingStatus::NotServing).await;
    assert!(gateway.admin_get("/readyz").await.starts_with("HTTP/1.1 503"));
    assert!(gateway.admin_get("/livez").await.starts_with("HTTP/1.1 200"));
    call::issue_and_log_in(&mut client).await;
    call::issue_and_log_in(&mut gateway.client().await).await;
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn log_lines_of_a_drain_contain_the_address_of_their_listener() {
    let (_upstream, mut gateway, _client) =
        start("drain_lame_duck = \"0s\"\nhealth_listen = \"127.0.0.1:0\"").await;
    let listeners = [gateway.address(), gateway.health_address()].map(|address| address.to_string());
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    let log = gateway.stderr().text();
    for event in
        ["drain started, health is NOT_SERVING", "sending GOAWAY to all connections", "drain finished"]
    {
        let mut found: Vec<String> = log
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|line| line["message"] == event)
            .map(|line| line["listener.address"].as_str().unwrap_or("none").to_owned())
            .collect();
        let mut expected = listeners.to_vec();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{event}");
    }
}

#[tokio::test]
async fn calls_cut_off_by_the_drain_report_their_outcome() {
    let (upstream, mut gateway, client) = start("drain_lame_duck = \"0s\"\ndrain_timeout = \"1s\"").await;
    upstream.next(OTT, Behaviour::Stall).next(LOGIN, Behaviour::Stall);
    let (mut issuing, mut spending) = (client.clone(), client.clone());
    let issued = tokio::spawn(async move { issuing.issue_ott(call::issue("someone")).await });
    let spent = tokio::spawn(async move { spending.login_with_ott(call::login("OTT")).await });
    upstream.wait_for(OTT, 1).await;
    upstream.wait_for(LOGIN, 1).await;
    gateway.signal("TERM");
    let issue = refused(&issued.await.expect("no panic").expect_err("it stalls"));
    assert_eq!((issue.code, issue.reason.as_str()), (Code::Unavailable, "DRAINING"));
    assert_eq!((issue.pushback, issue.ratelimited), (None, None));
    assert!(issue.retry_delay.is_some());
    let login = refused(&spent.await.expect("no panic").expect_err("it stalls"));
    assert_eq!((login.code, login.reason.as_str()), (Code::Aborted, "LOGIN_OUTCOME_UNKNOWN"));
    assert_eq!((login.pushback.as_deref(), login.ratelimited.as_deref()), (Some("-1"), Some("true")));
    assert_eq!(login.metadata["outcome"], "unknown");
    assert_eq!(gateway.ended().await.code(), Some(0));
    let reasons: Vec<_> = gateway.audit().iter().map(|record| record["reason"].clone()).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons.contains(&"DRAINING".into()) && reasons.contains(&"LOGIN_OUTCOME_UNKNOWN".into()));
}

#[tokio::test]
async fn session_undelivered_because_of_the_drain_is_logged_out() {
    let (upstream, mut gateway, mut client) = start("drain_lame_duck = \"0s\"\ndrain_timeout = \"1s\"").await;
    let permits = Arc::new(Semaphore::new(0));
    upstream.next(LOGIN, held(&permits)).next(LOGOUT, held(&permits));
    let ott = upstream.token();
    let login = call::login(&ott);
    let spent = tokio::spawn(async move { client.login_with_ott(login).await });
    upstream.wait_for(LOGIN, 1).await;
    gateway.signal("TERM");
    let status = spent.await.expect("no panic").expect_err("it is held");
    assert_eq!(refused(&status).reason, "LOGIN_OUTCOME_UNKNOWN");
    permits.add_permits(1);
    upstream.wait_for(LOGOUT, 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(gateway.is_running(), "the platform has not responded yet");
    permits.add_permits(1);
    assert_eq!(gateway.ended().await.code(), Some(0));
    let ended = upstream.requests_to(LOGOUT);
    assert_eq!(ended.len(), 1, "the session is logged out before the process stops");
    assert_eq!(ended[0].header("cookie"), Some(format!("sid=SESSION-OF-{ott}").as_str()));
    let records = gateway.audit();
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(
        (&records[0]["reason"], &records[0]["outcome"]),
        (&"LOGIN_OUTCOME_UNKNOWN".into(), &"done".into())
    );
}

#[tokio::test]
async fn session_with_an_unreadable_account_is_logged_out_before_the_process_stops() {
    let (upstream, mut gateway, mut client) = start("drain_lame_duck = \"0s\"").await;
    let permits = Arc::new(Semaphore::new(0));
    let unreadable = Answer::html(200).header("set-cookie", "sid=CANARY; Path=/");
    upstream.next(LOGIN, unreadable).next(LOGOUT, held(&permits));
    let status = client.login_with_ott(call::login("OTT")).await.expect_err("an unreadable response");
    assert_eq!(refused(&status).reason, "PLATFORM_PROTOCOL_ERROR");
    upstream.wait_for(LOGOUT, 1).await;
    drop(client);
    gateway.signal("TERM");
    logged(&gateway, "sending GOAWAY to all connections");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(gateway.is_running(), "the platform has not responded yet");
    permits.add_permits(1);
    assert_eq!(gateway.ended().await.code(), Some(0));
    logged(&gateway, "undelivered session ended");
    assert_eq!(upstream.requests_to(LOGOUT)[0].header("cookie"), Some("sid=CANARY"));
}

#[tokio::test]
async fn unresponsive_peers_do_not_delay_the_shutdown() {
    // Longer than this test waits for the process.
    let drain = "drain_lame_duck = \"0s\"\ndrain_timeout = \"10min\"";
    let (_upstream, mut gateway, mut client) = start(drain).await;
    call::issue_and_log_in(&mut client).await;
    let silent = TcpStream::connect(gateway.address()).await.expect("it accepts");
    let mut half = TcpStream::connect(gateway.address()).await.expect("it accepts");
    half.write_all(b"PRI * HTTP/2.0\r\n").await.expect("it reads");
    // Sends the preface and SETTINGS, then nothing, not even an acknowledgement.
    let unresponsive = silent_h2(gateway.address()).await;
    let mut watch = HealthClient::new(gateway.channel().await)
        .watch(HealthCheckRequest { service: String::new() })
        .await
        .expect("a stream")
        .into_inner();
    let first = watch.message().await.expect("a message").expect("one");
    assert_eq!(first.status(), ServingStatus::Serving);

    gateway.signal("TERM");
    let second = watch.message().await.expect("a message").expect("another");
    assert_eq!(second.status(), ServingStatus::NotServing);
    let status = gateway.ended().await;
    assert_eq!(status.code(), Some(0), "{}", gateway.stderr().text());
    drop((silent, half, unresponsive, watch));
}

async fn silent_h2(gateway: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(gateway).await.expect("it accepts");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("it reads");
    let mut settings = [0; 9];
    stream.read_exact(&mut settings).await.expect("it speaks HTTP/2");
    stream
}

#[tokio::test]
async fn second_signal_stops_the_process_at_once() {
    let (upstream, mut gateway, client) = start("drain_lame_duck = \"60s\"\ndrain_timeout = \"10min\"").await;
    upstream.next(OTT, Behaviour::Stall);
    let mut issuing = client.clone();
    let issued = tokio::spawn(async move { issuing.issue_ott(call::issue("someone")).await });
    upstream.wait_for(OTT, 1).await;
    gateway.signal("TERM");
    logged(&gateway, "drain started");
    gateway.signal("TERM");
    // After a completed drain, the status would be 0.
    assert_eq!(gateway.ended().await.code(), Some(1));
    issued.await.expect("no panic").expect_err("the process has stopped");
}

#[tokio::test]
async fn sigint_drains_like_sigterm() {
    let (_upstream, mut gateway, mut client) = start("drain_lame_duck = \"0s\"").await;
    call::issue_and_log_in(&mut client).await;
    gateway.signal("INT");
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn no_call_is_lost_during_a_drain() {
    let (upstream, mut gateway, _client) = start("drain_lame_duck = \"300ms\"").await;
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        let mut client = gateway.client().await;
        callers.spawn(async move {
            let mut done = 0;
            loop {
                let issued = match client.issue_ott(call::issue("someone")).await {
                    Ok(issued) => issued.into_inner(),
                    Err(status) => return (done, status),
                };
                match client.login_with_ott(call::login(&issued.ott)).await {
                    Ok(_) => done += 1,
                    Err(status) => return (done, status),
                }
            }
        });
    }
    upstream.wait_for(LOGIN, 20).await;
    gateway.signal("TERM");
    let mut logins = 0;
    for (done, last) in callers.join_all().await {
        logins += done;
        // Either a documented status, or a connection error that clients may safely retry.
        if last.details().is_empty() {
            let text = format!("{last:?}");
            let not_accepted =
                ["GoAway", "Connection refused", "connection closed", "ConnectError", "NotConnected"];
            assert!(not_accepted.iter().any(|words| text.contains(words)), "{text}");
        } else {
            let refused = refused(&last);
            assert_eq!((refused.code, refused.reason.as_str()), (Code::Unavailable, "DRAINING"));
        }
    }
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(logins > 0);
    // Each platform request has a record, and each session was delivered.
    let records = gateway.audit();
    let done = |method: &str| {
        let of = |record: &&serde_json::Value| record["method"] == method && record["code"] == "OK";
        records.iter().filter(of).count()
    };
    assert_eq!(done("IssueOtt"), upstream.count(OTT));
    assert_eq!((done("LoginWithOtt"), logins), (upstream.count(LOGIN), upstream.count(LOGIN)));
    assert_eq!(upstream.count(LOGOUT), 0);
}

#[tokio::test]
async fn platform_outage_does_not_delay_the_shutdown() {
    let (upstream, mut gateway, _client) = start("drain_lame_duck = \"0s\"").await;
    let stalled = Upstream::http().await;
    stalled.always(TOKEN, Behaviour::Stall);
    let mut waiting = Setup::for_platform(stalled.address()).start();
    stalled.wait_for(TOKEN, 1).await;
    waiting.signal("TERM");
    assert_eq!(waiting.ended().await.code(), Some(0));

    upstream.always(TOKEN, Answer::empty(503)).always(OTT, Answer::empty(503));
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
}

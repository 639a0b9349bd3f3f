//! Access tokens: how often the gateway requests one, and which one each call carries. Behaviour
//! over minutes or hours is unit-tested with a paused clock.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use futures_util::future::join_all;
use ott_gateway::{base::clock, proto::ott::v1::IssueOttRequest};
use tokio::{sync::Semaphore, task::JoinSet};
use tonic::{Code, Status};

use crate::support::{
    admin::Admin,
    call::{self, Client, refused},
    gateway::{Gateway, PATIENCE, Setup},
    port::Reserved,
    upstream::{Answer, Behaviour, OTT, TOKEN, Upstream},
};

fn token(name: &str, expires_in: u32) -> Answer {
    Answer::json(
        200,
        format!(r#"{{"access_token":"{name}","token_type":"bearer","expires_in":{expires_in}}}"#),
    )
}

fn held(permits: &Arc<Semaphore>, then: impl Into<Behaviour>) -> Behaviour {
    Behaviour::Held(Arc::clone(permits), Box::new(then.into()))
}

/// Number of requests for one-time tokens by access token.
fn bearers(upstream: &Upstream) -> BTreeMap<String, usize> {
    let mut bearers = BTreeMap::new();
    for request in upstream.requests_to(OTT) {
        let bearer = request.header("authorization").expect("a bearer").to_owned();
        *bearers.entry(bearer).or_default() += 1;
    }
    bearers
}

/// A gateway with enough time for a thousand calls, even on a busy machine.
fn patient(upstream: &Upstream) -> Gateway {
    Setup::for_platform(upstream.address()).replacing("[server]", "[server]\nmax_deadline = \"60s\"").start()
}

/// Serializes the tests with a thousand calls, which use the whole machine.
static CROWD: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Starts a thousand concurrent calls over twenty connections.
async fn thousand_calls(gateway: &Gateway) -> JoinSet<Result<(), Status>> {
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let client = gateway.client().await;
        for _ in 0..50 {
            let mut client = client.clone();
            calls.spawn(async move { client.issue_ott(call::issue("someone")).await.map(drop) });
        }
    }
    calls
}

#[tokio::test]
async fn thousand_calls_waiting_for_the_first_token_cause_one_request() {
    let _crowd = CROWD.lock().await;
    let upstream = Upstream::http().await;
    let permits = Arc::new(Semaphore::new(0));
    upstream.next(TOKEN, held(&permits, Behaviour::Healthy));
    let gateway = patient(&upstream);
    let calls = thousand_calls(&gateway).await;
    gateway.in_flight(1000).await;
    upstream.wait_for(TOKEN, 1).await;
    assert_eq!((upstream.count(TOKEN), upstream.count(OTT)), (1, 0));
    permits.add_permits(1);
    for answer in calls.join_all().await {
        answer.expect("a token");
    }
    assert_eq!((upstream.count(TOKEN), upstream.count(OTT)), (1, 1000));
}

#[tokio::test]
async fn thousand_concurrent_refusals_cause_one_refresh_and_a_replay_each() {
    let _crowd = CROWD.lock().await;
    let upstream = Upstream::http().await;
    let permits = Arc::new(Semaphore::new(0));
    upstream.next(TOKEN, token("REVOKED", 7200)).next(TOKEN, held(&permits, token("GOOD", 7200)));
    let gateway = patient(&upstream);
    call::issue_and_log_in(&mut gateway.client().await).await;
    call::until_access_token_is_old().await;
    for _ in 0..1000 {
        upstream.next(OTT, Answer::empty(401));
    }
    let calls = thousand_calls(&gateway).await;
    // All calls are refused before the new access token arrives.
    upstream.wait_for(OTT, 1001).await;
    gateway.in_flight(1000).await;
    permits.add_permits(1);
    for answer in calls.join_all().await {
        answer.expect("a token");
    }
    assert_eq!(upstream.count(TOKEN), 2);
    // On a busy machine some attempts time out. Each counts as a retry.
    let retries =
        Admin(gateway.admin()).scrape().find("ott_gateway_platform_retries_total{operation=\"IssueOtt\"}");
    let replays = upstream.count(OTT) - 1001;
    let counted = f64::from(u32::try_from(replays - 1000).expect("few"));
    assert_eq!(retries.unwrap_or(0.0).to_string(), counted.to_string(), "{replays} replays");
    let expected = [("Bearer GOOD".to_owned(), replays), ("Bearer REVOKED".to_owned(), 1001)];
    assert_eq!(bearers(&upstream), BTreeMap::from(expected));
    call::issue_and_log_in(&mut gateway.client().await).await;
    assert_eq!(upstream.count(TOKEN), 2);
}

#[tokio::test]
async fn token_is_renewed_while_the_old_one_is_in_use() {
    let upstream = Upstream::http().await;
    let permits = Arc::new(Semaphore::new(0));
    // Usable for 30 s of its 40, renewed after 10.
    upstream.next(TOKEN, token("OLD", 40)).next(TOKEN, held(&permits, token("NEW", 7200)));
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut client = gateway.client().await;
    call::issue_and_log_in(&mut client).await;
    upstream.wait_for(TOKEN, 2).await;
    for _ in 0..5 {
        call::issue_and_log_in(&mut client).await;
    }
    assert_eq!(
        bearers(&upstream),
        BTreeMap::from([("Bearer OLD".to_owned(), 6)]),
        "no call waits for the new token"
    );
    permits.add_permits(1);
    until_bearer(&upstream, &mut client, "Bearer NEW").await;
    assert_eq!(upstream.count(TOKEN), 2);
}

/// Issues tokens until the access token is in use.
async fn until_bearer(upstream: &Upstream, client: &mut Client, bearer: &str) {
    let until = clock::now() + PATIENCE;
    while !bearers(upstream).contains_key(bearer) {
        assert!(clock::now() < until, "{bearer} was never used: {:?}", bearers(upstream));
        client.issue_ott(call::issue("someone")).await.expect("a token");
    }
}

#[tokio::test]
async fn rotated_secret_is_used_and_costs_no_call() {
    let upstream = Upstream::http().await;
    let permits = Arc::new(Semaphore::new(0));
    upstream.next(TOKEN, token("OLD", 7200)).next(TOKEN, held(&permits, token("NEW", 7200)));
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut client = gateway.client().await;
    call::issue_and_log_in(&mut client).await;

    let rotated = clock::now();
    let fresh = gateway.folder().join("fresh");
    fs::write(&fresh, "another-secret\n").expect("a file");
    fs::rename(&fresh, gateway.folder().join("client-secret")).expect("a replaced file");
    while upstream.count(TOKEN) == 1 {
        assert!(rotated.elapsed() < PATIENCE, "not picked up");
        call::issue_and_log_in(&mut client).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // base64 of test-client:another-secret
    let basic = "Basic dGVzdC1jbGllbnQ6YW5vdGhlci1zZWNyZXQ=";
    assert_eq!(upstream.requests_to(TOKEN)[1].header("authorization"), Some(basic));
    call::issue_and_log_in(&mut client).await;
    assert_eq!(bearers(&upstream).len(), 1, "the old token stays in use until the new secret has worked");
    permits.add_permits(1);
    until_bearer(&upstream, &mut client, "Bearer NEW").await;
    call::issue_and_log_in(&mut client).await;
    assert_eq!(upstream.count(TOKEN), 2);
}

#[tokio::test]
async fn calls_recover_from_any_token_response() {
    let faults: Vec<(Behaviour, &str)> = vec![
        (Answer::json(200, "{").into(), "PLATFORM_UNAVAILABLE"),
        (Answer::json(200, "{}").into(), "PLATFORM_UNAVAILABLE"),
        (Answer::json(200, r#"{"access_token":null,"expires_in":7200}"#).into(), "PLATFORM_UNAVAILABLE"),
        (token("", 7200).into(), "PLATFORM_UNAVAILABLE"),
        (token("a b", 7200).into(), "PLATFORM_UNAVAILABLE"),
        (token("a\\r\\nb", 7200).into(), "PLATFORM_UNAVAILABLE"),
        (token("ä", 7200).into(), "PLATFORM_UNAVAILABLE"),
        (Answer::json(200, r#"{"access_token":"A","token_type":"mac"}"#).into(), "PLATFORM_UNAVAILABLE"),
        (Answer::html(200).into(), "PLATFORM_UNAVAILABLE"),
        (Behaviour::Huge { status: 200, bytes: 65 * 1024, announced: false }, "PLATFORM_UNAVAILABLE"),
        (Answer::json(404, "{}").into(), "PLATFORM_PROTOCOL_ERROR"),
        (Answer::empty(307).header("location", "http://127.0.0.1:1/").into(), "PLATFORM_PROTOCOL_ERROR"),
        (Answer::html(403).into(), "PLATFORM_BLOCKED"),
        (Answer::json(401, r#"{"error":"invalid_client"}"#).into(), "PLATFORM_CREDENTIAL_REJECTED"),
        (Answer::json(400, r#"{"error":"invalid_client"}"#).into(), "PLATFORM_CREDENTIAL_REJECTED"),
        (Answer::empty(503).into(), "PLATFORM_UNAVAILABLE"),
        (Behaviour::Reset, "PLATFORM_UNAVAILABLE"),
        (Behaviour::CutAfter(5, token("CUT", 7200)), "PLATFORM_UNAVAILABLE"),
    ];
    let mut platforms = Vec::new();
    for (index, (fault, reason)) in faults.into_iter().enumerate() {
        let upstream = Upstream::http().await;
        upstream.next(TOKEN, fault.clone()).next(TOKEN, fault);
        platforms.push((format!("client-{index}"), upstream, reason));
    }
    let addresses: Vec<_> =
        platforms.iter().map(|(name, upstream, _)| (name.as_str(), upstream.address())).collect();
    let gateway = Setup::for_platforms(&addresses).start();
    let client = gateway.client().await;
    join_all(platforms.iter().map(async |(name, upstream, reason)| {
        let mut client = client.clone();
        let request = || IssueOttRequest { api_client: name.clone(), ..call::issue("someone") };
        let status = client.issue_ott(request()).await.expect_err("no access token");
        let refused = refused(&status);
        let shown = format!("{name}: {:?} {refused:?}", upstream.requests_to(TOKEN).len());
        assert_eq!(refused.reason, *reason, "{shown}");
        let internal = ["PLATFORM_PROTOCOL_ERROR", "PLATFORM_CREDENTIAL_REJECTED"].contains(reason);
        let code = if internal { Code::Internal } else { Code::Unavailable };
        assert_eq!((refused.code, refused.metadata["outcome"].as_str()), (code, "not_sent"), "{shown}");
        assert_eq!(upstream.count(OTT), 0, "{shown}");
        let until = clock::now() + PATIENCE;
        while let Err(status) = client.issue_ott(request()).await {
            assert!(clock::now() < until, "{name} never recovers: {status:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!((upstream.count(TOKEN), upstream.count(OTT)), (3, 1), "{shown}");
        assert_eq!(bearers(upstream), BTreeMap::from([("Bearer ACCESS".to_owned(), 1)]));
    }))
    .await;
}

#[tokio::test]
async fn cancelled_caller_does_not_cancel_the_refresh() {
    let upstream = Upstream::http().await;
    let permits = Arc::new(Semaphore::new(0));
    upstream.next(TOKEN, token("REVOKED", 7200)).next(TOKEN, held(&permits, token("GOOD", 7200)));
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut client = gateway.client().await;
    call::issue_and_log_in(&mut client).await;
    call::until_access_token_is_old().await;
    upstream.next(OTT, Answer::empty(401)).next(OTT, Answer::empty(401));
    let spawn = || {
        let mut client = client.clone();
        tokio::spawn(async move { client.issue_ott(call::issue("someone")).await.map(drop) })
    };
    let first = spawn();
    upstream.wait_for(TOKEN, 2).await;
    let second = spawn();
    upstream.wait_for(OTT, 3).await;
    first.abort();
    let _ = first.await;
    gateway.in_flight(1).await;
    permits.add_permits(1);
    second.await.expect("no panic").expect("a token");
    assert_eq!((upstream.count(TOKEN), upstream.count(OTT)), (2, 4));
}

#[tokio::test]
async fn persistent_refusal_of_one_user_does_not_affect_others() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut client = gateway.client().await;
    call::issue_and_log_in(&mut client).await;
    call::until_access_token_is_old().await;
    let permits = Arc::new(Semaphore::new(0));
    upstream.next(OTT, Answer::empty(401)).next(TOKEN, held(&permits, token("NEW", 7200)));
    let mut others = client.clone();
    let refused_again = tokio::spawn(async move { client.issue_ott(call::issue("someone")).await });
    upstream.wait_for(TOKEN, 2).await;
    call::issue_and_log_in(&mut others).await;
    let mut client = others;
    upstream.always(OTT, Answer::empty(401));
    permits.add_permits(1);
    // The new token is refused too while others are accepted, so it is this user's problem.
    let status = refused_again.await.expect("no panic").expect_err("refused again");
    assert_eq!(refused(&status).reason, "PLATFORM_CREDENTIAL_REJECTED");
    for _ in 0..20 {
        // It is unknown whether the next token would be refused too.
        let status = client.issue_ott(call::issue("someone")).await.expect_err("refused again");
        let refused = refused(&status);
        assert_eq!((refused.code, refused.reason.as_str()), (Code::Unavailable, "PLATFORM_UNAVAILABLE"));
        let delay = refused.retry_delay.expect("the rest of the minimum interval");
        assert!(delay > Duration::ZERO && delay <= Duration::from_secs(10), "{delay:?}");
        assert_eq!(refused.pushback, None, "it can be retried");
    }
    upstream.always(OTT, Behaviour::Healthy);
    call::issue_and_log_in(&mut client).await;
    assert_eq!(upstream.count(TOKEN), 2, "at most one forced refresh in ten seconds");
}

#[tokio::test]
async fn revoked_token_is_replaced_at_once_despite_a_persistently_refused_user() {
    let upstream = Upstream::http().await;
    upstream.next(TOKEN, token("FIRST", 7200)).next(TOKEN, token("SECOND", 7200));
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut client = gateway.client().await;
    call::issue_and_log_in(&mut client).await;
    call::until_access_token_is_old().await;
    // The one refresh for this user's refusals is used.
    upstream.always(OTT, Answer::empty(401));
    client.issue_ott(call::issue("always-refused")).await.expect_err("refused");
    upstream.always(OTT, Behaviour::Healthy);
    until_bearer(&upstream, &mut client, "Bearer SECOND").await;
    call::until_access_token_is_old().await;
    // Both tokens are revoked; the next is valid.
    for _ in 0..4 {
        upstream.next(OTT, Answer::empty(401));
    }
    let began = clock::now();
    while let Err(status) = client.issue_ott(call::issue("someone")).await {
        assert_eq!(refused(&status).code, Code::Unavailable, "{status:?}");
        assert!(began.elapsed() < PATIENCE, "{status:?}");
    }
    assert_eq!(upstream.count(TOKEN), 3);
}

/// An eventually consistent platform responds with 401 until its API accepts a new token.
#[tokio::test]
async fn new_access_token_not_yet_known_to_the_api_costs_no_call() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut client = gateway.client().await;
    upstream.next(OTT, Answer::empty(401)).next(OTT, Answer::empty(401));
    client.issue_ott(call::issue("someone")).await.expect("repeated with the same token");
    assert_eq!((upstream.count(TOKEN), upstream.count(OTT)), (1, 3));
    assert_eq!(bearers(&upstream), BTreeMap::from([("Bearer ACCESS".to_owned(), 3)]));
}

#[tokio::test]
async fn unreadable_token_lifetime_costs_no_call() {
    let answers = [
        r#"{"access_token":"ACCESS","expires_in":7200.0}"#,
        r#"{"access_token":"ACCESS","expires_in":" 7200 "}"#,
        r#"{"access_token":"ACCESS","expires_in":31536000}"#,
        r#"{"access_token":"ACCESS","expires_in":1e999}"#,
        r#"{"access_token":"ACCESS","expires_in":"soon"}"#,
        r#"{"access_token":"ACCESS","expires_in":0}"#,
        r#"{"access_token":"ACCESS","expires_on":1}"#,
        r#"{"access_token":"ACCESS","expires_on":[]}"#,
        "\u{feff}{\"access_token\":\"ACCESS\",\"expires_in\":7200}",
    ];
    let mut platforms = Vec::new();
    for (index, answer) in answers.into_iter().enumerate() {
        let upstream = Upstream::http().await;
        upstream.always(TOKEN, Answer::json(200, answer));
        platforms.push((format!("client-{index}"), upstream));
    }
    let addresses: Vec<_> =
        platforms.iter().map(|(name, upstream)| (name.as_str(), upstream.address())).collect();
    let gateway = Setup::for_platforms(&addresses).start();
    let mut client = gateway.client().await;
    for ((name, upstream), answer) in platforms.iter().zip(answers) {
        let request = IssueOttRequest { api_client: name.clone(), ..call::issue("someone") };
        client.issue_ott(request).await.expect(answer);
        assert_eq!(upstream.count(TOKEN), 1, "{answer}");
    }
    let log = gateway.stderr().text();
    let warnings = log.lines().filter(|line| line.contains("access token lifetime unclear"));
    assert_eq!(warnings.filter(|line| line.contains("client-")).count(), 6, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_config_online_reports_the_cause_for_each_api_client() {
    let closed = Reserved::new();
    let answers = [
        ("bad-id", Answer::json(400, r#"{"error":"invalid_client","error_description":"canary"}"#)),
        ("bad-type", Answer::html(200)),
        ("down", Answer::empty(503)),
        ("good", token("ACCESS", 7200)),
    ];
    let mut upstreams = Vec::new();
    for (name, answer) in answers {
        let upstream = Upstream::http().await;
        upstream.always(TOKEN, answer);
        upstreams.push((name, upstream));
    }
    let mut platforms: Vec<_> =
        upstreams.iter().map(|(name, upstream)| (*name, upstream.address())).collect();
    platforms.push(("nobody", closed.address()));
    let setup = Setup::for_platforms(&platforms);
    setup.write_config();
    #[expect(clippy::disallowed_methods, reason = "a test may panic")]
    let checked = tokio::task::spawn_blocking(move || setup.run(&["check-config", "--online"]));
    let checked = checked.await.expect("no panic");
    assert_eq!(checked.status.code(), Some(1));
    let text = String::from_utf8(checked.stdout).expect("UTF-8");
    let result = |name: &str| {
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(&format!(" {name}: "))).collect();
        assert_eq!(lines.len(), 1, "{name}: {text}");
        lines[0].split_once(": ").expect("NAME: RESULT").1.to_owned()
    };
    for (name, expected) in [
        ("bad-id", "the platform refuses the API client's credential: HTTP status 400, error invalid_client"),
        ("bad-type", "the platform's token endpoint is failing: the response is not application/json"),
        ("down", "the platform's token endpoint is failing: HTTP status 503"),
        ("good", "access token fetched"),
    ] {
        assert_eq!(result(name), expected);
    }
    let nobody = result("nobody").to_lowercase();
    assert!(nobody.starts_with("cannot reach the platform's token endpoint: "), "{nobody}");
    assert!(nobody.contains("connection refused"), "{nobody}");
    assert!(!text.contains("canary"), "{text}");
}

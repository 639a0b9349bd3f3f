//! The memory of the process stays within its limit, whatever the platform sends.

use std::{fs, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, task::JoinSet};
use tonic::Request;

use crate::support::{
    admin::Admin,
    calling::reason,
    gateway::{Gateway, Setup},
    upstream::{Answer, Behaviour, LOGIN, Upstream},
};

const MIB: u64 = 1024 * 1024;

/// The largest resident memory of a process so far, in bytes (proc(5), `VmHWM`).
fn peak(gateway: &Gateway) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.id())).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the line");
    line.trim().strip_suffix(" kB").expect("in kB").trim().parse::<u64>().expect("a number") * 1024
}

/// A login whose account is nearly as large as the gateway reads.
fn large_login() -> Answer {
    let padding = "x".repeat(255 * 1024);
    Answer::json(
        200,
        format!(r#"{{"id":"9b6d2f6e-0f3c-4a53-9c55-0d9c8f1f7d11","login":"a","note":"{padding}"}}"#),
    )
    .header("set-cookie", "session=1; Path=/")
}

fn login(token: usize) -> Request<ott_gateway::proto::ott::v1::LoginWithOttRequest> {
    let mut request = crate::support::calling::login(&format!("token-{token}"));
    request.set_timeout(Duration::from_mins(1));
    request
}

/// Sends 600 logins at one time to a gateway with 128 MiB, and expects every session to be
/// delivered.
async fn six_hundred_logins_fit_into_the_memory(answer: Answer) {
    let upstream = Upstream::http().await;
    let held = Arc::new(Semaphore::new(0));
    upstream.always(LOGIN, Behaviour::Held(Arc::clone(&held), Box::new(answer.into())));
    let gateway = Setup::for_platform(upstream.address())
        .replacing("[server]", "[server]\nmemory_limit = \"128MiB\"\nmax_deadline = \"60s\"")
        .start();
    let admin = Admin(gateway.admin());
    admin.scrape().has(&[("ott_gateway_response_memory_bytes", 22.0 * 1024.0 * 1024.0)]);
    let before = peak(&gateway);

    let mut calls = JoinSet::new();
    // No connection has more than 100 streams.
    for connection in 0..6 {
        let client = gateway.client().await;
        for call in 0..100 {
            let mut client = client.clone();
            calls.spawn(async move { client.login_with_ott(login(connection * 100 + call)).await });
        }
    }
    // As many logins as fit have been sent before the first response arrives. The others wait.
    upstream.asked(LOGIN, 88).await;
    admin.comes_to("ott_gateway_calls_in_flight", 600.0).await;
    assert_eq!(upstream.count(LOGIN), 88);
    held.add_permits(600);
    let (mut delivered, mut others) = (0, Vec::new());
    while let Some(result) = calls.join_next().await {
        match result.expect("no panic") {
            Ok(response) => {
                assert!(response.into_inner().user.is_some());
                delivered += 1;
            }
            Err(status) => others.push(reason(&status)),
        }
    }
    assert_eq!((delivered, &others), (600, &Vec::new()));
    let used = peak(&gateway);
    assert!(used < 128 * MIB, "{} MiB, before the calls {} MiB", used / MIB, before / MIB);
    admin.comes_to("ott_gateway_response_memory_reserved_bytes", 0.0).await;
}

/// Without a limit, their bodies take more than 600 MiB at one time.
#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_the_largest_responses_fits_into_the_memory() {
    six_hundred_logins_fit_into_the_memory(large_login()).await;
}

/// Without a limit, their heads take about 90 MiB at one time, beside 70 MiB for the calls.
#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_the_largest_response_heads_fits_into_the_memory() {
    let small = Answer::json(200, r#"{"id":"9b6d2f6e-0f3c-4a53-9c55-0d9c8f1f7d11","login":"a"}"#)
        .header("set-cookie", "session=1; Path=/");
    let value = "x".repeat(4000);
    let large = (0..15).fold(small, |answer, number| answer.header(&format!("x-{number}"), value.clone()));
    six_hundred_logins_fit_into_the_memory(large).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_login_is_sent_while_its_response_would_have_to_wait() {
    let upstream = Upstream::http().await;
    // Their bodies do not come: the memory stays reserved until the calls give up. Two of them
    // leave no room for a third.
    let stalled = Answer::json(200, "{").header("content-length", (200 * 1024).to_string());
    upstream.next(LOGIN, stalled.clone()).next(LOGIN, stalled).always(LOGIN, large_login());
    let gateway = Setup::for_platform(upstream.address())
        .replacing("[server]", "[server]\nmemory_limit = \"48MiB\"")
        .start();
    let admin = Admin(gateway.admin());
    admin.scrape().has(&[("ott_gateway_response_memory_bytes", 2.0 * 1024.0 * 1024.0)]);
    let client = gateway.client().await;
    let mut calls = JoinSet::new();
    for call in 0..2 {
        let mut client = client.clone();
        calls.spawn(async move { client.login_with_ott(login(call)).await });
    }
    admin.comes_to("ott_gateway_response_memory_reserved_bytes", 1600.0 * 1024.0).await;
    let mut waiting = client.clone();
    let mut request = crate::support::calling::login("waits");
    request.set_timeout(Duration::from_secs(3));
    let status = waiting.login_with_ott(request).await.expect_err("no room");
    assert_eq!(reason(&status), "OVERLOADED");
    assert_eq!(upstream.count(LOGIN), 2, "its token was not sent");

    calls.shutdown().await;
    let response = waiting.login_with_ott(login(1000)).await.expect("there is room again");
    assert!(response.into_inner().user.is_some());
}

//! Limits of open files below what the configuration needs.

use std::{fs, net::TcpStream};

use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{
    admin::Admin,
    call,
    gateway::{Gateway, Setup},
    upstream::{TOKEN, Upstream},
};

/// Starts a gateway under `ulimit` with this argument.
async fn start(limit: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::http().await;
    let launcher = format!("ulimit {limit}; exec \"$0\" \"$@\"");
    let setup = Setup::for_platform(upstream.address())
        .replacing("[server]", "[server]\nworker_threads = 2")
        .launched_by(&["sh", "-c", &launcher]);
    let gateway = setup.start();
    upstream.wait_for(TOKEN, 1).await;
    (upstream, gateway)
}

/// Soft limit of open files of a running gateway.
fn soft_limit(gateway: &Gateway) -> u64 {
    let limits = fs::read_to_string(format!("/proc/{}/limits", gateway.id())).expect("it runs");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit");
    line.split_whitespace().next().and_then(|soft| soft.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn soft_limit_is_raised_to_what_the_configuration_needs() {
    let (_upstream, gateway) = start("-Sn 256").await;
    // 1,024 connections and 4,096 calls.
    assert!(soft_limit(&gateway) > 1024 + 4096);
    gateway
        .stderr()
        .wait_for("the new limit", |line| line.contains("limit of open files raised").then_some(()));
    let limits = Admin(gateway.admin()).scrape();
    limits.has(&[
        (r#"ott_gateway_limit{limit="connections"}"#, 1024.0),
        (r#"ott_gateway_limit{limit="in_flight"}"#, 4096.0),
    ]);
    call::issue_and_log_in(&mut gateway.client().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_leave_descriptors_for_probes_calls_and_records() {
    let (_upstream, gateway) = start("-n 300").await;
    let admin = Admin(gateway.admin());
    gateway.stderr().wait_for("the lower limits", |line| {
        line.contains("limit of open files too low, accepting fewer connections and calls").then_some(())
    });
    let limit = admin.scrape().value(r#"ott_gateway_limit{limit="connections"}"#);
    assert!((8.0..256.0).contains(&limit), "{limit}");
    let mut client = gateway.client().await;
    call::issue_and_log_in(&mut client).await;

    // More idle connections than the limit of open files.
    let mut idle = Vec::new();
    for _ in 0..320 {
        idle.push(TcpStream::connect(gateway.address()).expect("the kernel accepts it"));
    }
    let evicted = 320.0 + 1.0 - limit;
    let reason = r#"ott_gateway_connections_ended_total{reason="evicted"}"#;
    admin.wait_for(reason, evicted).await;
    assert_eq!(admin.page("/livez"), (200, "ok\n".to_owned()));
    for _ in 0..20 {
        call::issue_and_log_in(&mut client).await;
    }
    let mut health = HealthClient::new(gateway.channel().await);
    let request = HealthCheckRequest { service: "ott.v1.OttService".to_owned() };
    let status = health.check(request).await.expect("an answer").into_inner().status();
    assert_eq!(status, ServingStatus::Serving);
    assert_eq!(gateway.audit().len(), 2 * 21);
    drop(idle);
    call::issue_and_log_in(&mut gateway.client().await).await;
}

#[tokio::test]
async fn limit_too_low_for_any_connection_prevents_the_start() {
    let upstream = Upstream::http().await;
    let setup = Setup::for_platform(upstream.address())
        .replacing("[server]", "[server]\nworker_threads = 2")
        .launched_by(&["sh", "-c", "ulimit -n 64; exec \"$0\" \"$@\""]);
    let (status, log) = setup.try_start().err().expect("a failed start");
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("the limit of open files is 64, and the gateway needs at least "), "{log}");
}

//! The gateway process has too few resources for connections to the platform.

use std::fs;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tonic::Code;

use crate::support::{
    admin::Admin,
    call::{issue_and_log_in, login, refused},
    gateway::{Gateway, Setup},
    upstream::{LOGIN, Upstream},
};

/// Limits the process to the descriptors that it has open.
fn take_descriptors(gateway: &Gateway) {
    let open: Vec<u64> = fs::read_dir(format!("/proc/{}/fd", gateway.id()))
        .expect("the open descriptors")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
                .expect("a number")
        })
        .collect();
    let unused = (0..1_000_000).find(|descriptor| !open.contains(descriptor)).expect("a number");
    limit_descriptors(gateway, Some(unused));
}

fn limit_descriptors(gateway: &Gateway, current: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(gateway.id()).expect("a process id"));
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(pid, Resource::Nofile, Rlimit { current: current.or(maximum), maximum }).expect("new limits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_descriptors_are_not_reported_as_platform_errors() {
    let platform = Upstream::http().await;
    let gateway = Setup::for_platform(platform.address()).start();
    let mut client = gateway.client().await;
    issue_and_log_in(&mut client).await;
    let logins = platform.count(LOGIN);

    // Over HTTP/1.1, each login opens a new connection.
    take_descriptors(&gateway);
    let mut attempts = 0;
    // The breaker would open at the 20th failure.
    for _ in 0..25 {
        let status = client.login_with_ott(login("OTT-1")).await.expect_err("there is no descriptor");
        let refused = refused(&status);
        assert_eq!((refused.code, refused.reason.as_str()), (Code::Unavailable, "GATEWAY_EXHAUSTED"));
        assert_eq!(refused.metadata["outcome"], "not_sent");
        assert!(refused.retry_delay.is_some() && !refused.message.contains("platform"), "{refused:?}");
        attempts += refused.metadata["attempts"].parse::<u32>().expect("a number");
    }
    limit_descriptors(&gateway, None);
    issue_and_log_in(&mut client).await;
    assert_eq!(platform.count(LOGIN), logins + 1);
    let scrape = Admin(gateway.admin()).scrape();
    scrape.has(&[
        (r#"ott_gateway_breaker_state{operation="LoginWithOtt"}"#, 0.0),
        (r#"ott_gateway_local_exhaustion_total{resource="descriptors"}"#, f64::from(attempts)),
        (r#"ott_gateway_errors_total{method="LoginWithOtt",reason="GATEWAY_EXHAUSTED"}"#, 25.0),
        (
            r#"ott_gateway_platform_requests_total{operation="LoginWithOtt",outcome="not_sent"}"#,
            f64::from(attempts),
        ),
    ]);
}

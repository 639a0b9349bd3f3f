//! Resources that the gateway's own process lacks for connections to the platform.

use std::fs;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tonic::Code;

use crate::support::{
    admin::Admin,
    call::{issue_and_log_in, login, refused},
    gateway::{Gateway, Setup},
    upstream::{LOGIN, Upstream},
};

/// Leaves the process no descriptor beyond those that it has.
fn take_descriptors(gateway: &Gateway) {
    let open: Vec<u64> = fs::read_dir(format!("/proc/{}/fd", gateway.id()))
        .expect("its descriptors")
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
    prlimit(pid, Resource::Nofile, Rlimit { current: current.or(maximum), maximum })
        .expect("its limits are set");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_without_descriptors_says_so_and_does_not_blame_the_platform() {
    let platform = Upstream::http().await;
    let gateway = Setup::for_platform(platform.address()).start();
    let mut client = gateway.client().await;
    issue_and_log_in(&mut client).await;
    let logins = platform.count(LOGIN);

    // Over HTTP/1.1 every login has a connection of its own.
    take_descriptors(&gateway);
    let mut attempts = 0;
    // The breaker would open at the twentieth.
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

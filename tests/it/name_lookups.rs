//! Slow, silent and failing name servers, with the real resolver.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr},
    process::Command,
};

use tonic::Code;

use crate::support::{
    admin::Admin,
    call::{issue, issue_and_log_in, login, refused},
    gateway::{Gateway, Setup},
    nameserver::{Family, NameServer, Reply},
    upstream::{LOGIN, Tls, Upstream},
};

const HOST: &str = "eu2.platform.test";
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const BREAKER: &str = r#"ott_gateway_breaker_state{operation="LoginWithOtt"}"#;

/// A platform without HTTP/2, so that every login needs a new connection, and its name server.
struct Platform {
    upstream: Upstream,
    names: NameServer,
}

impl Platform {
    /// `None` where this user may not run a name server or replace `resolv.conf`.
    async fn new() -> Option<Self> {
        let may_mount =
            Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|status| status.success());
        let names = NameServer::start(HOST, LOCALHOST).filter(|_| may_mount);
        let Some(names) = names else {
            let _ = writeln!(io::stderr(), "NOT TESTED: needs port 53 and a mount namespace; run as root");
            return None;
        };
        Some(Self { upstream: Upstream::https(Tls::new(HOST, false, &["http/1.1"])).await, names })
    }

    fn gateway(&self) -> Gateway {
        let address = self.upstream.address();
        let ca_file = self.upstream.ca_file().expect("it has TLS").display().to_string();
        Setup::for_platform(address)
            .replacing(
                &format!("data_center_url = \"http://{address}\""),
                &format!("data_center_url = \"https://{HOST}:{}\"\nca_file = \"{ca_file}\"", address.port()),
            )
            .resolv_conf(&self.names.resolv_conf())
            .start()
    }

    /// Asserts that calls succeed, each login on a new connection.
    async fn serves(&self, gateway: &Gateway, calls: usize) {
        let mut client = gateway.client().await;
        let (logins, connections) = (self.upstream.count(LOGIN), self.upstream.connections());
        for _ in 0..calls {
            issue_and_log_in(&mut client).await;
        }
        assert_eq!(self.upstream.count(LOGIN), logins + calls);
        assert!(self.upstream.connections() >= connections + calls);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_calls_succeed_in_a_default_pod_while_ipv6_queries_get_no_reply() {
    let Some(platform) = Platform::new().await else { return };
    platform.names.replies(Family::Ipv6, Reply::Silence);
    let gateway = platform.gateway();
    platform.serves(&gateway, 5).await;
    let queries = platform.names.queries();
    let expected = [(HOST.to_owned(), Family::Ipv4), (HOST.to_owned(), Family::Ipv6)];
    assert!(queries.iter().all(|query| expected.contains(query)), "the search list is not used: {queries:?}");
    // One lookup for both workers, both endpoints and the token requests. The system repeats
    // queries without a reply.
    let answered = queries.iter().filter(|(_, family)| *family == Family::Ipv4).count();
    assert_eq!(answered, 1, "{queries:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_or_failing_name_server_costs_no_call() {
    let Some(platform) = Platform::new().await else { return };
    let gateway = platform.gateway();
    platform.serves(&gateway, 1).await;
    platform.names.replies_to_all(Reply::Silence);
    // The addresses are looked up again in the background.
    platform.names.next_query(Family::Ipv4);
    platform.serves(&gateway, 5).await;
    platform.names.replies_to_all(Reply::ServerFailure);
    gateway.stderr().wait_for("the failure", |line| line.contains("name lookup failed").then_some(()));
    platform.serves(&gateway, 5).await;
    platform.names.replies_to_all(Reply::Honest);
    gateway
        .stderr()
        .wait_for("the next success", |line| line.contains("name lookup succeeds again").then_some(()));
    platform.serves(&gateway, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_name_lookup_is_reported_and_does_not_open_the_breaker() {
    let Some(platform) = Platform::new().await else { return };
    platform.names.replies_to_all(Reply::ServerFailure);
    let gateway = platform.gateway();
    let mut client = gateway.client().await;
    let status = client.issue_ott(issue("someone")).await.expect_err("no access token");
    assert_eq!(refused(&status).reason, "PLATFORM_UNREACHABLE");
    // A login needs no access token. The breaker would open at the 20th failure.
    for _ in 0..25 {
        let status = client.login_with_ott(login("OTT-1")).await.expect_err("no address");
        let refused = refused(&status);
        assert_eq!((refused.code, refused.reason.as_str()), (Code::Unavailable, "PLATFORM_UNREACHABLE"));
        assert_eq!(refused.metadata["outcome"], "not_sent");
    }
    gateway.stderr().wait_for("the cause", |line| {
        line.contains(&format!("name lookup of {HOST}: the name servers failed")).then_some(())
    });
    Admin(gateway.admin()).scrape().has(&[(BREAKER, 0.0)]);
    assert_eq!(platform.upstream.connections(), 0);
    platform.names.replies_to_all(Reply::Honest);
    let admin = Admin(gateway.admin());
    admin.wait_for(r#"ott_gateway_name_lookups_total{query="ipv4",result="ok"}"#, 1.0).await;
    // The next token request follows after a delay.
    let admin = Admin(gateway.admin());
    admin.wait_for(r#"ott_gateway_access_token_refreshes_total{result="ok"}"#, 1.0).await;
    platform.serves(&gateway, 5).await;
}

//! Peers that open connections and do not use them, against the real binary.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use ott_gateway::proto::ott::v1::{
    IssueOttRequest, issue_ott_request::Subject, ott_service_client::OttServiceClient,
};
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{
    admin::Admin,
    gateway::{PATIENCE, Setup},
    upstream::Upstream,
};

/// Preface and empty SETTINGS of an HTTP/2 client.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Hash of the bearer token `canary-token` for the configuration.
const TOKEN_HASH: &str = "sha256:4b598de5faa6a2208f99f7b8a6b61378ac7d7a36d9524056e9be61c17c37667f";

fn ended(reason: &str) -> String {
    format!(r#"ott_gateway_connections_ended_total{{reason="{reason}"}}"#)
}

fn refused(reason: &str) -> String {
    format!(r#"ott_gateway_connections_refused_total{{reason="{reason}"}}"#)
}

/// A gateway whose only caller has a bearer token.
async fn setup(server: &str) -> (Upstream, Setup) {
    let upstream = Upstream::http().await;
    let setup = Setup::for_platform(upstream.address())
        .replacing("[server]", &format!("[server]\n{server}"))
        .replacing("[audit]", &format!("[callers.tokens]\ntest = \"{TOKEN_HASH}\"\n[audit]"))
        .replacing(r#"callers = ["anonymous"]"#, r#"callers = ["token:test"]"#);
    (upstream, setup)
}

fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).expect("the kernel accepts")
}

/// An HTTP/2 connection on which the gateway has sent its SETTINGS.
fn open(address: SocketAddr) -> TcpStream {
    let mut stream = connect(address);
    stream.write_all(GREETING).expect("it reads");
    stream.read_exact(&mut [0; 9]).expect("SETTINGS");
    stream
}

/// Makes a call with a valid token on a new connection, and returns the connection.
async fn token_is_issued(address: SocketAddr) -> OttServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URL");
    let channel = endpoint.connect().await.expect("the gateway accepts");
    let mut client = OttServiceClient::new(channel);
    issue(&mut client).await;
    client
}

async fn issue(client: &mut OttServiceClient<Channel>) {
    let subject = Some(Subject::Login("user".to_owned()));
    let mut request = Request::new(IssueOttRequest { subject, ..IssueOttRequest::default() });
    request.metadata_mut().insert("authorization", "Bearer canary-token".parse().expect("ASCII"));
    client.issue_ott(request).await.expect("a token");
}

/// Checks health on a new connection, and returns the connection.
async fn is_serving(address: SocketAddr) -> HealthClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URL");
    let mut health = HealthClient::new(endpoint.connect().await.expect("the gateway accepts"));
    let status = health.check(HealthCheckRequest::default()).await.expect("an answer").into_inner();
    assert_eq!(status.status(), ServingStatus::Serving);
    health
}

/// Reads until the gateway has closed the connection, and returns what it sent.
fn until_closed(mut stream: &TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut sent = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return sent,
            Ok(length) => sent.extend(&buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return sent,
            Err(error) => panic!("the connection is not closed: {error}"),
        }
    }
}

/// The first GOAWAY frame of a graceful shutdown: `NO_ERROR`, maximum stream id.
const GOAWAY: &[u8] = b"\0\0\x08\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\0";

fn contains_goaway(sent: &[u8]) -> bool {
    sent.windows(GOAWAY.len()).any(|window| window == GOAWAY)
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_without_a_credential_are_evicted() {
    let (_upstream, setup) = setup("").await;
    let gateway = setup.start();
    let (address, admin) = (gateway.address(), Admin(gateway.admin()));
    let mut known = token_is_issued(address).await;

    let idle: Vec<TcpStream> = (0..1023).map(|_| open(address)).collect();
    admin.scrape().has(&[(r#"ott_gateway_connections{state="open"}"#, 1024.0), (&ended("evicted"), 0.0)]);
    let newcomer = token_is_issued(address).await;
    is_serving(address).await;
    issue(&mut known).await;

    for evicted in &idle[..2] {
        assert!(contains_goaway(&until_closed(evicted)));
    }
    admin.wait_for(&ended("evicted"), 2.0).await;
    admin.scrape().has(&[(&refused("total_limit"), 0.0), (&refused("peer_limit"), 0.0)]);
    let warned = gateway.stderr().text();
    assert!(warned.contains("connection closed to make room"), "{warned}");
    drop((newcomer, idle));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_callers_are_kept_and_refused_ones_counted() {
    let (_upstream, setup) = setup("max_connections = 2").await;
    let gateway = setup.start();
    let (address, admin) = (gateway.address(), Admin(gateway.admin()));
    let mut first = token_is_issued(address).await;
    let second = token_is_issued(address).await;
    assert_eq!(until_closed(&connect(address)), b"");
    admin.scrape().has(&[(&refused("total_limit"), 1.0), (&ended("evicted"), 0.0)]);
    issue(&mut first).await;
    drop(second);
    admin.wait_for(&ended("peer"), 1.0).await;
    token_is_issued(address).await;
}

/// Connections with an invalid token count as unidentified.
#[tokio::test(flavor = "multi_thread")]
async fn connections_without_an_accepted_call_are_evicted() {
    let (_upstream, setup) = setup("max_connections = 3").await;
    let gateway = setup.start();
    let (address, admin) = (gateway.address(), Admin(gateway.admin()));
    let mut strangers = Vec::new();
    for authorization in ["Bearer wrong", ""] {
        let mut client = OttServiceClient::new(gateway.channel().await);
        let mut request = Request::new(IssueOttRequest::default());
        if !authorization.is_empty() {
            request.metadata_mut().insert("authorization", authorization.parse().expect("ASCII"));
        }
        client.issue_ott(request).await.expect_err("an unknown caller");
        strangers.push(client);
    }
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(token_is_issued(address).await);
    }
    admin.wait_for(&ended("evicted"), 2.0).await;
    for client in &mut clients {
        issue(client).await;
    }
    admin.scrape().has(&[(&refused("total_limit"), 0.0), (&ended("evicted"), 2.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed_with_a_goaway() {
    let (_upstream, setup) = setup("idle_timeout = \"1s\"").await;
    let gateway = setup.start();
    let (address, admin) = (gateway.address(), Admin(gateway.admin()));
    let mut client = token_is_issued(address).await;
    let stranger = open(address);
    admin.wait_for(&ended("idle"), 1.0).await;
    // The peer does not acknowledge the PING that follows the GOAWAY.
    assert!(contains_goaway(&until_closed(&stranger)));
    admin.wait_for(&ended("unidentified"), 1.0).await;
    issue(&mut client).await;
    let logged = gateway.stderr().text();
    for reason in ["idle", "unidentified"] {
        let line = logged.lines().find(|line| line.contains(&format!(r#""reason":"{reason}""#)));
        assert!(line.is_some_and(|line| line.contains("connection closed by a time limit")), "{logged}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_peers_on_the_health_port_do_not_block_probes() {
    let (_upstream, setup) = setup("health_listen = \"127.0.0.1:0\"").await;
    let gateway = setup.start();
    let (health, admin) = (gateway.health_address(), Admin(gateway.admin()));
    let idle: Vec<TcpStream> = (0..200).map(|_| open(health)).collect();
    let mut probes = Vec::new();
    for _ in 0..3 {
        probes.push(is_serving(health).await);
    }
    admin.wait_for(&ended("evicted"), 203.0 - 64.0).await;

    // The remaining connections are closed after 10 s without a call.
    for stream in &idle {
        assert!(contains_goaway(&until_closed(stream)));
    }
    admin.wait_for(&ended("idle"), 64.0).await;
    is_serving(health).await;
    admin.scrape().has(&[(&ended("evicted"), 203.0 - 64.0), (&refused("total_limit"), 0.0)]);
    token_is_issued(gateway.address()).await;
}

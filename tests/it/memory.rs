//! The process stays within its memory limit regardless of platform responses and slow readers.

use std::{fs, ops::Range, sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use h2::{SendStream, client::ResponseFuture};
use ott_gateway::proto::ott::v1::LoginWithOttRequest;
use prost::Message as _;
use tokio::{
    net::TcpSocket,
    sync::{Notify, Semaphore},
    task::{JoinHandle, JoinSet},
};
use tonic::Request;

use crate::support::{
    admin::Admin,
    calling::{reason, with},
    gateway::{Gateway, Setup},
    raw::framed,
    upstream::{Answer, Behaviour, LOGIN, Upstream},
};

const MIB: u64 = 1024 * 1024;

/// Peak resident memory of a process, in bytes (proc(5), `VmHWM`).
fn peak(gateway: &Gateway) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.id())).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the line");
    line.trim().strip_suffix(" kB").expect("in kB").trim().parse::<u64>().expect("a number") * 1024
}

/// A login response with an account close to the maximum size.
fn large_login() -> Answer {
    let padding = "x".repeat(255 * 1024);
    Answer::json(
        200,
        format!(r#"{{"id":"9b6d2f6e-0f3c-4a53-9c55-0d9c8f1f7d11","login":"a","note":"{padding}"}}"#),
    )
    .header("set-cookie", "session=1; Path=/")
}

fn login(token: usize) -> Request<LoginWithOttRequest> {
    let mut request = crate::support::calling::login(&format!("token-{token}"));
    request.set_timeout(Duration::from_mins(1));
    request
}

/// Sends 600 concurrent logins to a gateway with 128 MiB, and expects every session to be
/// delivered.
async fn six_hundred_logins_fit_into_memory(answer: Answer) {
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
    // A connection has at most 100 streams.
    for connection in 0..6 {
        let client = gateway.client().await;
        for call in 0..100 {
            let mut client = client.clone();
            calls.spawn(async move { client.login_with_ott(login(connection * 100 + call)).await });
        }
    }
    // Before the first response, as many logins are sent as fit into memory, less a reserve of six
    // for other callers. The rest wait.
    upstream.wait_for(LOGIN, 38).await;
    admin.wait_for("ott_gateway_calls_in_flight", 600.0).await;
    assert_eq!(upstream.count(LOGIN), 38);
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
    admin.wait_for("ott_gateway_response_memory_reserved_bytes", 0.0).await;
}

/// Without a limit, the bodies take more than 600 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_maximum_size_responses_fits_into_memory() {
    six_hundred_logins_fit_into_memory(large_login()).await;
}

/// Without a limit, the heads take about 90 MiB in addition to 70 MiB for the calls.
#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_maximum_size_response_heads_fits_into_memory() {
    let small = Answer::json(200, r#"{"id":"9b6d2f6e-0f3c-4a53-9c55-0d9c8f1f7d11","login":"a"}"#)
        .header("set-cookie", "session=1; Path=/");
    let value = "x".repeat(4000);
    let large = (0..15).fold(small, |answer, number| answer.header(&format!("x-{number}"), value.clone()));
    six_hundred_logins_fit_into_memory(large).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_login_is_sent_without_memory_for_its_response() {
    let upstream = Upstream::http().await;
    // The bodies never arrive, so the memory stays reserved until the calls are cancelled. These
    // three leave no memory for a fourth call of the same caller.
    let stalled = Answer::json(200, "{").header("content-length", (200 * 1024).to_string());
    upstream.next(LOGIN, stalled.clone()).next(LOGIN, stalled.clone()).next(LOGIN, stalled);
    upstream.always(LOGIN, large_login());
    let gateway = Setup::for_platform(upstream.address())
        .replacing("[server]", "[server]\nmemory_limit = \"48MiB\"")
        .start();
    let admin = Admin(gateway.admin());
    admin.scrape().has(&[("ott_gateway_response_memory_bytes", 2.0 * 1024.0 * 1024.0)]);
    let client = gateway.client().await;
    let mut calls = JoinSet::new();
    for call in 0..3 {
        let mut client = client.clone();
        calls.spawn(async move { client.login_with_ott(login(call)).await });
    }
    // Two copies of the three announced bodies.
    admin.wait_for("ott_gateway_response_memory_reserved_bytes", 1200.0 * 1024.0).await;
    let mut waiting = client.clone();
    let mut request = crate::support::calling::login("waits");
    request.set_timeout(Duration::from_secs(3));
    let status = waiting.login_with_ott(request).await.expect_err("no memory");
    assert_eq!(reason(&status), "OVERLOADED");
    assert_eq!(upstream.count(LOGIN), 3, "the token was not sent");

    calls.shutdown().await;
    let response = waiting.login_with_ott(login(1000)).await.expect("released memory");
    assert!(response.into_inner().user.is_some());
}

/// How a caller that does not read responses blocks the gateway from sending them.
#[derive(Clone, Copy, Debug)]
enum Stall {
    /// With an HTTP/2 window of this size per stream.
    Window(u32),
    /// By not reading the socket.
    Socket,
}

/// The connection of a caller that sends logins and does not read the responses.
struct NonReader {
    driver: JoinHandle<()>,
    stop: Arc<Notify>,
    /// Dropping one would cancel its call.
    _calls: Vec<(ResponseFuture, SendStream<Bytes>)>,
}

impl NonReader {
    /// Sends logins with these tokens.
    async fn send(gateway: &Gateway, stall: Stall, tokens: Range<usize>) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        // Data that fits into the socket buffers counts as sent.
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let stream = socket.connect(gateway.address()).await.expect("the gateway accepts");
        let mut builder = h2::client::Builder::new();
        match stall {
            Stall::Window(size) => builder.initial_window_size(size),
            Stall::Socket => builder.initial_window_size(1 << 24).initial_connection_window_size(1 << 24),
        };
        let (requests, mut connection) = builder.handshake(stream).await.expect("HTTP/2");
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let driver = tokio::spawn(async move {
            tokio::select! {
                _ = &mut connection => {}
                // The connection stays open but is not read.
                () = stopped.notified() => std::future::pending().await,
            }
        });
        let mut calls = Vec::new();
        for token in tokens {
            let mut requests = requests.clone().ready().await.expect("room for a stream");
            let request = http::Request::post("http://gateway/ott.v1.OttService/LoginWithOtt")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("grpc-timeout", "50S")
                .body(())
                .expect("a request");
            let (answer, mut body) = requests.send_request(request, false).expect("sent");
            let message = LoginWithOttRequest { ott: format!("unread-{token}"), ..Default::default() };
            body.send_data(framed(false, &message.encode_to_vec()).into(), true).expect("sent");
            calls.push((answer, body));
        }
        Self { driver, stop, _calls: calls }
    }
}

impl Drop for NonReader {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Checks that callers that do not read cost other callers neither tokens nor a place among those
/// that wait for memory, and that their connections are closed once others need the memory.
async fn non_readers_do_not_affect_others(stall: Stall, connections: usize, logins: usize) {
    let upstream = Upstream::http().await;
    let held = Arc::new(Semaphore::new(0));
    upstream.always(LOGIN, Behaviour::Held(Arc::clone(&held), Box::new(large_login().into())));
    let digest = digest(&SHA256, b"reader-token");
    let token = digest.as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let gateway = Setup::for_platform(upstream.address())
        .replacing("[server]", "[server]\nmemory_limit = \"48MiB\"\nmax_deadline = \"60s\"")
        .replacing("[\"anonymous\"]", "[\"anonymous\", \"token:reader\"]")
        .replacing("[audit]", &format!("[callers.tokens]\nreader = \"sha256:{token}\"\n[audit]"))
        .start();
    let admin = Admin(gateway.admin());

    // Of the four responses that fit into memory, one caller may have three.
    let mut non_readers = Vec::new();
    for connection in 0..connections {
        let tokens = connection * logins..(connection + 1) * logins;
        non_readers.push(NonReader::send(&gateway, stall, tokens).await);
    }
    upstream.wait_for(LOGIN, 3).await;
    let in_flight = u32::try_from(connections * logins).expect("a few");
    admin.wait_for("ott_gateway_calls_in_flight", f64::from(in_flight)).await;
    for connection in &non_readers {
        connection.stop.notify_one();
    }
    held.add_permits(1000);
    // The other caller gets its share of memory at once.
    let client = gateway.client().await;
    let mut calls = JoinSet::new();
    for call in 0..20 {
        let mut client = client.clone();
        let request = with(login(call), "authorization", "Bearer reader-token");
        calls.spawn(async move { client.login_with_ott(request).await });
    }
    while let Some(result) = calls.join_next().await {
        assert!(result.expect("no panic").expect("memory for the response").into_inner().user.is_some());
    }
    // A caller that shares the memory with the non-readers gets some of theirs.
    let mut client = client;
    let response = client.login_with_ott(login(1000)).await.expect("memory of a closed connection");
    assert!(response.into_inner().user.is_some());
    assert!(admin.scrape().value(r#"ott_gateway_connections_ended_total{reason="unread"}"#) >= 1.0);
    assert!(gateway.stderr().text().contains("connection closed to make room"));

    drop(non_readers);
    admin.wait_for("ott_gateway_calls_in_flight", 0.0).await;
    admin.wait_for("ott_gateway_response_memory_reserved_bytes", 0.0).await;
    let uncertain = gateway
        .audit()
        .into_iter()
        .filter(|record| record["outcome"] == "unknown" || record["code"] == "ABORTED");
    assert_eq!(uncertain.count(), 0, "no token is lost");
    let opened = r#"ott_gateway_breaker_state{api_client="test",operation="LoginWithOtt"}"#;
    admin.scrape().has(&[(opened, 0.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_with_a_zero_window_do_not_affect_others() {
    non_readers_do_not_affect_others(Stall::Window(0), 3, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_with_a_small_window_do_not_affect_others() {
    non_readers_do_not_affect_others(Stall::Window(1000), 3, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_do_not_read_their_sockets_do_not_affect_others() {
    non_readers_do_not_affect_others(Stall::Socket, 1, 28).await;
}

//! Calls, with their results as short text that tests compare.

use std::{net::SocketAddr, time::Duration};

use ott_gateway::{
    base::clock,
    proto::ott::v1::{
        IssueOttRequest, LoginWithOttRequest, issue_ott_request::Subject,
        ott_service_client::OttServiceClient,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Request, Status, metadata::MetadataValue, transport::Channel};
use tonic_types::StatusExt;

use super::gateway::PATIENCE;

/// A request for a token for `login`.
pub(crate) fn issue(login: &str) -> Request<IssueOttRequest> {
    let subject = Some(Subject::Login(login.to_owned()));
    let mut request = Request::new(IssueOttRequest { subject, ..IssueOttRequest::default() });
    request.set_timeout(PATIENCE);
    request
}

/// A request to log in with `ott`.
pub(crate) fn login(ott: &str) -> Request<LoginWithOttRequest> {
    let mut request =
        Request::new(LoginWithOttRequest { ott: ott.to_owned(), ..LoginWithOttRequest::default() });
    request.set_timeout(PATIENCE);
    request
}

/// Adds a header to a request.
pub(crate) fn with<T>(mut request: Request<T>, header: &'static str, value: &str) -> Request<T> {
    let value = MetadataValue::try_from(value).expect("a header's value");
    request.metadata_mut().append(header, value);
    request
}

/// Result of a call as short text: `OK`, or code and reason.
pub(crate) fn result_of<T>(answer: &Result<tonic::Response<T>, Status>) -> String {
    match answer {
        Ok(_) => "OK".to_owned(),
        Err(status) => format!("{:?} {}", status.code(), reason(status)),
    }
}

/// The reason in a status; empty if it has none.
pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// Requests a token with these headers, and returns the result as short text.
pub(crate) async fn issued(channel: &Channel, headers: &[(&'static str, &str)]) -> String {
    let mut request = issue("someone@example.com");
    for (name, value) in headers {
        request = with(request, name, value);
    }
    result_of(&OttServiceClient::new(channel.clone()).issue_ott(request).await)
}

/// Sends a GET to the admin listener, and returns status and response.
pub(crate) async fn admin_get(admin: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(admin).await.expect("the admin listener accepts");
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers in UTF-8");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer)
}

/// Value of a metric with exactly these labels; zero if it is missing.
pub(crate) async fn metric(admin: SocketAddr, name: &str) -> f64 {
    let (_, text) = admin_get(admin, "/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().expect("a number"))
}

/// Calls repeatedly until `stop`; every call must succeed. Returns the number of calls.
pub(crate) async fn load(
    client: OttServiceClient<Channel>,
    stop: tokio_util::sync::CancellationToken,
) -> u32 {
    let mut calls = 0;
    while !stop.is_cancelled() {
        let mut client = client.clone();
        let answer = client.issue_ott(issue("load@example.com")).await;
        assert_eq!(result_of(&answer), "OK", "call {calls} of the load");
        calls += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    calls
}

/// Waits until the next write checks that the path still leads to the open audit file. Writes check
/// this unless the last check was less than 100 ms ago.
pub(crate) async fn wait_for_audit_file_check() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// Waits until the closure returns true.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let began = clock::now();
    while !condition().await {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Sends a gRPC request with any path and body on a new connection. Returns code and reason.
pub(crate) async fn by_hand(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (Code, String) {
    let stream = TcpStream::connect(address).await.expect("the gateway accepts");
    let (send, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let driver = tokio::spawn(async move {
        let _ = connection.await;
    });
    let mut request = http::Request::post(format!("http://gateway{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut send = send.ready().await.expect("room for a stream");
    let (answer, mut stream) = send.send_request(request.body(()).expect("a request"), false).expect("sent");
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(body.len()).expect("a short body").to_be_bytes());
    framed.extend_from_slice(body);
    // Fails if the gateway responds before it has read the body.
    let _ = stream.send_data(framed.into(), true);
    let answer = tokio::time::timeout(PATIENCE, answer).await.expect("in time").expect("an answer");
    let mut headers = answer.headers().clone();
    if !headers.contains_key("grpc-status") {
        let mut body = answer.into_body();
        while body.data().await.is_some() {}
        headers = body.trailers().await.expect("trailers").expect("a status");
    }
    driver.abort();
    let status = Status::from_header_map(&headers).expect("a gRPC status");
    (status.code(), reason(&status))
}

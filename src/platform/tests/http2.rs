//! HTTP/2: which streams a peer has not processed, according to its frames.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::server::TlsStream;

use super::fixture::*;
use crate::credential::Credential;

const ISSUED: &str = r#"{"ott":"OTT-1"}"#;
const ACCOUNT: &str = r#"{"id":"42","login":"john"}"#;

/// Returns a client of a TLS server that supports only HTTP/2 and passes each connection, with its
/// number from 0, to `serve`.
async fn client_of_server<F, Served>(serve: F) -> ApiClient
where
    F: Fn(usize, TlsStream<TcpStream>) -> Served + Send + 'static,
    Served: Future<Output = ()> + Send + 'static,
{
    let tls = Tls::new("localhost", false, &["h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let client = client_of(&url, Some(&tls.ca_file), quick(), Credential::for_test());
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = tls.acceptor.accept(stream).await.unwrap();
            tokio::spawn(serve(number, stream));
        }
    });
    client
}

/// Returns a client of a server that reads whole requests, refuses the first `refusals` streams and
/// answers the rest.
async fn client_of_refusing_server(refusals: usize) -> (ApiClient, Arc<AtomicUsize>) {
    client_of_resetting_server(refusals, h2::Reason::REFUSED_STREAM).await
}

/// The same with another reason.
async fn client_of_resetting_server(resets: usize, reason: h2::Reason) -> (ApiClient, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let client = client_of_server(move |_, stream| {
        let asked = Arc::clone(&counted);
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let asked = Arc::clone(&asked);
                tokio::spawn(async move {
                    let path = request.uri().path().to_owned();
                    let mut body = request.into_body();
                    while let Some(chunk) = body.data().await {
                        assert!(!chunk.unwrap().is_empty());
                    }
                    if asked.fetch_add(1, Ordering::SeqCst) < resets {
                        respond.send_reset(reason);
                        return;
                    }
                    let head = ::http::Response::builder().header("content-type", "application/json");
                    let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
                    let answer = if path == LOGIN { ACCOUNT } else { ISSUED };
                    stream.send_data(Bytes::from_static(answer.as_bytes()), true).unwrap();
                });
            }
        }
    })
    .await;
    (client, asked)
}

/// It has `:authority` instead, and a server could compare the two.
#[tokio::test]
async fn no_request_has_a_host() {
    let hosts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&hosts);
    let client = client_of_server(move |_, stream| {
        let hosts = Arc::clone(&counted);
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                hosts.fetch_add(request.headers().get_all("host").iter().count(), Ordering::SeqCst);
                assert!(request.uri().authority().is_some());
                let head = ::http::Response::builder().header("content-type", "application/json");
                let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
                stream.send_data(Bytes::from_static(ISSUED.as_bytes()), true).unwrap();
            }
        }
    })
    .await;
    for _ in 0..3 {
        issue(&client, &call()).await.unwrap();
    }
    assert_eq!(hosts.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn request_on_a_refused_stream_is_sent_again() {
    let (client, asked) = client_of_refusing_server(1).await;
    let call = call();
    assert_eq!(issue(&client, &call).await.unwrap().ott.expose(), "OTT-1");
    assert_eq!((asked.load(Ordering::SeqCst), call.attempts(), call.certainty()), (2, 2, Certainty::Done));
}

#[tokio::test]
async fn login_on_a_refused_stream_is_sent_again() {
    let (client, asked) = client_of_refusing_server(1).await;
    let call = call();
    log_in(&client, "OTT-1", &call).await.unwrap();
    assert_eq!((asked.load(Ordering::SeqCst), call.attempts()), (2, 2));
}

#[tokio::test]
async fn login_refused_twice_was_not_sent() {
    let (client, asked) = client_of_refusing_server(2).await;
    let call = call();
    let error = log_in(&client, "OTT-1", &call).await.unwrap_err();
    assert!(matches!(error.kind, PlatformError::Unreachable(_)), "{error:?}");
    assert_eq!((error.certainty, call.certainty()), (Certainty::NotSent, Certainty::NotSent));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    log_in(&client, "OTT-1", &self::call()).await.unwrap();
}

/// Every code of RFC 9113, and some undefined ones.
fn reasons() -> impl Iterator<Item = h2::Reason> {
    (0..=15).chain([0xff, u32::MAX]).map(h2::Reason::from)
}

/// Only `REFUSED_STREAM` proves that the request was not processed (RFC 9113, 8.7).
#[tokio::test]
async fn login_on_a_stream_reset_for_another_reason_is_not_repeated() {
    for reason in reasons().filter(|reason| *reason != h2::Reason::REFUSED_STREAM) {
        let (client, asked) = client_of_resetting_server(1, reason).await;
        let call = call();
        let error = log_in(&client, "OTT-1", &call).await.unwrap_err();
        assert!(matches!(error.kind, PlatformError::Interrupted(_)), "{reason:?}: {error:?}");
        assert_eq!((error.certainty, call.attempts()), (Certainty::Unknown, 1), "{reason:?}");
        assert_eq!(asked.load(Ordering::SeqCst), 1, "{reason:?}");
        log_in(&client, "OTT-2", &self::call()).await.unwrap();
    }
}

/// A peer that has started to respond has processed the request, even if it reports that it has
/// not. `NO_ERROR` is excluded, because it ends a complete response (RFC 9113, 8.1).
#[tokio::test]
async fn login_on_a_stream_reset_after_the_response_head_is_not_repeated() {
    for reason in reasons().filter(|reason| *reason != h2::Reason::NO_ERROR) {
        let [r0, r1, r2, r3] = u32::from(reason).to_be_bytes();
        // HEADERS with `:status: 200`, then RST_STREAM.
        let frames = [0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88, 0, 0, 4, 3, 0, 0, 0, 0, 1, r0, r1, r2, r3].to_vec();
        let (error, attempts, connections) = log_in_answered_by(frames).await;
        assert!(matches!(error.kind, PlatformError::Interrupted(_)), "{reason:?}: {error:?}");
        assert_eq!((error.certainty, attempts, connections), (Certainty::Unknown, 1, 1), "{reason:?}");
    }
}

/// Reads a whole request manually, and responds with these frames.
async fn answer_by_hand(mut stream: TlsStream<TcpStream>, frames: Vec<u8>) {
    const PREFACE: usize = 24;
    const HEAD: usize = 9;
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let mut preface = [0; PREFACE];
    stream.read_exact(&mut preface).await.unwrap();
    loop {
        let mut head = [0; HEAD];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await.unwrap();
        let (is_data, ends_stream) = (head[3] == 0, head[4] & 1 == 1);
        if is_data && ends_stream {
            break;
        }
    }
    stream.write_all(&frames).await.unwrap();
    stream.flush().await.unwrap();
    stream.shutdown().await.unwrap();
}

async fn log_in_answered_by(frames: Vec<u8>) -> (Failed, u32, usize) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let client = client_of_server(move |_, stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        answer_by_hand(stream, frames.clone())
    })
    .await;
    let call = call();
    let error = log_in(&client, "OTT-1", &call).await.unwrap_err();
    (error, call.attempts(), connections.load(Ordering::SeqCst))
}

/// Logs in at a server that sends a GOAWAY with `last_stream` as the last stream that may have been
/// processed.
async fn log_in_under_go_away(last_stream: u8, reason: h2::Reason) -> (Failed, u32, usize) {
    let [r0, r1, r2, r3] = u32::from(reason).to_be_bytes();
    let frame = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last_stream, r0, r1, r2, r3];
    log_in_answered_by(frame.to_vec()).await
}

#[tokio::test]
async fn login_beyond_the_last_stream_of_a_goaway_was_not_sent() {
    let (error, attempts, connections) = log_in_under_go_away(0, h2::Reason::NO_ERROR).await;
    assert!(matches!(error.kind, PlatformError::Unreachable(_)), "{error:?}");
    assert_eq!((error.certainty, attempts, connections), (Certainty::NotSent, 2, 2));
}

#[tokio::test]
async fn login_within_the_last_stream_of_a_goaway_has_an_unknown_outcome() {
    for reason in reasons() {
        let (error, attempts, connections) = log_in_under_go_away(1, reason).await;
        assert!(matches!(error.kind, PlatformError::Interrupted(_)), "{reason:?}: {error:?}");
        assert_eq!((error.certainty, attempts, connections), (Certainty::Unknown, 1, 1), "{reason:?}");
    }
}

/// The HTTP library does not report which streams the GOAWAY of an error covers.
#[tokio::test]
async fn login_at_a_goaway_with_an_error_has_an_unknown_outcome() {
    for reason in reasons().filter(|reason| *reason != h2::Reason::NO_ERROR) {
        let (error, attempts, connections) = log_in_under_go_away(0, reason).await;
        assert!(matches!(error.kind, PlatformError::Interrupted(_)), "{reason:?}: {error:?}");
        assert_eq!((error.certainty, attempts, connections), (Certainty::Unknown, 1, 1), "{reason:?}");
    }
}

//! Records the first bytes that a server sends, to detect a protocol other than gRPC.
//!
//! For another protocol, the errors of the HTTP and TLS libraries depend on the order of writes and
//! reads. The first bytes do not, so they are kept for [`Protocol`].

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Response, Uri, header::CONTENT_TYPE};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::timeout_at,
};
use tonic::{body::Body, transport::Channel};
use tower::Service;

use crate::base::clock::{self, Instant};

type ConnectError = <HttpConnector as Service<Uri>>::Error;

/// Maximum number of bytes kept: enough for the status line of an HTTP/1 response.
const MAX_KEPT: usize = 256;
/// Upper bound on each step of [`probe`].
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The connection preface of a client (RFC 9113, 3.4), with an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A TLS record with an empty `ClientHello` (RFC 8446, 4.1.2), which a TLS server answers with an
/// alert.
const EMPTY_HELLO: &[u8] = b"\x16\x03\x01\0\x04\x01\0\0\0";

/// The data received on a connection. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Wire(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    is_connected: bool,
    first: Vec<u8>,
    foreign: Option<ForeignResponse>,
}

/// A response over HTTP/2 that is not a gRPC response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ForeignResponse {
    pub(super) status: http::StatusCode,
    pub(super) content_type: Option<String>,
}

/// The protocol of the first bytes that a port sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Nothing was sent.
    Silent,
    /// A TLS record.
    Tls,
    /// HTTP/1, with the status line.
    Http1(String),
    /// HTTP/2.
    Http2,
    /// Anything else.
    Other,
}

impl Protocol {
    fn of(first: &[u8]) -> Self {
        match first {
            [] => Self::Silent,
            // The type of a record, and the major version (RFC 8446, 5.1).
            [0x14..=0x17, 3, ..] => Self::Tls,
            // The first frame is SETTINGS, or GOAWAY, of the whole connection (RFC 9113, 3.4).
            [_, _, _, 4 | 7, _, 0, 0, 0, 0, ..] => Self::Http2,
            first if first.starts_with(b"HTTP/") => {
                let text = String::from_utf8_lossy(first);
                Self::Http1(text.lines().next().unwrap_or_default().chars().take(80).collect())
            }
            _ => Self::Other,
        }
    }
}

impl Wire {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether a TCP connection was established.
    pub(super) fn is_connected(&self) -> bool {
        self.seen().is_connected
    }

    pub(super) fn protocol(&self) -> Protocol {
        Protocol::of(&self.seen().first)
    }

    pub(super) fn foreign_response(&self) -> Option<ForeignResponse> {
        self.seen().foreign.clone()
    }

    /// Returns a connector like that of the client library, which records received data.
    pub(in crate::cli) fn connector(
        &self,
        limit: Duration,
    ) -> impl Service<
        Uri,
        Response = TokioIo<Recorded<TcpStream>>,
        Error = ConnectError,
        Future: Future<Output = Result<TokioIo<Recorded<TcpStream>>, ConnectError>> + Send,
    > + Send
    + 'static {
        let wire = self.clone();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(limit));
        tower::service_fn(move |uri: Uri| {
            let (connecting, wire) = (http.call(uri), wire.clone());
            async move {
                let stream = connecting.await?.into_inner();
                *wire.seen() = Seen { is_connected: true, ..Seen::default() };
                Ok(TokioIo::new(Recorded { stream, wire }))
            }
        })
    }
}

/// A request that every HTTP/1 server answers (RFC 9112, 3.2.4).
const HTTP1_REQUEST: &[u8] = b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// Sends an HTTP/2 preface without TLS, and returns the protocol of the response.
pub(super) async fn probe(address: &(String, u16), until: Instant) -> Protocol {
    answer_to(PREFACE, address, until).await
}

/// Returns whether the port responds like a TLS server. Many TLS ports answer a client without TLS
/// in HTTP/1, or not at all.
pub(super) async fn speaks_tls(address: &(String, u16), until: Instant) -> bool {
    answer_to(EMPTY_HELLO, address, until).await == Protocol::Tls
}

/// Returns the status line with which the port responds to an HTTP/1 request; `None` if it does not
/// respond in HTTP/1.
pub(super) async fn speaks_http1(address: &(String, u16), until: Instant) -> Option<String> {
    match answer_to(HTTP1_REQUEST, address, until).await {
        Protocol::Http1(line) => Some(line),
        _ => None,
    }
}

async fn answer_to(sent: &[u8], (host, port): &(String, u16), until: Instant) -> Protocol {
    if clock::now() >= until {
        return Protocol::Silent;
    }
    let end_of_step = || until.min(clock::now() + PROBE_TIMEOUT);
    let asked = async {
        let mut stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.write_all(sent).await?;
        Ok::<_, io::Error>(stream)
    };
    let Ok(Ok(mut stream)) = timeout_at(end_of_step(), asked).await else { return Protocol::Silent };
    let mut first = Vec::with_capacity(MAX_KEPT);
    // A server with another protocol may wait for more. The bytes sent until the timeout are enough.
    let _ = timeout_at(end_of_step(), async {
        while first.len() < MAX_KEPT
            && matches!(Protocol::of(&first), Protocol::Silent | Protocol::Other)
            && stream.read_buf(&mut first).await.is_ok_and(|count| count > 0)
        {}
    })
    .await;
    Protocol::of(&first)
}

/// A connection that records the first bytes it receives.
#[derive(Debug)]
pub(in crate::cli) struct Recorded<S> {
    stream: S,
    wire: Wire,
}

impl<S: AsyncRead + Unpin> AsyncRead for Recorded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let received = buffer.filled().get(before..).unwrap_or_default();
        let mut seen = self.wire.seen();
        let room = MAX_KEPT - seen.first.len().min(MAX_KEPT);
        seen.first.extend_from_slice(received.get(..room).unwrap_or(received));
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Recorded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A channel that records a non-gRPC response before the client library interprets it.
#[derive(Clone, Debug)]
pub(in crate::cli) struct GrpcChannel {
    pub(super) channel: Channel,
    pub(super) wire: Wire,
}

impl Service<Request<Body>> for GrpcChannel {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (answer, wire) = (self.channel.call(request), self.wire.clone());
        Box::pin(async move {
            let response = answer.await?;
            let content_type = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
            if !content_type.is_some_and(|value| value.starts_with(b"application/grpc")) {
                let content_type = content_type
                    .map(|value| String::from_utf8_lossy(value).chars().take(80).collect::<String>());
                wire.seen().foreign = Some(ForeignResponse { status: response.status(), content_type });
            }
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_recognized_by_their_first_bytes() {
        for (first, protocol) in [
            (&b""[..], Protocol::Silent),
            (b"\x15\x03\x03\0\x02\x02\x32", Protocol::Tls),
            (b"\x16\x03\x01\0\x02", Protocol::Tls),
            (b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x80", Protocol::Http2),
            (b"\0\0\x08\x07\0\0\0\0\0", Protocol::Http2),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", Protocol::Http1("HTTP/1.1 400 Bad Request".to_owned())),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Protocol::Other),
            (b"220 mail.example ESMTP\r\n", Protocol::Other),
            (b"\0\0\x06\x04\0\0\0\0\x01", Protocol::Other),
            (b"\0", Protocol::Other),
        ] {
            assert_eq!(Protocol::of(first), protocol, "{first:?}");
        }
    }

    /// The port accepts connections and sends nothing.
    #[tokio::test]
    async fn probes_end_with_the_budget() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ("127.0.0.1".to_owned(), silent.local_addr().unwrap().port());
        tokio::time::pause();
        let start = clock::now();
        let budget = Duration::from_millis(300);
        assert_eq!(probe(&address, start + budget).await, Protocol::Silent);
        assert!(!speaks_tls(&address, start + budget).await);
        assert!(start.elapsed() < 2 * budget, "{:?}", start.elapsed());
    }
}

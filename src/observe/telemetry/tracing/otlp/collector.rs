//! Connection to the collector, and the interpretation of its responses (OTLP specification).

mod protocol;

use std::{io, sync::Arc, time::Duration};

use http::{HeaderMap, Uri};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, trace_service_client::TraceServiceClient,
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Request, Status,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

use self::protocol::ExpectHttp2;
use super::super::{CollectorTls, Settings, TracingError};
use crate::base::text::Excerpt;

/// Maximum size of a response, in bytes: the default of gRPC. A response contains a count and a
/// text.
const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;
/// Maximum length of a text from the collector in log lines, in bytes.
const MAX_TEXT_BYTES: usize = 300;

/// Address and settings of the collector, validated.
#[derive(Clone)]
pub(super) struct Target {
    endpoint: Endpoint,
    address: Address,
    headers: HeaderMap,
    timeout: Duration,
}

/// Address of the collector.
#[derive(Clone)]
struct Address {
    host: Box<str>,
    port: u16,
    tls: Option<Tls>,
}

#[derive(Clone)]
struct Tls {
    name: ServerName<'static>,
    connector: TlsConnector,
    generation: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// A connection to the collector.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Sends batches to the collector.
pub(super) struct Collector {
    target: Target,
    client: TraceServiceClient<Channel>,
    /// Generation of the trusted authorities when the client was created.
    generation: u64,
}

/// Result of sending one batch.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The collector accepted the batch, except for rejected spans.
    Accepted {
        /// Number of rejected spans.
        rejected: u64,
        /// The collector's text; empty if it sent none.
        text: String,
    },
    /// The batch may be sent again.
    Retry {
        /// The delay that the collector asked for.
        after: Option<Duration>,
        /// What failed, for the log.
        cause: String,
    },
    /// Retrying would fail again.
    Refused {
        /// What failed, for the log.
        cause: String,
    },
}

impl Target {
    /// Checks the settings.
    pub(super) fn new(settings: &Settings, tls: Option<&CollectorTls>) -> Result<Self, TracingError> {
        let url = &settings.endpoint;
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(TracingError::Endpoint);
        };
        let tls = match (url.scheme(), tls) {
            ("http", _) => None,
            ("https", Some(tls)) => Some(Tls::new(host, tls)?),
            ("https", None) => return Err(TracingError::Tls),
            _ => return Err(TracingError::Endpoint),
        };
        // Always "http", because our own connector sets up TLS.
        let endpoint = Endpoint::from_shared(format!("http://{host}:{port}"))
            .map_err(|_| TracingError::Endpoint)?
            .connect_timeout(settings.attempt_timeout);
        let endpoint = match tls {
            Some(_) => endpoint.origin(url.as_str().parse().map_err(|_| TracingError::Endpoint)?),
            None => endpoint,
        };
        let address = Address { host: host.trim_matches(['[', ']']).into(), port, tls };
        Ok(Self { endpoint, address, headers: settings.headers.clone(), timeout: settings.attempt_timeout })
    }

    /// Prepares the connection, which is opened when the first batch is sent. Must be called on the
    /// runtime of the connection.
    pub(super) fn connect_lazy(self) -> Collector {
        // Read before the client exists, so that the client never counts as one of a later
        // generation.
        let generation = self.generation();
        Collector { client: self.client(), generation, target: self }
    }

    fn client(&self) -> TraceServiceClient<Channel> {
        let address = self.address.clone();
        let channel = self.endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let address = address.clone();
            async move { address.connect().await }
        }));
        TraceServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    fn generation(&self) -> u64 {
        self.address.tls.as_ref().map_or(0, |tls| (tls.generation)())
    }
}

impl Tls {
    fn new(host: &str, tls: &CollectorTls) -> Result<Self, TracingError> {
        let host = host.trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TracingError::Endpoint)?;
        let mut config = ClientConfig::clone(&tls.config);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let generation = Arc::clone(&tls.generation);
        Ok(Self { name, connector: TlsConnector::from(Arc::new(config)), generation })
    }
}

impl Address {
    async fn connect(self) -> io::Result<TokioIo<ExpectHttp2<Box<dyn Stream>>>> {
        let stream = TcpStream::connect((&*self.host, self.port)).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match self.tls {
            None => Box::new(stream),
            Some(tls) => Box::new(tls.connector.connect(tls.name, stream).await?),
        };
        Ok(TokioIo::new(ExpectHttp2::new(stream)))
    }
}

impl Collector {
    /// Sends a batch once.
    pub(super) async fn send(&mut self, batch: ExportTraceServiceRequest) -> Outcome {
        let generation = self.target.generation();
        if generation != self.generation {
            // The connection may be to a server whose authority is no longer trusted.
            (self.client, self.generation) = (self.target.client(), generation);
        }
        let Target { headers, timeout, .. } = &self.target;
        let mut request = Request::new(batch);
        *request.metadata_mut() = MetadataMap::from_headers(headers.clone());
        match tokio::time::timeout(*timeout, self.client.export(request)).await {
            Err(_elapsed) => Outcome::Retry { after: None, cause: format!("no response within {timeout:?}") },
            Ok(Err(status)) => refused(&status),
            Ok(Ok(response)) => {
                let partial = response.into_inner().partial_success.unwrap_or_default();
                Outcome::Accepted {
                    rejected: u64::try_from(partial.rejected_spans).unwrap_or_default(),
                    text: printable(&partial.error_message),
                }
            }
        }
    }
}

/// Classifies a failure (OTLP specification, "Failures": which gRPC codes are retryable).
fn refused(status: &Status) -> Outcome {
    let after = status
        .check_error_details()
        .ok()
        .and_then(|details| details.retry_info().and_then(|retry| retry.retry_delay));
    let retryable = match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        // Only retryable with RetryInfo.
        Code::ResourceExhausted => after.is_some(),
        _ => false,
    };
    let mut cause = format!("{:?}: {}", status.code(), printable(status.message()));
    // The text of the transport is only "transport error"; the cause is in its sources.
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let text = printable(&error.to_string());
        if !cause.contains(&text) {
            cause = format!("{cause}: {text}");
        }
        source = error.source();
    }
    if retryable { Outcome::Retry { after, cause } } else { Outcome::Refused { cause } }
}

/// Returns the beginning of a text from the collector, on one line.
fn printable(text: &str) -> String {
    Excerpt(text.trim(), MAX_TEXT_BYTES).to_string()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn server_with_a_different_protocol_is_reported_with_its_protocol() {
        for (answer, expected) in [
            (
                &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
                "the server responded with HTTP/1.1; OTLP over gRPC needs HTTP/2, usually on port 4317",
            ),
            (b"\x15\x03\x01\x00\x02\x02\x46", "the server responded with TLS; use https"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let url = format!("http://{}", listener.local_addr().expect("an address"));
            let answering = tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let _ = stream.write_all(answer).await;
                    let _ = stream.read(&mut [0; 1024]).await;
                }
            });
            let settings = Settings::new(url.parse().expect("a URL"));
            let mut collector = Target::new(&settings, None).expect("a target").connect_lazy();
            let (Outcome::Retry { cause, .. } | Outcome::Refused { cause }) =
                collector.send(ExportTraceServiceRequest::default()).await
            else {
                panic!("it is not a collector");
            };
            assert!(cause.contains(expected), "{cause}");
            answering.abort();
        }
    }

    #[test]
    fn text_of_the_collector_is_escaped_once_and_truncated() {
        assert_eq!(printable(" \"one\"\ntwo\u{1b}[31m\u{202e} "), "\"one\"\\ntwo\\u{1b}[31m\\u{202e}");
        assert_eq!(printable(&"x".repeat(300)), "x".repeat(300));
        assert_eq!(printable(&"x".repeat(301)), format!("{}… [cut, 301 bytes in all]", "x".repeat(300)));
        assert_eq!(printable(""), "");
    }
}

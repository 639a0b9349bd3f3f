//! Server-side TLS handshakes, and the reasons for their failures.

use std::{io, net::SocketAddr, time::Duration};

use rustls::{CertificateError, InvalidMessage, server::Acceptor};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, server::TlsStream};

use super::{
    super::http1_refusal::{self, Unserved},
    Current, HTTP2, Trust,
    turns::Turns,
};
use crate::{
    base::{clock, pki},
    caller::Peer,
    observe::telemetry::metrics::{Metrics, SecurityEvent, TlsFailure},
};

/// Completes the handshakes of one worker.
#[derive(Clone, Debug)]
pub(in crate::server) struct Handshakes {
    current: Current,
    turns: Turns,
    timeout: Duration,
    metrics: Metrics,
}

/// Error of a handshake.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("no complete ClientHello within {0:?}")]
    NoClientHello(Duration),
    #[error("not completed within {0:?}")]
    Timeout(Duration),
    #[error("the client did not choose HTTP/2 (ALPN protocol h2)")]
    NoAlpn,
    #[error("{}", pki::explain(.0, pki::Peer::Client))]
    Tls(rustls::Error),
    #[error("connection failed: {0}")]
    Io(io::Error),
}

impl Handshakes {
    /// Creates the handshakes of one worker. A handshake that takes longer than `timeout` fails.
    pub(in crate::server) fn new(current: Current, timeout: Duration, metrics: Metrics) -> Self {
        Self { current, turns: Turns::new(), timeout, metrics }
    }

    /// Completes a handshake. Returns the secured connection, its peer and the trust in the peer's
    /// certificate, or `None` if the handshake failed. Counts and logs failures.
    pub(in crate::server) async fn complete(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Option<(TlsStream<TcpStream>, Peer, Trust)> {
        // Subscribed before the configuration is loaded, so that no change in between is missed.
        let verifiers = self.current.verifiers();
        match self.secure(stream).await {
            Ok(stream) => {
                let (_, session) = stream.get_ref();
                let certificates = session.peer_certificates().unwrap_or_default();
                let (peer, trust) = (Peer::tls(address, certificates), Trust::new(certificates, verifiers));
                self.metrics.tls_handshake_completed();
                Some((stream, peer, trust))
            }
            Err(error) => {
                let failure = error.kind();
                self.metrics.tls_handshake_failed(failure);
                if failure == TlsFailure::Timeout {
                    self.metrics.security_event(SecurityEvent::SlowHandshake);
                }
                tracing::info!(
                    peer.address = %address,
                    tls.failure = failure.as_str(),
                    %error,
                    "TLS handshake failed"
                );
                None
            }
        }
    }

    async fn secure(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, HandshakeError> {
        let deadline: Instant = clock::now() + self.timeout;
        // Costs almost nothing until the ClientHello is complete, so a peer that sends none takes
        // no turn.
        let hello = timeout_at(deadline, client_hello(stream))
            .await
            .map_err(|_elapsed| HandshakeError::NoClientHello(self.timeout))??;
        let handshake = self.turns.run(async { hello.into_stream(self.current.load()).await });
        let mut stream = timeout_at(deadline, handshake)
            .await
            .map_err(|_elapsed| HandshakeError::Timeout(self.timeout))??;
        if stream.get_ref().1.alpn_protocol() == Some(HTTP2) {
            return Ok(stream);
        }
        // The client chose HTTP/1.1 or uses no ALPN; in practice, clients without ALPN are HTTP/1.1
        // clients too.
        http1_refusal::refuse(&mut stream, Unserved::NotHttp2).await;
        Err(HandshakeError::NoAlpn)
    }
}

/// Waits for a `ClientHello`. An HTTP client that was not configured for TLS gets a response.
async fn client_hello(mut stream: TcpStream) -> Result<StartHandshake<TcpStream>, HandshakeError> {
    let mut first = [0; 1];
    // Peeked before the TLS library reads it, which would answer other bytes with an alert at once.
    let length = stream.peek(&mut first).await?;
    if http1_refusal::looks_like(&first[..length]) {
        http1_refusal::refuse(&mut stream, Unserved::NotTls).await;
        return Err(HandshakeError::Tls(InvalidMessage::InvalidContentType.into()));
    }
    Ok(LazyConfigAcceptor::new(Acceptor::default(), stream).await?)
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(rustls::Error::NoApplicationProtocol) => Self::NoAlpn,
            Ok(error) => Self::Tls(error),
            Err(error) => Self::Io(error),
        }
    }
}

impl HandshakeError {
    const fn kind(&self) -> TlsFailure {
        match self {
            Self::NoClientHello(_) | Self::Timeout(_) => TlsFailure::Timeout,
            Self::NoAlpn => TlsFailure::NoAlpn,
            Self::Tls(error) => tls_failure(error),
            Self::Io(_) => TlsFailure::Disconnected,
        }
    }
}

const fn tls_failure(error: &rustls::Error) -> TlsFailure {
    use rustls::Error;
    match error {
        Error::NoCertificatesPresented => TlsFailure::NoCertificate,
        Error::InvalidCertificate(error) => match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                TlsFailure::CertificateExpired
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                TlsFailure::CertificateNotYetValid
            }
            CertificateError::UnknownIssuer => TlsFailure::UnknownCa,
            _ => TlsFailure::BadCertificate,
        },
        Error::AlertReceived(_) => TlsFailure::RejectedByClient,
        Error::PeerIncompatible(_) => TlsFailure::Incompatible,
        Error::InvalidMessage(_) => TlsFailure::NotTls,
        _ => TlsFailure::ProtocolError,
    }
}

//! TLS on the listener: the certificate in use, and handshakes with it.
//!
//! TLS 1.2 and 1.3, and nothing but HTTP/2 behind it. What a client certificate proves
//! is not decided here.

mod expiry;
mod files;
mod reload;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::{net::TcpStream, sync::Semaphore, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

pub use self::files::TlsError;
pub(super) use self::reload::Reload;
use crate::{caller::Peer, telemetry::metrics::Metrics};

/// The protocol that a client must choose.
const HTTP2: &[u8] = b"h2";

/// Where certificate and key lie, and what clients must show.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The certificate chain, PEM, the server's own certificate first.
    pub certificate_file: PathBuf,
    /// The certificate's private key, PEM (PKCS #8, PKCS #1 or SEC 1).
    pub private_key_file: PathBuf,
    /// Whether clients show certificates.
    pub client_auth: ClientAuth,
    /// How often the files are looked at. A change is taken over when two looks in a
    /// row see the same, so after at most twice this time; 3 s keeps it below 10 s.
    pub poll_interval: Duration,
}

/// Whether clients show certificates.
#[derive(Clone, Debug)]
pub enum ClientAuth {
    /// They are not asked to.
    Off,
    /// They may; a certificate that is shown must be valid.
    Optional {
        /// The certificates that sign those of clients, PEM.
        ca_file: PathBuf,
    },
    /// They must.
    Require {
        /// The certificates that sign those of clients, PEM.
        ca_file: PathBuf,
    },
}

impl ClientAuth {
    fn ca_file(&self) -> Option<&PathBuf> {
        match self {
            Self::Off => None,
            Self::Optional { ca_file } | Self::Require { ca_file } => Some(ca_file),
        }
    }
}

/// The configuration that new handshakes use. Cheap to clone; all clones change
/// together.
#[derive(Clone, Debug)]
pub(super) struct Current(Arc<ArcSwap<ServerConfig>>);

impl Current {
    fn new(config: Arc<ServerConfig>) -> Self {
        Self(Arc::new(ArcSwap::new(config)))
    }

    /// Takes effect for handshakes that begin from now on; connections are not touched.
    fn replace(&self, config: Arc<ServerConfig>) {
        self.0.store(config);
    }
}

/// Makes handshakes, so many at once and each within a time.
#[derive(Clone, Debug)]
pub(super) struct Handshakes {
    current: Current,
    turns: Arc<Semaphore>,
    time: Duration,
    metrics: Metrics,
}

impl Handshakes {
    pub(super) fn new(current: Current, at_once: usize, time: Duration, metrics: Metrics) -> Self {
        Self { current, turns: Arc::new(Semaphore::new(at_once)), time, metrics }
    }

    /// The secured connection and who is at its other end; `None` if the handshake
    /// failed or took too long.
    pub(super) async fn complete(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Option<(TlsStream<TcpStream>, Peer)> {
        let handshake = async {
            // The semaphore is never closed.
            let _turn = self.turns.acquire().await;
            TlsAcceptor::from(self.current.0.load_full()).accept(stream).await
        };
        let stream = match timeout(self.time, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.metrics.tls_handshake("failed");
                tracing::debug!(peer.address = %address, %error, "a TLS handshake failed");
                return None;
            }
            Err(_elapsed) => {
                self.metrics.tls_handshake("timeout");
                self.metrics.security_event("slow_handshake");
                tracing::debug!(peer.address = %address, "a TLS handshake took too long");
                return None;
            }
        };
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(HTTP2) {
            self.metrics.tls_handshake("no_alpn");
            tracing::debug!(peer.address = %address, "a TLS client did not choose HTTP/2");
            return None;
        }
        let peer = Peer::tls(address, session.peer_certificates().unwrap_or_default());
        self.metrics.tls_handshake("ok");
        Some((stream, peer))
    }
}

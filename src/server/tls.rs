//! TLS on the listener: the certificate in use, and handshakes with it.
//!
//! Accepts TLS 1.2 and 1.3, and only HTTP/2 over it. `caller` derives an identity from the client
//! certificate.

mod current;
mod expiry;
mod files;
mod handshake;
mod reload;
mod trust;
mod turns;

use std::{path::PathBuf, time::Duration};

use self::current::Current;
pub use self::files::TlsError;
pub(super) use self::{handshake::Handshakes, reload::Reload, trust::Trust};

/// The protocol that clients must choose by ALPN.
const HTTP2: &[u8] = b"h2";
/// Offered so that HTTP/1.1 clients get a response with an explanation instead of a TLS alert.
/// Clients that support HTTP/2 choose HTTP/2.
const HTTP1: &[u8] = b"http/1.1";

/// Paths of certificate and key, and whether clients present certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `certificate_file`: the certificate chain, PEM, the server's own certificate first.
    pub certificate_file: PathBuf,
    /// `private_key_file`: the certificate's private key, PEM (PKCS #8, PKCS #1 or SEC 1).
    pub private_key_file: PathBuf,
    /// `client_auth` and `client_ca_file`: whether clients present certificates; "require" if there
    /// is a `client_ca_file`.
    pub client_auth: ClientAuth,
    /// Time between two polls of the files. A change takes effect when two successive polls see it,
    /// so after at most twice this time; with 3 s, within 10 s.
    pub poll_interval: Duration,
}

/// Whether clients present certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Clients are not asked for a certificate.
    Off,
    /// Clients may present a certificate, which must then be valid.
    Optional {
        /// The authorities of client certificates, PEM.
        ca_file: PathBuf,
    },
    /// Clients must present a valid certificate.
    Require {
        /// The authorities of client certificates, PEM.
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

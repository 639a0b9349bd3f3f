//! TLS on the listener: the certificate in use, and handshakes with it.
//!
//! TLS 1.2 and 1.3, and nothing but HTTP/2 behind it. What a client certificate proves
//! is not decided here.

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
/// Offered so that HTTP/1.1 clients can be answered what the port speaks, instead of with a TLS
/// alert. Clients that also speak HTTP/2 choose that.
const HTTP1: &[u8] = b"http/1.1";

/// Where certificate and key lie, and what clients must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `certificate_file`: the certificate chain, PEM, the server's own certificate first.
    pub certificate_file: PathBuf,
    /// `private_key_file`: the certificate's private key, PEM (PKCS #8, PKCS #1 or SEC 1).
    pub private_key_file: PathBuf,
    /// `client_auth` and `client_ca_file`: whether clients show certificates; "require" if there is
    /// a `client_ca_file`.
    pub client_auth: ClientAuth,
    /// Time between two polls of the files. A change is taken over when two successive polls
    /// see it, so after at most twice this time: 3 s keeps it below 10 s.
    pub poll_interval: Duration,
}

/// Whether clients show certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
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

//! Who is calling, proven by the transport or by a credential, never by the message.

use std::{net::SocketAddr, sync::Arc};

use http::HeaderMap;
use rustls::pki_types::CertificateDer;

/// A caller, and how its name was proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    name: Arc<str>,
    proof: Proof,
}

/// How a caller's name was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proof {
    /// Not at all.
    None,
    /// By a client certificate.
    Certificate,
    /// By a JSON web token.
    Jwt,
    /// By a bearer token.
    Token,
    /// By a proxy that is trusted to tell.
    Forwarded,
}

impl Proof {
    /// The word for records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Certificate => "certificate",
            Self::Jwt => "jwt",
            Self::Token => "token",
            Self::Forwarded => "forwarded",
        }
    }
}

impl Caller {
    /// The caller that nothing is known of.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { name: Arc::from("anonymous"), proof: Proof::None }
    }

    /// A caller that nobody has identified, to test what comes after.
    #[cfg(test)]
    pub(crate) fn for_test(name: &str, proof: Proof) -> Self {
        Self { name: Arc::from(name), proof }
    }

    /// The caller's name, which says how it was proven: `spiffe://…`, `dns:NAME`,
    /// `jwt:SUBJECT`, `token:NAME` or `anonymous`.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How the name was proven.
    #[must_use]
    pub const fn proof(&self) -> Proof {
        self.proof
    }
}

/// The other end of a connection; made once for each connection.
#[derive(Clone, Debug)]
pub struct Peer {
    address: SocketAddr,
}

impl Peer {
    /// A peer on a connection without TLS.
    #[must_use]
    pub fn plaintext(address: SocketAddr) -> Self {
        Self { address }
    }

    /// A peer on a TLS connection; `chain` is its verified certificate chain, empty if
    /// it showed none.
    #[must_use]
    pub fn tls(address: SocketAddr, _chain: &[CertificateDer<'_>]) -> Self {
        Self { address }
    }

    /// Its address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Why a caller was not identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallerError {
    /// A credential was shown and is not valid.
    #[error("the credential is not valid")]
    InvalidCredential,
}

/// Identifies callers, by the kinds of proof that are configured. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Identification {}

impl Identification {
    /// Nobody is ever identified: every caller is anonymous.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Who sent a request with these headers over this connection.
    #[expect(clippy::unused_async, reason = "the signature that the rooms are built against")]
    pub async fn identify(&self, _headers: &HeaderMap, _peer: &Peer) -> Result<Caller, CallerError> {
        Ok(Caller::anonymous())
    }
}

//! Reasons for peers to refuse a certificate that the gateway itself can use.

use std::{fmt, time::SystemTime};

use super::certificate::{Certificate, KeyKind, MIN_RSA_BITS};
use crate::base::validity::{self, State};

/// A warning about one block of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The number of the certificate, counted from 1; for a private key, the number of the block.
    pub number: usize,
    /// The reason.
    pub doubt: Doubt,
}

impl Warning {
    /// Returns whether the warning is about the validity period.
    #[must_use]
    pub const fn is_about_time(&self) -> bool {
        matches!(self.doubt, Doubt::Expired(_) | Doubt::NotYetValid(_))
    }
}

/// Reason for peers to refuse a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The certificate has expired.
    Expired(SystemTime),
    /// The certificate is not valid yet.
    NotYetValid(SystemTime),
    /// The server's certificate has no subjectAltName with a server name.
    NoNames,
    /// The server's certificate is limited to other purposes.
    NotForServers,
    /// The server's certificate is a CA certificate.
    AuthorityAsServer,
    /// The server's key may not be used for signatures.
    NoDigitalSignature,
    /// The certificate has not issued the one before it.
    NotIssuer,
    /// The certificate has not issued the one before it, and is not an authority.
    NotAuthority,
    /// The certificate has issued the one before it, and is not an authority.
    IssuerNotAuthority,
    /// The certificate has issued the one before it, and its key may not sign certificates.
    IssuerMayNotSign,
    /// The certificate has issued the one before it, and is limited to purposes other than servers.
    IssuerNotForServers,
    /// The certificate allows fewer CA certificates below it than the chain contains.
    ChainTooLong(u32),
    /// The chain does not contain the issuer of the server's certificate.
    NoIntermediate,
    /// The server's key is of a kind that `BoringSSL` does not support.
    UnusualKey(KeyKind),
    /// The RSA key is too short; its size in bits.
    ShortRsa(usize),
    /// The signature uses MD5 or SHA-1.
    WeakSignature,
    /// The block is a private key in a file of authorities.
    PrivateKey,
}

/// Returns the doubts about any certificate.
pub(super) fn of_any(certificate: &Certificate, now: SystemTime) -> Vec<Doubt> {
    let validity = certificate.validity();
    let mut doubts = Vec::new();
    match validity.state(now) {
        State::Valid => {}
        State::Expired => doubts.push(Doubt::Expired(validity.not_after)),
        State::NotYetValid => doubts.push(Doubt::NotYetValid(validity.not_before)),
    }
    if let KeyKind::Rsa(bits) = certificate.facts.key
        && bits < MIN_RSA_BITS
    {
        doubts.push(Doubt::ShortRsa(bits));
    }
    // The signature of a root is not verified.
    if certificate.facts.has_weak_signature && !certificate.is_self_issued() {
        doubts.push(Doubt::WeakSignature);
    }
    doubts
}

/// Returns the doubts about an issuer in a server's chain, with `below` issuers between the two.
pub(super) fn of_issuer(issuer: &Certificate, below: usize) -> Vec<Doubt> {
    let facts = &issuer.facts;
    let mut doubts = Vec::new();
    // Clients use their own copy of a root, and do not check its purposes.
    if !issuer.is_self_issued() {
        let constraints = [
            (!facts.is_ca, Doubt::IssuerNotAuthority),
            (facts.is_ca && !facts.may_issue, Doubt::IssuerMayNotSign),
            (facts.is_ca && !facts.may_serve, Doubt::IssuerNotForServers),
        ];
        doubts.extend(constraints.into_iter().filter(|(applies, _)| *applies).map(|(_, doubt)| doubt));
    }
    match facts.max_issuers_below {
        Some(allowed) if (allowed as usize) < below => doubts.push(Doubt::ChainTooLong(allowed)),
        _ => {}
    }
    doubts
}

/// Returns the doubt about a server's key, if any.
pub(super) const fn of_server_key(key: KeyKind) -> Option<Doubt> {
    match key {
        KeyKind::Ed25519 | KeyKind::P521 => Some(Doubt::UnusualKey(key)),
        _ => None,
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, doubt } = self;
        if *doubt == Doubt::PrivateKey {
            return write!(f, "block {number} of the file {doubt}");
        }
        write!(f, "certificate {number} of the file {doubt}")
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired(at) => {
                write!(f, "expired at {}: peers refuse it; renew it", validity::rfc3339(*at))
            }
            Self::NotYetValid(at) => write!(
                f,
                "is not valid before {}: peers refuse it until then; check this machine's clock, or use \
                 the previous certificate",
                validity::rfc3339(*at)
            ),
            Self::NoNames => f.write_str(
                "has no subjectAltName: clients ignore the common name and refuse it; issue it with the \
                 server's DNS names or IP addresses",
            ),
            Self::NotForServers => f.write_str(
                "has an extended key usage without serverAuth: clients refuse it; issue it for servers",
            ),
            Self::AuthorityAsServer => f.write_str(
                "is a CA certificate, used as the server's own: many clients refuse it; issue one for the \
                 server with CA:FALSE",
            ),
            Self::NoDigitalSignature => f.write_str(
                "has a key usage without digitalSignature: clients refuse it; issue it with that usage",
            ),
            Self::NotIssuer => f.write_str(
                "is not the issuer of the certificate before it: clients cannot build the chain; put each \
                 certificate's issuer directly behind it",
            ),
            Self::NotAuthority => f.write_str(
                "is neither a CA certificate nor the issuer of the certificate before it; replace it by \
                 the certificate of the issuer",
            ),
            Self::IssuerNotAuthority => f.write_str(
                "has issued the certificate before it and is not a CA certificate: clients refuse the chain; \
                 use a certificate that an authority has issued",
            ),
            Self::IssuerMayNotSign => f.write_str(
                "has issued the certificate before it and has a key usage without keyCertSign: clients \
                 refuse the chain; issue it with that usage",
            ),
            Self::IssuerNotForServers => f.write_str(
                "has issued the certificate before it and has an extended key usage without serverAuth: \
                 clients refuse the chain; use an authority for servers",
            ),
            Self::ChainTooLong(allowed) => write!(
                f,
                "allows {allowed} CA certificates below it (pathlen), and the chain has more: clients refuse \
                 it; use an authority directly below this one, or issue this one for longer chains"
            ),
            Self::NoIntermediate => f.write_str(
                "comes without the certificate of its issuer: clients that do not have that refuse it; \
                 append the intermediate certificate (often named fullchain.pem by the issuer's tool)",
            ),
            Self::UnusualKey(kind) => write!(
                f,
                "has a key of kind {kind}: gRPC clients in Python, C++, Ruby and PHP cannot connect; use \
                 P-256 or RSA"
            ),
            Self::ShortRsa(bits) => write!(
                f,
                "has an RSA key of {bits} bits: peers refuse less than {MIN_RSA_BITS}; issue it for a \
                 longer key"
            ),
            Self::WeakSignature => {
                f.write_str("is signed with MD5 or SHA-1: peers refuse it; issue it with SHA-256")
            }
            Self::PrivateKey => {
                f.write_str("is a private key, which does not belong in a file of authorities; remove it")
            }
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa(_) => "RSA",
            Self::RsaPss => "RSA-PSS",
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
            Self::OtherCurve => "ECDSA with an uncommon curve",
            Self::Ed25519 => "Ed25519",
            Self::Ed448 => "Ed448",
            Self::Dsa => "DSA",
            Self::Other => "unknown",
        })
    }
}

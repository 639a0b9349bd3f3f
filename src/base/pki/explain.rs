//! Explains TLS failures to operators.
//!
//! The library's texts are meant for its developers: names of enum variants, object identifiers as
//! lists of numbers. Here, each failure has a clause that states the cause and the remedy, followed
//! by the library's name for it in parentheses, if readable. Names in a peer's certificate are
//! shortened, and their unprintable characters are replaced.

use std::{
    fmt::{Debug, Write},
    time::{Duration, SystemTime},
};

use rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, pki_types::UnixTime,
};

use crate::base::validity;

/// The role of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client of the gateway.
    Client,
    /// A server that the gateway connects to.
    Server,
}

/// Maximum number of listed names.
const MAX_NAMES: usize = 5;
/// Maximum number of characters of a listed name.
const MAX_NAME_LENGTH: usize = 100;

/// Returns the cause of a failed handshake with a peer.
#[must_use]
pub fn explain(error: &Error, peer: Peer) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate_of(error, peer),
        Error::AlertReceived(alert) => alert_from(*alert, peer),
        Error::PeerIncompatible(why) => incompatible(why, peer),
        Error::InvalidMessage(why) => not_tls(why, peer),
        Error::NoCertificatesPresented => match peer {
            Peer::Client => "the client sent no certificate, and client_auth requires one".to_owned(),
            Peer::Server => "the server sent no certificate".to_owned(),
        },
        Error::NoApplicationProtocol => {
            format!("{} accepts none of the offered protocols (ALPN)", peer.name())
        }
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            format!("{} sent a TLS message out of order", peer.name())
        }
        Error::PeerMisbehaved(why) => named(format!("{} broke the TLS protocol", peer.name()), why),
        Error::DecryptError => format!("a message of {} cannot be decrypted", peer.name()),
        Error::PeerSentOversizedRecord => format!("{} sent a TLS record that is too large", peer.name()),
        Error::InvalidCertRevocationList(why) => {
            named("a certificate revocation list cannot be used".to_owned(), why)
        }
        other => named("TLS failed".to_owned(), other),
    }
}

/// Returns the reason that the library refuses a certificate in one of our own files.
pub(super) fn certificate(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            match other.0.downcast_ref::<webpki::Error>() {
                Some(error) => named("the TLS library refuses it".to_owned(), error),
                None => "the TLS library refuses it".to_owned(),
            }
        }
        Error::InvalidCertificate(error) => named("the TLS library refuses it".to_owned(), error),
        other => named("the TLS library refuses it".to_owned(), other),
    }
}

impl Peer {
    const fn name(self) -> &'static str {
        match self {
            Self::Client => "the client",
            Self::Server => "the server",
        }
    }
}

fn certificate_of(error: &CertificateError, peer: Peer) -> String {
    let subject = match peer {
        Peer::Client => "the client's certificate",
        Peer::Server => "the server's certificate",
    };
    let (authorities, issuer) = match peer {
        Peer::Client => ("client_ca_file", "the client must also send the intermediate certificates"),
        Peer::Server => ("ca_file", "the server must also send the intermediate certificates"),
    };
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("{subject} expired at {}; renew it", shown(*not_after))
        }
        CertificateError::Expired => format!("{subject} has expired; renew it"),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("{subject} is not valid before {}; check the clock of this machine", shown(*not_before))
        }
        CertificateError::NotValidYet => {
            format!("{subject} is not valid yet; check the clock of this machine")
        }
        CertificateError::UnknownIssuer => format!(
            "{subject} was not issued by an authority that is trusted here; {authorities} must contain that \
             authority, and {issuer} (UnknownIssuer)"
        ),
        CertificateError::BadSignature => format!(
            "{subject} is not signed by the authority of that name; {authorities} may contain an older key \
             of it (BadSignature)"
        ),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let expected = printable(&expected.to_str());
            format!("{subject} is not for the name {expected}; {}", listed(presented))
        }
        CertificateError::NotValidForName => format!("{subject} is not for the name of the server"),
        CertificateError::Revoked => format!("{subject} has been revoked; replace it (Revoked)"),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            let usage = match peer {
                Peer::Client => "clients (extended key usage clientAuth)",
                Peer::Server => "servers (extended key usage serverAuth)",
            };
            format!("{subject} is not for {usage}; issue it for that purpose")
        }
        CertificateError::BadEncoding => format!("{subject} is malformed (BadEncoding)"),
        CertificateError::UnhandledCriticalExtension => {
            format!("{subject} has a critical extension that is not supported (UnhandledCriticalExtension)")
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => format!(
            "{subject}, or one that issued it, is signed with an algorithm that is not supported, such as \
             SHA-1 or MD5; issue it with SHA-256"
        ),
        CertificateError::Other(other) => match other.0.downcast_ref::<webpki::Error>() {
            Some(error) => refused(error, subject, authorities),
            None => named(format!("{subject} cannot be verified"), &other.0),
        },
        other => named(format!("{subject} cannot be verified"), other),
    }
}

/// Explains failures that the TLS library does not map to its own errors.
fn refused(error: &webpki::Error, subject: &str, authorities: &str) -> String {
    use webpki::Error as Refusal;
    match error {
        Refusal::CaUsedAsEndEntity => format!(
            "{subject} is a CA certificate, for example a self-signed one made by `openssl req -x509`; issue \
             one with CA:FALSE (`-addext basicConstraints=CA:FALSE`) (CaUsedAsEndEntity)"
        ),
        Refusal::EndEntityUsedAsCa => format!(
            "{subject} was issued by a certificate that is not a CA certificate; issue that with CA:TRUE \
             (EndEntityUsedAsCa)"
        ),
        Refusal::UnsupportedCertVersion => {
            format!("{subject} is of X.509 version 1; issue it with extensions (UnsupportedCertVersion)")
        }
        Refusal::PathLenConstraintViolated => format!(
            "{subject} has more intermediate certificates than its authority allows (PathLenConstraintViolated)"
        ),
        Refusal::NameConstraintViolation => format!(
            "{subject} has a name that its authority may not issue certificates for (NameConstraintViolation)"
        ),
        Refusal::MaximumPathDepthExceeded
        | Refusal::MaximumPathBuildCallsExceeded
        | Refusal::MaximumSignatureChecksExceeded
        | Refusal::MaximumNameConstraintComparisonsExceeded => named(
            format!(
                "{subject} has too many certificates above it; remove unneeded ones from the chain and {authorities}"
            ),
            error,
        ),
        other => named(format!("{subject} cannot be verified"), other),
    }
}

fn alert_from(alert: AlertDescription, peer: Peer) -> String {
    let clause = match (peer, alert) {
        (Peer::Server, AlertDescription::CertificateRequired) => {
            "the server requires a client certificate, and the gateway has none"
        }
        (Peer::Server, AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity) => {
            "the server found no TLS version, cipher suite or curve in common with the gateway (TLS 1.2 and \
             1.3 with ECDHE), or requires a client certificate"
        }
        (Peer::Client, AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity) => {
            "the client found no cipher suite, curve or signature algorithm in common with the gateway"
        }
        (_, AlertDescription::ProtocolVersion) => "the peer speaks neither TLS 1.2 nor TLS 1.3",
        (Peer::Server, AlertDescription::UnrecognisedName) => "the server does not serve that host name",
        (
            Peer::Server,
            AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked,
        ) => "the server refuses the client's certificate, and the gateway has none; it requires one",
        (Peer::Client, AlertDescription::UnknownCA) => {
            "the client does not trust the authority of the gateway's certificate, or an intermediate \
             certificate is missing from certificate_file"
        }
        (Peer::Client, AlertDescription::CertificateExpired) => {
            "the client considers the gateway's certificate expired or not yet valid; check both clocks"
        }
        (Peer::Client, AlertDescription::CertificateRevoked) => {
            "the client considers the gateway's certificate revoked"
        }
        (
            Peer::Client,
            AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate,
        ) => {
            "the client refuses the gateway's certificate, for example because it is not for the name that \
             the client connects to"
        }
        (_, AlertDescription::NoApplicationProtocol) => {
            "the peer accepts none of the offered protocols (ALPN)"
        }
        (_, AlertDescription::UserCanceled) => "the peer cancelled the handshake",
        (_, AlertDescription::CloseNotify) => "the peer closed the connection",
        (_, AlertDescription::InternalError) => "the peer reported an error of its own",
        (_, AlertDescription::DecryptError | AlertDescription::BadRecordMac) => {
            "the peer could not verify what it received"
        }
        _ => "the peer ended the connection with a TLS alert",
    };
    let clause = clause.replacen("the peer", peer.name(), 1);
    format!(
        "{clause} (alert {}{})",
        u8::from(alert),
        readable(&alert).map_or_else(String::new, |name| format!(" {name}"))
    )
}

fn incompatible(why: &PeerIncompatible, peer: Peer) -> String {
    let missing = match why {
        PeerIncompatible::NoCipherSuitesInCommon => "no cipher suite in common with the gateway",
        PeerIncompatible::NoKxGroupsInCommon | PeerIncompatible::NamedGroupsExtensionRequired => {
            "no curve in common with the gateway"
        }
        PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired => {
            "no signature algorithm for the key of the certificate"
        }
        PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired => "neither TLS 1.2 nor TLS 1.3",
        _ => return named(format!("{} lacks a TLS feature that is required", peer.name()), why),
    };
    named(format!("{} has {missing}", peer.name()), why)
}

fn not_tls(why: &InvalidMessage, peer: Peer) -> String {
    match why {
        InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion => {
            let remedy = match peer {
                Peer::Client => "it must connect with TLS",
                Peer::Server => "check the port and the scheme of the URL",
            };
            named(format!("{} does not speak TLS on this port; {remedy}", peer.name()), why)
        }
        _ => named(format!("{} sent a malformed TLS message", peer.name()), why),
    }
}

/// Appends the library's name of an error, if it is readable.
fn named(clause: String, error: &impl Debug) -> String {
    match readable(error) {
        Some(name) => format!("{clause} ({name})"),
        None => clause,
    }
}

/// Returns the name of an enum variant, without its values. Unknown codes have no name.
fn readable(error: &impl Debug) -> Option<String> {
    let text = format!("{error:?}");
    let name: String = text.chars().take_while(char::is_ascii_alphanumeric).collect();
    let is_name = name.starts_with(|first: char| first.is_ascii_uppercase()) && !name.starts_with("Unknown");
    // `UnknownIssuer` is a name; `Unknown(0x33)` is not.
    (is_name || name.len() > "Unknown".len() && name.starts_with("Unknown")).then_some(name)
}

/// Formats the names in a certificate, which the TLS library returns as `DnsName("a.example")`.
fn listed(presented: &[String]) -> String {
    if presented.is_empty() {
        return "it has no names (subjectAltName), so issue it with the name".to_owned();
    }
    let mut text = String::from("it is for ");
    for (number, name) in presented.iter().take(MAX_NAMES).enumerate() {
        let inside = name.split_once('(').and_then(|(kind, rest)| Some((kind, rest.strip_suffix(')')?)));
        let name = match inside {
            Some(("DnsName" | "IpAddress" | "UniformResourceIdentifier", name)) => {
                printable(name.trim_matches('"'))
            }
            _ => "a name of another kind".to_owned(),
        };
        let separator = if number == 0 { "" } else { ", " };
        let _ = write!(text, "{separator}{name}");
    }
    if presented.len() > MAX_NAMES {
        let _ = write!(text, " and {} more", presented.len() - MAX_NAMES);
    }
    text
}

/// Makes a name chosen by a peer safe for a log line.
fn printable(name: &str) -> String {
    let shown = name.chars().take(MAX_NAME_LENGTH);
    let mut text: String = shown
        .map(|char| if char.is_ascii_graphic() && !matches!(char, '"' | '\\') { char } else { '?' })
        .collect();
    if name.chars().nth(MAX_NAME_LENGTH).is_some() {
        text.push('…');
    }
    text
}

fn shown(time: UnixTime) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()));
    time.map_or_else(|| "an unknown time".to_owned(), validity::rfc3339)
}

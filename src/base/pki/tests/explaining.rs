//! Explanations of TLS failures.

use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, OtherError, PeerIncompatible};

use super::*;

fn other(error: webpki::Error) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

fn is_plain(text: &str) -> bool {
    text.chars().all(|char| !char.is_control() && !matches!(char, '[' | '{' | '"' | '\\'))
        && !text.contains("Other")
        && !text.contains("0x")
}

#[test]
fn common_failures_have_a_cause_and_a_remedy() {
    let presented = vec![
        "DnsName(\"a.example\")".to_owned(),
        "IpAddress(10.0.0.1)".to_owned(),
        "Unsupported(0x01)".to_owned(),
    ];
    let name_mismatch =
        CertificateError::NotValidForNameContext { expected: "eu2.example".try_into().unwrap(), presented };
    let algorithm = CertificateError::UnsupportedSignatureAlgorithmContext {
        signature_algorithm_id: vec![42, 134, 72],
        supported_algorithms: Vec::new(),
    };
    for (error, server, client) in [
        (other(webpki::Error::CaUsedAsEndEntity), "is a CA certificate", "is a CA certificate"),
        (
            name_mismatch.into(),
            "is not for the name eu2.example; it is for a.example, 10.0.0.1, a name of another kind",
            "is not for the name",
        ),
        (algorithm.into(), "signed with an algorithm that is not supported", "not supported"),
        (CertificateError::UnknownIssuer.into(), "ca_file must contain", "client_ca_file must contain"),
        (CertificateError::Expired.into(), "has expired; renew it", "has expired"),
        (CertificateError::Revoked.into(), "has been revoked", "has been revoked"),
        (CertificateError::InvalidPurpose.into(), "serverAuth", "clientAuth"),
        (
            Error::AlertReceived(AlertDescription::CertificateRequired),
            "requires a client certificate, and the gateway has none (alert 116 CertificateRequired)",
            "the client ended the connection with a TLS alert",
        ),
        (
            Error::AlertReceived(AlertDescription::HandshakeFailure),
            "no TLS version, cipher suite or curve in common",
            "no cipher suite, curve or signature algorithm in common",
        ),
        (
            Error::AlertReceived(AlertDescription::UnknownCA),
            "requires one",
            "does not trust the authority of the gateway's certificate",
        ),
        (
            PeerIncompatible::NoCipherSuitesInCommon.into(),
            "no cipher suite in common",
            "no cipher suite in common",
        ),
        (PeerIncompatible::NoKxGroupsInCommon.into(), "no curve in common", "no curve in common"),
        (
            PeerIncompatible::Tls12NotOffered.into(),
            "neither TLS 1.2 nor TLS 1.3",
            "neither TLS 1.2 nor TLS 1.3",
        ),
        (InvalidMessage::InvalidContentType.into(), "check the port", "must connect with TLS"),
    ] {
        for (peer, expected) in [(Peer::Server, server), (Peer::Client, client)] {
            let text = explain(&error, peer);
            assert!(text.contains(expected), "{text}");
            assert!(is_plain(&text), "{text}");
        }
    }
}

#[test]
fn every_alert_has_a_text_without_raw_bytes() {
    for code in 0..=u8::MAX {
        for peer in [Peer::Server, Peer::Client] {
            let text = explain(&Error::AlertReceived(AlertDescription::from(code)), peer);
            assert!(text.contains(&format!("(alert {code}")), "{text}");
            assert!(is_plain(&text), "{text}");
        }
    }
}

proptest! {
    #[test]
    fn names_chosen_by_a_peer_are_printable_and_bounded(
        names in proptest::collection::vec(any::<String>(), 0..20),
    ) {
        let presented = names.iter().map(|name| format!("DnsName(\"{name}\")")).collect();
        let expected = "eu2.example".try_into().unwrap();
        let error = CertificateError::NotValidForNameContext { expected, presented };
        let text = explain(&error.into(), Peer::Server);
        prop_assert!(text.chars().all(|char| (' '..='~').contains(&char) || char == '…'), "{text}");
        prop_assert!(text.len() < 700, "{text}");
    }
}

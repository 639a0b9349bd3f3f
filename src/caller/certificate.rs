//! The caller's name in a client certificate.
//!
//! The TLS handshake has already verified the certificate; signatures and dates are not checked
//! here.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::name::{self, NameError};

/// Returns the caller's name in the leaf certificate. The common name is ignored.
pub(super) fn caller_name(leaf: &CertificateDer<'_>) -> Result<String, NameError> {
    let (rest, certificate) = X509Certificate::from_der(leaf).map_err(|_| NameError::Unreadable)?;
    if !rest.is_empty() {
        return Err(NameError::Unreadable);
    }
    // Fails if there are two such extensions, or one that cannot be parsed.
    let extension = certificate.subject_alternative_name().map_err(|_| NameError::Unreadable)?;
    let names = extension.map_or(&[][..], |extension| &extension.value.general_names);
    if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(NameError::Unreadable);
    }
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let dns_names = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    name::from_alternative_names(uris, dns_names)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "admin.example");
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn with_names(names: Vec<SanType>) -> CertificateDer<'static> {
        certificate(|params| params.subject_alt_names = names)
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    /// A subject alternative name extension, encoded byte by byte.
    fn raw_names(entries: &[(u8, &[u8])]) -> CustomExtension {
        let mut content = Vec::new();
        for (tag, value) in entries {
            content.extend([0x80 | tag, u8::try_from(value.len()).unwrap()]);
            content.extend(*value);
        }
        let mut der = vec![0x30, u8::try_from(content.len()).unwrap()];
        der.extend(content);
        CustomExtension::from_oid_content(&[2, 5, 29, 17], der)
    }

    #[test]
    fn spiffe_id_or_dns_name_names_the_caller() {
        let both = with_names(vec![dns("a.example"), dns("b.example"), uri("spiffe://td/ns/a/sa/b")]);
        assert_eq!(caller_name(&both), Ok("spiffe://td/ns/a/sa/b".to_owned()));
        assert_eq!(
            caller_name(&with_names(vec![dns("Portal.example")])),
            Ok("dns:portal.example".to_owned())
        );
    }

    #[test]
    fn certificate_without_exactly_one_usable_name_is_refused() {
        let two = with_names(vec![uri("spiffe://td/a"), uri("spiffe://td/b")]);
        assert_eq!(caller_name(&two), Err(NameError::SeveralUris));
        assert_eq!(caller_name(&with_names(vec![uri("spiffe://td")])), Err(NameError::MalformedSpiffeId));
        assert_eq!(caller_name(&with_names(vec![dns("a"), dns("b")])), Err(NameError::SeveralDnsNames));
        assert_eq!(caller_name(&with_names(vec![dns("*.example")])), Err(NameError::MalformedDnsName));
        let address = with_names(vec![SanType::IpAddress([127, 0, 0, 1].into())]);
        assert_eq!(caller_name(&address), Err(NameError::Nameless));
    }

    #[test]
    fn common_name_is_ignored() {
        assert_eq!(caller_name(&certificate(|_| {})), Err(NameError::Nameless));
    }

    #[test]
    fn malformed_names_and_certificates_are_refused() {
        let raw = |entries: &[(u8, &[u8])]| {
            caller_name(&certificate(|params| params.custom_extensions.push(raw_names(entries))))
        };
        assert_eq!(
            raw(&[(6, b"spiffe://td/a")]),
            Ok("spiffe://td/a".to_owned()),
            "the test's own DER is valid"
        );
        assert_eq!(raw(&[(6, b"spiffe://td/a\0.evil")]), Err(NameError::MalformedSpiffeId));
        assert_eq!(raw(&[(2, b"good.example\0.evil")]), Err(NameError::MalformedDnsName));
        assert_eq!(raw(&[(2, b"a.example\r\nx: y")]), Err(NameError::MalformedDnsName));
        assert_eq!(raw(&[(6, b"spiffe://td/\xff")]), Err(NameError::Unreadable));
        assert_eq!(raw(&[(2, b"a.example"), (6, b"\xff")]), Err(NameError::Unreadable));
        let twice = certificate(|params| {
            params.custom_extensions.push(raw_names(&[(6, b"spiffe://td/a")]));
            params.custom_extensions.push(raw_names(&[(6, b"spiffe://td/b")]));
        });
        assert_eq!(caller_name(&twice), Err(NameError::Unreadable));
        for bytes in [&b""[..], b"\x30", b"no certificate"] {
            assert_eq!(caller_name(&CertificateDer::from(bytes)), Err(NameError::Unreadable));
        }
        let mut trailing = with_names(vec![dns("a.example")]).to_vec();
        trailing.push(0);
        assert_eq!(caller_name(&CertificateDer::from(trailing)), Err(NameError::Unreadable));
    }
}

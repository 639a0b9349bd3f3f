//! A certificate, and its properties that decide whether peers accept it.

use std::fmt;

use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, SubjectPublicKeyInfoDer},
    server::ParsedCertificate,
};
use x509_parser::{
    asn1_rs::{Any, oid},
    extensions::{AuthorityInfoAccess, GeneralName, ParsedExtension},
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_DSA, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521,
        OID_PKCS1_MD5WITHRSAENC, OID_PKCS1_RSAENCRYPTION, OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA1WITHRSA,
        OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS, OID_SHA1_WITH_RSA, OID_SIG_ED448, OID_SIG_ED25519, Oid,
    },
    prelude::{FromDer, X509Certificate, X509Version},
    public_key::PublicKey,
};

use super::explain;
use crate::base::validity::Validity;

/// Minimum size of RSA keys that TLS libraries accept, in bits.
pub(super) const MIN_RSA_BITS: usize = 2048;

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    validity: Validity,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    pub(super) facts: Facts,
}

/// Properties that peers check, apart from validity period and issuer.
#[expect(clippy::struct_excessive_bools, reason = "independent properties of a certificate")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) key: KeyKind,
    pub(super) is_ca: bool,
    /// Whether it has a DNS name, an IP address or a URI (subjectAltName).
    pub(super) has_names: bool,
    /// Whether its extended key usage, if it has one, includes servers.
    pub(super) may_serve: bool,
    /// Whether its key usage, if it has one, includes digital signatures.
    pub(super) may_sign: bool,
    /// Whether its key usage, if it has one, includes signing certificates.
    pub(super) may_issue: bool,
    /// Maximum number of CA certificates between it and a server's certificate (basicConstraints,
    /// pathLenConstraint).
    pub(super) max_issuers_below: Option<u32>,
    /// Whether it contains the location of its issuer's certificate (authorityInfoAccess).
    pub(super) names_issuer_location: bool,
    /// Whether its signature uses MD5 or SHA-1.
    pub(super) has_weak_signature: bool,
}

/// The kind of a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA, with the key size in bits.
    Rsa(usize),
    /// An RSA key restricted to RSASSA-PSS.
    RsaPss,
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// ECDSA on P-521.
    P521,
    /// ECDSA on another curve.
    OtherCurve,
    /// Ed25519.
    Ed25519,
    /// Ed448.
    Ed448,
    /// DSA.
    Dsa,
    /// Anything else.
    Other,
}

/// Reason that a block labelled as a certificate cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnusableCertificate {
    /// It is not a certificate.
    NotCertificate,
    /// There is data after the certificate.
    TrailingData,
    /// The server's own certificate has X.509 version 1 or 2.
    OldVersion,
    /// The TLS library refuses it, for this reason.
    Refused(String),
}

impl Certificate {
    /// Parses DER without trailing data.
    pub(super) fn parse(der: &[u8]) -> Result<Self, UnusableCertificate> {
        let (rest, parsed) =
            X509Certificate::from_der(der).map_err(|_| UnusableCertificate::NotCertificate)?;
        if !rest.is_empty() {
            return Err(UnusableCertificate::TrailingData);
        }
        let validity = Validity::from_parsed(&parsed).ok_or(UnusableCertificate::NotCertificate)?;
        Ok(Self {
            der: CertificateDer::from(der.to_vec()),
            validity,
            subject: parsed.subject().as_raw().to_vec(),
            issuer: parsed.issuer().as_raw().to_vec(),
            facts: Facts::of(&parsed),
        })
    }

    /// Checks the requirements of the TLS library on certificates that are sent or verified.
    pub(super) fn check(&self) -> Result<(), UnusableCertificate> {
        let (_, parsed) =
            X509Certificate::from_der(&self.der).map_err(|_| UnusableCertificate::NotCertificate)?;
        if parsed.version() != X509Version::V3 {
            return Err(UnusableCertificate::OldVersion);
        }
        match ParsedCertificate::try_from(&self.der) {
            Ok(_) => Ok(()),
            Err(error) => Err(UnusableCertificate::Refused(explain::certificate(&error))),
        }
    }

    /// Returns the DER encoding.
    #[must_use]
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Returns the validity period.
    #[must_use]
    pub const fn validity(&self) -> Validity {
        self.validity
    }

    /// Returns whether the certificate contains this key.
    pub(super) fn has_public_key(&self, key: &SubjectPublicKeyInfoDer<'_>) -> bool {
        X509Certificate::from_der(&self.der).is_ok_and(|(_, parsed)| parsed.public_key().raw == key.as_ref())
    }

    /// Returns whether subject and issuer are equal, as in a root.
    pub(super) fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Returns whether this certificate's key has signed `other`. Names are compared first, because
    /// clients find issuers by name.
    pub(super) fn has_issued(&self, other: &Self) -> bool {
        self.subject == other.issuer && self.has_signed(other).unwrap_or(true)
    }

    /// Returns `None` if the algorithms are unknown, too weak to be verified, or cannot be parsed.
    fn has_signed(&self, other: &Self) -> Option<bool> {
        if matches!(self.facts.key, KeyKind::Rsa(bits) if bits < MIN_RSA_BITS) {
            return None;
        }
        let (_, parsed) = X509Certificate::from_der(&other.der).ok()?;
        let signature_algorithm = elements(&other.der)?.get(1)?.data;
        let (_, issuer) = X509Certificate::from_der(&self.der).ok()?;
        let key_algorithm = elements(issuer.public_key().raw)?.first()?.data;
        let key = &issuer.public_key().subject_public_key.data;
        let mut algorithms = aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .all
            .iter()
            .filter(|algorithm| {
                *algorithm.signature_alg_id() == *signature_algorithm
                    && *algorithm.public_key_alg_id() == *key_algorithm
            })
            .peekable();
        algorithms.peek()?;
        let message = parsed.tbs_certificate.as_ref();
        let signature = &parsed.signature_value.data;
        Some(algorithms.any(|algorithm| algorithm.verify_signature(key, message, signature).is_ok()))
    }
}

impl Facts {
    /// Reads the properties. An extension that cannot be parsed counts as absent, because the TLS
    /// library decides whether the certificate can be used.
    fn of(parsed: &X509Certificate<'_>) -> Self {
        let constraints = parsed.basic_constraints().ok().flatten();
        let names = parsed.subject_alternative_name().ok().flatten();
        let purposes = parsed.extended_key_usage().ok().flatten();
        let usage = parsed.key_usage().ok().flatten();
        let is_name = |name: &GeneralName<'_>| {
            matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_) | GeneralName::URI(_))
        };
        let locations = parsed.iter_extensions().filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityInfoAccess(access) => Some(access),
            _ => None,
        });
        let names_issuer_location = locations
            .flat_map(AuthorityInfoAccess::iter)
            .any(|access| access.access_method == OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS);
        Self {
            key: KeyKind::of(parsed),
            is_ca: constraints.as_ref().is_some_and(|it| it.value.ca),
            has_names: names.is_some_and(|it| it.value.general_names.iter().any(is_name)),
            may_serve: purposes.is_none_or(|it| it.value.server_auth || it.value.any),
            may_sign: usage.as_ref().is_none_or(|it| it.value.digital_signature()),
            may_issue: usage.is_none_or(|it| it.value.key_cert_sign()),
            max_issuers_below: constraints.and_then(|it| it.value.path_len_constraint),
            names_issuer_location,
            has_weak_signature: has_weak_signature(parsed),
        }
    }
}

impl KeyKind {
    fn of(parsed: &X509Certificate<'_>) -> Self {
        let key = parsed.public_key();
        let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        match Self::from_algorithm(&key.algorithm.algorithm, curve.as_ref()) {
            Self::Rsa(_) => Self::Rsa(match key.parsed() {
                Ok(PublicKey::RSA(key)) => bits(key.modulus),
                _ => 0,
            }),
            other => other,
        }
    }

    /// Returns the kind of an algorithm, with size 0 for RSA.
    pub(super) fn from_algorithm(algorithm: &Oid<'_>, curve: Option<&Oid<'_>>) -> Self {
        if *algorithm == OID_PKCS1_RSAENCRYPTION {
            Self::Rsa(0)
        } else if *algorithm == OID_PKCS1_RSASSAPSS {
            Self::RsaPss
        } else if *algorithm == OID_SIG_ED25519 {
            Self::Ed25519
        } else if *algorithm == OID_SIG_ED448 {
            Self::Ed448
        } else if *algorithm == OID_KEY_TYPE_DSA {
            Self::Dsa
        } else if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
            Self::from_curve(curve)
        } else {
            Self::Other
        }
    }

    /// Returns the kind of an ECDSA key on a curve.
    pub(super) fn from_curve(curve: Option<&Oid<'_>>) -> Self {
        match curve {
            Some(curve) if *curve == OID_EC_P256 => Self::P256,
            Some(curve) if *curve == OID_NIST_EC_P384 => Self::P384,
            Some(curve) if *curve == OID_NIST_EC_P521 => Self::P521,
            _ => Self::OtherCurve,
        }
    }
}

impl fmt::Display for UnusableCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCertificate => {
                f.write_str("is labelled as a certificate and does not contain one; copy it again, in full")
            }
            Self::TrailingData => f.write_str(
                "has data after the certificate; export it again with `openssl x509 -in OLD -out NEW`",
            ),
            Self::OldVersion => f.write_str(
                "is a certificate of X.509 version 1, which TLS libraries refuse; issue it with extensions \
                 (`openssl x509 -req` needs -extfile)",
            ),
            Self::Refused(reason) => write!(f, "cannot be used: {reason}; issue another certificate"),
        }
    }
}

/// Returns the size of an unsigned integer, in bits.
pub(super) fn bits(integer: &[u8]) -> usize {
    let significant = integer.iter().skip_while(|byte| **byte == 0);
    let (first, bytes) =
        significant.fold((None, 0), |(first, count), byte| (first.or(Some(*byte)), count + 1));
    first.map_or(0, |first| bytes * 8 - first.leading_zeros() as usize)
}

/// Returns whether the signature uses MD5 or SHA-1.
fn has_weak_signature(parsed: &X509Certificate<'_>) -> bool {
    const ECDSA_WITH_SHA1: Oid<'_> = oid!(1.2.840.10045.4.1);
    let algorithm = &parsed.signature_algorithm.algorithm;
    [OID_PKCS1_MD5WITHRSAENC, OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA, ECDSA_WITH_SHA1].contains(algorithm)
}

/// Returns the elements of a DER sequence without trailing data.
pub(super) fn elements(der: &[u8]) -> Option<Vec<Any<'_>>> {
    let (rest, sequence) = Any::from_der(der).ok()?;
    if !rest.is_empty() || sequence.tag().0 != 16 {
        return None;
    }
    let mut rest = sequence.data;
    let mut elements = Vec::new();
    while !rest.is_empty() {
        let (after, element) = Any::from_der(rest).ok()?;
        elements.push(element);
        rest = after;
    }
    Some(elements)
}

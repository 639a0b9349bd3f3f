//! The private key of the server.

use std::{fmt, sync::Arc};

use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer},
    sign::SigningKey,
};
use x509_parser::asn1_rs::{FromDer, Oid};

use super::{
    certificate::{Certificate, KeyKind, MIN_RSA_BITS, bits, elements},
    error::{InvalidFile, UnusableKey},
    pem::{Block, Label},
    wanted::Wanted,
};

/// A private key that the TLS library can sign with.
#[derive(Clone)]
pub struct PrivateKey {
    key: Arc<dyn SigningKey>,
}

impl PrivateKey {
    /// Parses a PEM file with one private key: PKCS #8, PKCS #1 or SEC 1. Certificates and
    /// parameters in the file are ignored, as by other servers.
    ///
    /// # Errors
    ///
    /// There is no private key, more than one, or one that cannot be used.
    pub fn parse(file: &[u8]) -> Result<Self, InvalidFile> {
        let blocks = Wanted::PrivateKey.blocks(file)?;
        let mut keys = Vec::new();
        for block in &blocks {
            match block.label {
                label if label.is_private_key() => keys.push(block),
                Label::Certificate | Label::TrustedCertificate | Label::Parameters | Label::PublicKey => {}
                label => return Err(Wanted::PrivateKey.unexpected(block, label)),
            }
        }
        match *keys {
            [block] => Self::from_block(block),
            [] => Err(Wanted::PrivateKey.missing(&blocks)),
            [..] => Err(InvalidFile::SeveralKeys(keys.len())),
        }
    }

    fn from_block(block: &Block) -> Result<Self, InvalidFile> {
        let unusable = |why| InvalidFile::Key { line: block.line, why };
        let der: &[u8] = &block.der;
        let der = match block.label {
            _ if block.is_encrypted => return Err(unusable(UnusableKey::Encrypted)),
            Label::EncryptedKey => return Err(unusable(UnusableKey::Encrypted)),
            Label::OpensshKey => return Err(unusable(UnusableKey::Openssh)),
            Label::DsaKey => return Err(unusable(UnusableKey::Kind(KeyKind::Dsa))),
            Label::Pkcs1 => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(der)),
            Label::Sec1 => PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(der)),
            _ => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der)),
        };
        match any_supported_type(&der) {
            Ok(key) => Ok(Self { key }),
            Err(_) => Err(unusable(refusal(block.label, &block.der))),
        }
    }

    pub(super) fn signing_key(&self) -> Arc<dyn SigningKey> {
        Arc::clone(&self.key)
    }

    /// Returns whether the key belongs to a certificate.
    pub(super) fn belongs_to(&self, certificate: &Certificate) -> bool {
        let public = self.key.public_key();
        public.is_some_and(|public| certificate.has_public_key(&public))
    }
}

/// Returns the reason that the TLS library refuses a key.
fn refusal(label: Label, der: &[u8]) -> UnusableKey {
    match (label, kind(label, der)) {
        (_, None) => UnusableKey::Malformed,
        (_, Some(KeyKind::Rsa(bits))) if (1..MIN_RSA_BITS).contains(&bits) => UnusableKey::ShortRsa(bits),
        (_, Some(KeyKind::Rsa(_) | KeyKind::P256 | KeyKind::P384 | KeyKind::P521 | KeyKind::Ed25519)) => {
            UnusableKey::Malformed
        }
        (_, Some(kind)) => UnusableKey::Kind(kind),
    }
}

/// Returns the kind of a key, if its structure can be parsed.
fn kind(label: Label, der: &[u8]) -> Option<KeyKind> {
    let parts = elements(der)?;
    match label {
        Label::Pkcs1 => Some(KeyKind::Rsa(bits(parts.get(1)?.data))),
        Label::Sec1 => {
            let curve = parts.get(2).and_then(|curve| Oid::from_der(curve.data).ok());
            Some(KeyKind::from_curve(curve.map(|(_, curve)| curve).as_ref()))
        }
        _ => {
            let (after, algorithm) = Oid::from_der(parts.get(1)?.data).ok()?;
            let curve = Oid::from_der(after).ok().map(|(_, curve)| curve);
            match KeyKind::from_algorithm(&algorithm, curve.as_ref()) {
                KeyKind::Rsa(_) => {
                    let key = elements(parts.get(2)?.data)?;
                    Some(KeyKind::Rsa(bits(key.get(1)?.data)))
                }
                kind => Some(kind),
            }
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").finish_non_exhaustive()
    }
}

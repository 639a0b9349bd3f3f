//! A certificate chain and its private key, checked as a pair.

use std::sync::Arc;

use rustls::{
    InconsistentKeys,
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{certificate::Certificate, chain::CertificateChain, private_key::PrivateKey};

/// A certificate chain and the private key of its first certificate.
#[derive(Clone, Debug)]
pub struct ServerIdentity {
    chain: CertificateChain,
    key: Arc<CertifiedKey>,
}

/// Reason that chain and key are not a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPair {
    /// The key belongs to another certificate of the chain.
    #[error(
        "the private key belongs to certificate {0} of the chain, not to certificate 1; move the server's \
         own certificate to the top of the file, followed by its issuer"
    )]
    WrongOrder(usize),
    /// The key does not belong to any of the certificates.
    #[error(
        "the private key does not belong to the certificate; use the key that the certificate was \
         requested with (compare the outputs of `openssl x509 -in CERTIFICATE -noout -pubkey` and \
         `openssl pkey -in KEY -pubout`)"
    )]
    Mismatch,
    /// The TLS library does not accept the certificate.
    #[error("the TLS library refuses the certificate; issue another one")]
    Refused,
}

impl ServerIdentity {
    /// Combines chain and key.
    ///
    /// # Errors
    ///
    /// The key does not belong to the first certificate.
    pub fn new(chain: CertificateChain, key: &PrivateKey) -> Result<Self, InvalidPair> {
        let ders = chain.iter().map(Certificate::der).cloned().collect();
        let certified = CertifiedKey::new(ders, key.signing_key());
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {
                Ok(Self { chain, key: Arc::new(certified) })
            }
            Err(rustls::Error::InconsistentKeys(_)) => Err(match chain.number_of(key) {
                Some(number) => InvalidPair::WrongOrder(number),
                None => InvalidPair::Mismatch,
            }),
            Err(_) => Err(InvalidPair::Refused),
        }
    }

    /// Returns the chain.
    #[must_use]
    pub const fn chain(&self) -> &CertificateChain {
        &self.chain
    }

    /// Returns a resolver that presents the chain to every client.
    #[must_use]
    pub fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(Arc::clone(&self.key)))
    }
}

//! Verifier of server certificates whose authorities can be replaced.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::base::pki::Authorities;

/// Delegates to the library's verifier for the currently trusted authorities.
#[derive(Debug)]
pub(super) struct Trust {
    current: ArcSwap<Trusted>,
    generation: AtomicU64,
    provider: Arc<CryptoProvider>,
}

/// Authorities, and the verifier that trusts them.
#[derive(Debug)]
struct Trusted {
    authorities: Option<Authorities>,
    /// `None` without authorities: every server is refused.
    verifier: Option<Arc<WebPkiServerVerifier>>,
}

impl Trust {
    pub(super) fn new(authorities: Option<&Authorities>, provider: Arc<CryptoProvider>) -> Self {
        let current = ArcSwap::from_pointee(Trusted::new(authorities, &provider));
        Self { current, generation: AtomicU64::new(0), provider }
    }

    /// Returns whether the authorities have changed.
    pub(super) fn replace(&self, authorities: &Authorities) -> bool {
        if self.current.load().authorities.as_ref() == Some(authorities) {
            return false;
        }
        self.current.store(Arc::new(Trusted::new(Some(authorities), &self.provider)));
        // After the store, so that connections of the new generation are verified by the new
        // verifier.
        self.generation.fetch_add(1, Ordering::Release);
        true
    }

    pub(super) fn authorities(&self) -> Option<Authorities> {
        self.current.load().authorities.clone()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

impl Trusted {
    fn new(authorities: Option<&Authorities>, provider: &Arc<CryptoProvider>) -> Self {
        let verifier = authorities.and_then(|authorities| {
            // Fails only without roots, and a set of authorities is never empty.
            WebPkiServerVerifier::builder_with_provider(authorities.roots(), Arc::clone(provider))
                .build()
                .ok()
        });
        Self { authorities: authorities.cloned(), verifier }
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.current.load().verifier {
            Some(verifier) => {
                verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

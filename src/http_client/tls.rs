//! TLS configuration: which servers are trusted. No check can be turned off.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem, pem::PemObject},
};
use rustls_platform_verifier::BuilderVerifierExt;

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// The file of trusted certificates cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is not PEM, or contains something other than certificates.
    #[error("{} does not contain certificates in PEM format", path.display())]
    NotCertificates {
        /// Which file.
        path: PathBuf,
    },
    /// The system's trusted certificates cannot be used.
    #[error("the system's trusted certificates cannot be used: {0}")]
    System(rustls::Error),
    /// The provider does not support the protocol versions.
    #[error("TLS cannot be set up: {0}")]
    Provider(rustls::Error),
}

/// Returns a configuration that trusts only the authorities in `ca_file`, or those of the
/// system if there is none. TLS 1.2 and 1.3; the host name is always checked.
pub fn tls_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsConfigError> {
    // The system has more than a hundred authorities, so they are parsed only once.
    static SYSTEM: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if ca_file.is_some() {
        return make(ca_file);
    }
    if let Some(config) = SYSTEM.get() {
        return Ok(Arc::clone(config));
    }
    let config = make(None)?;
    Ok(Arc::clone(SYSTEM.get_or_init(|| config)))
}

fn make(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsConfigError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsConfigError::Provider)?;
    let builder = match ca_file {
        Some(path) => builder.with_root_certificates(read_authorities(path)?),
        None => builder.with_platform_verifier().map_err(TlsConfigError::System)?,
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read_authorities(path: &Path) -> Result<RootCertStore, TlsConfigError> {
    let not_certificates = || TlsConfigError::NotCertificates { path: path.to_owned() };
    let read_failed = |error| match error {
        pem::Error::Io(error) => TlsConfigError::Unreadable { path: path.to_owned(), error },
        _ => not_certificates(),
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(read_failed)? {
        roots.add(certificate.map_err(read_failed)?).map_err(|_| not_certificates())?;
    }
    if roots.is_empty() { Err(not_certificates()) } else { Ok(roots) }
}

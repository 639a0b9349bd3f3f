//! Certificate, key and client CAs, read from their files and checked as one.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, path::PathBuf, sync::Arc, time::SystemTime};

use ::aws_lc_rs::digest::{self, SHA256};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
};
use zeroize::Zeroizing;

use super::{ClientAuth, HTTP2, Settings};
use crate::{
    files,
    validity::{self, Validity},
};

/// Why the TLS files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not whole, or not PEM.
    #[error("{} is not a whole PEM file", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Why; tells nothing of the contents.
        source: pem::Error,
    },
    /// A file has no certificate.
    #[error("{} has no certificate", file.display())]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// The server's own certificate, or every client CA, has expired.
    #[error("{} has expired: it was valid until {}", file.display(), validity::shown(*not_after))]
    Expired {
        /// The file.
        file: PathBuf,
        /// Until when it was valid.
        not_after: SystemTime,
    },
    /// The server's own certificate, or every client CA that has not expired, is not valid yet.
    #[error("{} is not valid before {}", file.display(), validity::shown(*not_before))]
    NotYetValid {
        /// The file.
        file: PathBuf,
        /// From when it is valid.
        not_before: SystemTime,
    },
    /// Certificate and key cannot be used, or do not belong together.
    #[error("certificate and private key cannot be used together")]
    Pair(#[source] rustls::Error),
    /// A client CA cannot be used.
    #[error("{} has a certificate that cannot be used as a client CA", file.display())]
    ClientCa {
        /// The file.
        file: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The client CAs cannot be used.
    #[error("the client CAs cannot be used")]
    Verifier(#[source] VerifierBuilderError),
}

impl TlsError {
    /// What is at fault, as a metric tells it.
    pub(super) fn what(&self, client_auth: &ClientAuth) -> &'static str {
        let of_client_ca = match self {
            Self::ClientCa { .. } | Self::Verifier(_) => true,
            Self::Unreadable { file, .. }
            | Self::Malformed { file, .. }
            | Self::NoCertificate { file }
            | Self::Expired { file, .. }
            | Self::NotYetValid { file, .. } => client_auth.ca_file() == Some(file),
            Self::Pair(_) => false,
        };
        if of_client_ca { CLIENT_CA } else { CERTIFICATE }
    }
}

pub(super) const CERTIFICATE: &str = "certificate";
pub(super) const CLIENT_CA: &str = "client_ca";

/// The contents of all files at one moment. The key is wiped when they are dropped.
pub(super) struct Contents {
    certificate: Vec<u8>,
    private_key: Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
    private_key_is_open: bool,
}

/// Tells contents apart without keeping them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    /// Of the certificate and its key.
    certificate: [u8; 32],
    client_ca: [u8; 32],
}

impl Fingerprint {
    /// That of the certificate or of the client CA alone.
    pub(super) fn of(&self, what: &str) -> [u8; 32] {
        if what == CLIENT_CA { self.client_ca } else { self.certificate }
    }
}

impl Contents {
    /// Reads all files. Blocks.
    pub(super) fn read(settings: &Settings) -> Result<Self, TlsError> {
        let read = |file: &Path| {
            let contents = files::read(file, files::MAX_BYTES);
            contents
                .map(|mut contents| std::mem::take(&mut *contents.bytes))
                .map_err(|error| TlsError::Unreadable { file: file.to_owned(), source: error.into() })
        };
        Ok(Self {
            certificate: read(&settings.certificate_file)?,
            private_key: Zeroizing::new(read(&settings.private_key_file)?),
            client_ca: settings.client_auth.ca_file().map(|file| read(file)).transpose()?,
            private_key_is_open: fs::metadata(&settings.private_key_file)
                .is_ok_and(|file| file.permissions().mode() & 0o004 != 0),
        })
    }

    /// Whether every user of this machine could read the private key.
    pub(super) const fn private_key_is_open(&self) -> bool {
        self.private_key_is_open
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        let of = |parts: &[&[u8]]| {
            let mut context = digest::Context::new(&SHA256);
            for part in parts {
                context.update(&part.len().to_be_bytes());
                context.update(part);
            }
            let mut fingerprint = [0; 32];
            fingerprint.copy_from_slice(context.finish().as_ref());
            fingerprint
        };
        Fingerprint {
            certificate: of(&[&self.certificate, &self.private_key]),
            client_ca: of(&[self.client_ca.as_deref().unwrap_or_default()]),
        }
    }

    /// From when until when the certificates are valid, in the order of the files: those of the
    /// server's chain, and of the client CAs.
    pub(super) fn validities(&self, settings: &Settings) -> Result<[Vec<Validity>; 2], TlsError> {
        let of =
            |certificates: Vec<CertificateDer<'_>>| certificates.iter().filter_map(Validity::of).collect();
        let client_cas = match (&self.client_ca, settings.client_auth.ca_file()) {
            (Some(client_ca), Some(file)) => certificates(client_ca, file)?,
            _ => Vec::new(),
        };
        Ok([of(certificates(&self.certificate, &settings.certificate_file)?), of(client_cas)])
    }

    /// The configuration that the files make, if they make one as a whole.
    pub(super) fn configuration(&self, settings: &Settings) -> Result<Arc<ServerConfig>, TlsError> {
        let certificates = certificates(&self.certificate, &settings.certificate_file)?;
        let private_key = PrivateKeyDer::from_pem_slice(&self.private_key)
            .map_err(|source| TlsError::Malformed { file: settings.private_key_file.clone(), source })?;

        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS12, &rustls::version::TLS13])
            .map_err(TlsError::Pair)?;
        let builder = match (&self.client_ca, settings.client_auth.ca_file()) {
            (Some(client_ca), Some(file)) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots(client_ca, file)?, provider);
                let verifier = match settings.client_auth {
                    ClientAuth::Optional { .. } => verifier.allow_unauthenticated(),
                    ClientAuth::Off | ClientAuth::Require { .. } => verifier,
                };
                builder.with_client_cert_verifier(verifier.build().map_err(TlsError::Verifier)?)
            }
            _ => builder.with_no_client_auth(),
        };
        // Also checks that the key is that of the first certificate.
        let mut config = builder.with_single_cert(certificates, private_key).map_err(TlsError::Pair)?;
        config.alpn_protocols = vec![HTTP2.to_vec()];
        // A resumed session would bring its client certificate along unchecked, expired
        // or not. Connections live long: a full handshake for each costs little.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

fn certificates(contents: &[u8], file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(contents)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Malformed { file: file.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { file: file.to_owned() });
    }
    Ok(certificates)
}

fn roots(contents: &[u8], file: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(contents, file)? {
        roots.add(certificate).map_err(|source| TlsError::ClientCa { file: file.to_owned(), source })?;
    }
    Ok(Arc::new(roots))
}

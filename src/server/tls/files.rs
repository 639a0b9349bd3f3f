//! Certificate, key and client CAs, read from their files and checked as one.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, path::PathBuf, sync::Arc, time::SystemTime};

use ::aws_lc_rs::digest::{self, SHA256};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
};
use zeroize::Zeroizing;

use super::{ClientAuth, HTTP2, Settings};
use crate::{
    files,
    pki::{Authorities, CertificateChain, InvalidFile, InvalidPair, PrivateKey, ServerIdentity, Warning},
    telemetry::metrics::Reloaded,
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
    /// A file does not contain what it must.
    #[error("{}: {why}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Why, and what fixes it.
        why: InvalidFile,
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
    /// Certificate and key do not belong together.
    #[error("{}: {why}", file.display())]
    Pair {
        /// The file of the private key.
        file: PathBuf,
        /// Why, and what fixes it.
        why: InvalidPair,
    },
    /// The provider does not support the protocol versions.
    #[error("TLS cannot be set up")]
    Provider(#[source] rustls::Error),
    /// The client CAs cannot be used.
    #[error("the client CAs cannot be used")]
    Verifier(#[source] VerifierBuilderError),
}

impl TlsError {
    /// What is at fault, as a metric tells it.
    pub(super) fn what(&self, client_auth: &ClientAuth) -> Reloaded {
        let of_client_ca = match self {
            Self::Verifier(_) => true,
            Self::Unreadable { file, .. }
            | Self::Invalid { file, .. }
            | Self::Expired { file, .. }
            | Self::NotYetValid { file, .. } => client_auth.ca_file() == Some(file),
            Self::Pair { .. } | Self::Provider(_) => false,
        };
        if of_client_ca { CLIENT_CA } else { CERTIFICATE }
    }
}

pub(super) const CERTIFICATE: Reloaded = Reloaded::Certificate;
pub(super) const CLIENT_CA: Reloaded = Reloaded::ClientCa;

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
    pub(super) fn of(&self, what: Reloaded) -> [u8; 32] {
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

    /// Parses everything, and checks that certificate and key are a pair.
    pub(super) fn parse(&self, settings: &Settings) -> Result<Parsed, TlsError> {
        let invalid = |file: &Path| {
            let file = file.to_owned();
            |why| TlsError::Invalid { file, why }
        };
        let chain =
            CertificateChain::parse(&self.certificate).map_err(invalid(&settings.certificate_file))?;
        let key = PrivateKey::parse(&self.private_key).map_err(invalid(&settings.private_key_file))?;
        let identity = ServerIdentity::new(chain, &key)
            .map_err(|why| TlsError::Pair { file: settings.private_key_file.clone(), why })?;
        let client_cas = match (&self.client_ca, settings.client_auth.ca_file()) {
            (Some(client_ca), Some(file)) => Some(Authorities::parse(client_ca).map_err(invalid(file))?),
            _ => None,
        };
        Ok(Parsed { identity, client_cas })
    }

    /// From when until when the certificates are valid, in the order of the files: those of the
    /// server's chain, and of the client CAs.
    pub(super) fn validities(&self, settings: &Settings) -> Result<[Vec<Validity>; 2], TlsError> {
        Ok(self.parse(settings)?.validities())
    }

    /// The configuration that the files make, if they make one as a whole.
    pub(super) fn configuration(&self, settings: &Settings) -> Result<Arc<ServerConfig>, TlsError> {
        self.parse(settings)?.configuration(&settings.client_auth)
    }
}

/// What the files contain.
pub(super) struct Parsed {
    pub(super) identity: ServerIdentity,
    pub(super) client_cas: Option<Authorities>,
}

impl Parsed {
    /// As [`Contents::validities`].
    pub(super) fn validities(&self) -> [Vec<Validity>; 2] {
        let client_cas = self.client_cas.as_ref().map(Authorities::validities);
        [self.identity.chain().validities(), client_cas.unwrap_or_default()]
    }

    /// Logs what makes peers refuse the certificates, apart from their times, which
    /// [`Expiry`](super::expiry::Expiry) follows.
    pub(super) fn warn(&self, settings: &Settings, now: SystemTime) {
        let chain = self.identity.chain().warnings(now);
        warn(&settings.certificate_file, &chain);
        if let (Some(client_cas), Some(file)) = (&self.client_cas, settings.client_auth.ca_file()) {
            warn(file, &client_cas.warnings(now));
        }
    }

    pub(super) fn configuration(&self, client_auth: &ClientAuth) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS12, &rustls::version::TLS13])
            .map_err(TlsError::Provider)?;
        let builder = match &self.client_cas {
            Some(client_cas) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(client_cas.roots(), provider);
                let verifier = match client_auth {
                    ClientAuth::Optional { .. } => verifier.allow_unauthenticated(),
                    ClientAuth::Off | ClientAuth::Require { .. } => verifier,
                };
                builder.with_client_cert_verifier(verifier.build().map_err(TlsError::Verifier)?)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(self.identity.resolver());
        config.alpn_protocols = vec![HTTP2.to_vec()];
        // A resumed session would bring its client certificate along unchecked, expired
        // or not. Connections live long: a full handshake for each costs little.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

fn warn(file: &Path, warnings: &[Warning]) {
    for warning in warnings.iter().filter(|warning| !warning.is_about_time()) {
        tracing::warn!(
            file.path = %file.display(),
            certificate.number = warning.number,
            %warning,
            "certificate will be refused by peers"
        );
    }
}

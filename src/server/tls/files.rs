//! Certificate, key and client CAs, read from their files.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustls::server::VerifierBuilderError;

use crate::{
    files::{self, Contents, ReadError, Reader},
    pki::{Authorities, CertificateChain, InvalidFile, InvalidPair, PrivateKey, ServerIdentity, Warning},
    validity,
};

/// Why the TLS files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        error: ReadError,
    },
    /// A file does not contain what it must.
    #[error("{}: {why}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Why, and what fixes it.
        why: InvalidFile,
    },
    /// The server's own certificate has expired.
    #[error("{} has expired: it was valid until {}", file.display(), validity::shown(*not_after))]
    Expired {
        /// The file.
        file: PathBuf,
        /// Until when it was valid.
        not_after: SystemTime,
    },
    /// The server's own certificate is not valid yet.
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
    pub(super) fn unreadable(file: &Path, error: ReadError) -> Self {
        Self::Unreadable { file: file.to_owned(), error }
    }
}

/// Certificate chain and private key, checked as a pair. Equal if they are the same pair.
pub(super) struct Pair {
    pub(super) identity: ServerIdentity,
    /// Whether every user of this machine can read the private key.
    pub(super) key_is_open: bool,
}

impl PartialEq for Pair {
    /// The key is that of the certificate.
    fn eq(&self, other: &Self) -> bool {
        self.identity.chain() == other.identity.chain()
    }
}

impl Pair {
    pub(super) fn read(reader: &mut Reader, chain_file: &Path, key_file: &Path) -> Result<Self, TlsError> {
        let (chain, key) = (contents(reader, chain_file)?, contents(reader, key_file)?);
        let key_is_open = key.exposure.readable;
        let chain = CertificateChain::parse(&chain.bytes).map_err(invalid(chain_file))?;
        let key = PrivateKey::parse(&key.bytes).map_err(invalid(key_file))?;
        let identity = ServerIdentity::new(chain, &key)
            .map_err(|why| TlsError::Pair { file: key_file.to_owned(), why })?;
        Ok(Self { identity, key_is_open })
    }
}

/// The authorities of client certificates.
pub(super) fn client_cas(reader: &mut Reader, file: &Path) -> Result<Authorities, TlsError> {
    Authorities::parse(&contents(reader, file)?.bytes).map_err(invalid(file))
}

fn contents(reader: &mut Reader, file: &Path) -> Result<Contents, TlsError> {
    reader.read(file, files::MAX_BYTES).map_err(|error| TlsError::unreadable(file, error))
}

fn invalid(file: &Path) -> impl FnOnce(InvalidFile) -> TlsError {
    let file = file.to_owned();
    |why| TlsError::Invalid { file, why }
}

/// Logs what makes peers refuse certificates, apart from their times, which
/// [`Expiry`](super::expiry::Expiry) follows.
pub(super) fn warn(file: &Path, warnings: &[Warning]) {
    for warning in warnings.iter().filter(|warning| !warning.is_about_time()) {
        tracing::warn!(
            file.path = %file.display(),
            certificate.number = warning.number,
            %warning,
            "certificate will be refused by peers"
        );
    }
}

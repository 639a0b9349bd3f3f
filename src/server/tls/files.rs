//! Certificate, key and client CAs, read from their files.

use std::path::{Path, PathBuf};

use rustls::server::VerifierBuilderError;

use crate::base::{
    files::{self, Contents, ReadError, Reader},
    pki::{Authorities, CertificateChain, InvalidFile, InvalidPair, PrivateKey, ServerIdentity, Warning},
};

/// Error that makes the TLS files unusable.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The cause.
        error: ReadError,
    },
    /// The content of a file is invalid.
    #[error("{}: {why}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The cause, and how to fix it.
        why: InvalidFile,
    },
    /// The server's own certificate is not valid now, and the one in use is.
    #[error("{}: {warning}", file.display())]
    NotValidNow {
        /// The file.
        file: PathBuf,
        /// The cause.
        warning: Warning,
    },
    /// Both the certificate and the private key have errors.
    #[error("{certificate}; {private_key}")]
    Both {
        /// The error of the certificate.
        certificate: Box<TlsError>,
        /// The error of the private key.
        private_key: Box<TlsError>,
    },
    /// Certificate and key do not match.
    #[error("{}: {why}", file.display())]
    Pair {
        /// The file of the private key.
        file: PathBuf,
        /// The cause, and how to fix it.
        why: InvalidPair,
    },
    /// The provider does not support the protocol versions.
    #[error("cannot set up TLS")]
    Provider(#[source] rustls::Error),
    /// The client CAs cannot be used.
    #[error("cannot use the client CAs")]
    Verifier(#[source] VerifierBuilderError),
}

impl TlsError {
    pub(super) fn unreadable(file: &Path, error: ReadError) -> Self {
        Self::Unreadable { file: file.to_owned(), error }
    }
}

/// A certificate chain and its private key.
pub(super) struct Pair {
    pub(super) identity: ServerIdentity,
    /// Whether every user of this machine can read the private key.
    pub(super) key_is_open: bool,
}

impl PartialEq for Pair {
    /// Compares only the chains: the key of a valid pair follows from its certificate.
    fn eq(&self, other: &Self) -> bool {
        self.identity.chain() == other.identity.chain()
    }
}

impl Pair {
    pub(super) fn read(reader: &mut Reader, chain_file: &Path, key_file: &Path) -> Result<Self, TlsError> {
        let chain = contents(reader, chain_file)
            .and_then(|file| CertificateChain::parse(&file.bytes).map_err(invalid(chain_file)));
        let key = contents(reader, key_file).and_then(|file| {
            let key = PrivateKey::parse(&file.bytes).map_err(invalid(key_file))?;
            Ok((key, file.exposure.readable))
        });
        let (chain, (key, key_is_open)) = match (chain, key) {
            (Ok(chain), Ok(key)) => (chain, key),
            (Err(error), Ok(_)) | (Ok(_), Err(error)) => return Err(error),
            (Err(certificate), Err(private_key)) => {
                let (certificate, private_key) = (Box::new(certificate), Box::new(private_key));
                return Err(TlsError::Both { certificate, private_key });
            }
        };
        let identity = ServerIdentity::new(chain, &key)
            .map_err(|why| TlsError::Pair { file: key_file.to_owned(), why })?;
        Ok(Self { identity, key_is_open })
    }
}

/// Reads the authorities of client certificates.
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

/// Logs the reasons why peers will refuse certificates, except for their validity periods, which
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

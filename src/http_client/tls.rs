//! TLS configuration of the client. No certificate check can be disabled.
//!
//! The trusted authorities can be replaced while connections exist. Sessions are never resumed: a
//! resumed session skips the check of the certificate, even after the certificate has expired or
//! its authority was withdrawn.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    ClientConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption, Tls12Resumption},
    crypto::aws_lc_rs,
    sign::CertifiedKey,
};
use url::Url;

use super::{groups::Groups, trust::Trust};
use crate::base::{
    clock::{self, Instant},
    files::{self, PollError, ReadError, Reader},
    pki::{Authorities, InvalidFile},
};

/// Failure to create a TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// The file of trusted certificates cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        error: ReadError,
    },
    /// The authorities were not read in time.
    #[error("{name}: {reason}")]
    NoResult {
        /// The file, or the system's authorities.
        name: String,
        /// Why there is no result.
        reason: String,
    },
    /// The file does not contain usable certificates.
    #[error("{}: {error}", path.display())]
    NotAuthorities {
        /// The file.
        path: PathBuf,
        /// Why its contents cannot be used.
        error: InvalidFile,
    },
    /// The system has no trusted certificates.
    #[error(
        "the system has no trusted certificates; install them (package ca-certificates), or set ca_file \
         (jwks_ca_file for jwks_url)"
    )]
    NoSystemAuthorities,
    /// The provider does not support the protocol versions.
    #[error("TLS cannot be set up: {0}")]
    Provider(rustls::Error),
}

/// Source of trusted authorities.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthoritySource {
    /// The certificates in this file only.
    File(PathBuf),
    /// The certificates that the operating system trusts.
    System,
}

impl AuthoritySource {
    /// Returns the file if there is one, else the system.
    #[must_use]
    pub fn new(ca_file: Option<&Path>) -> Self {
        ca_file.map_or(Self::System, |path| Self::File(path.to_owned()))
    }

    /// Reads and parses the authorities. Blocks.
    ///
    /// # Errors
    ///
    /// The file cannot be read or used, or the system has none.
    pub fn load(&self) -> Result<Authorities, TlsConfigError> {
        let source = self.clone();
        files::load(&self.to_string(), Arc::new(move |reader| source.read(reader))).map_err(|error| {
            match error {
                PollError::Refused(error) => error,
                other => TlsConfigError::NoResult { name: self.to_string(), reason: other.to_string() },
            }
        })
    }

    /// Reads and parses the authorities with the reader of a poll.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn read(&self, reader: &mut Reader) -> Result<Authorities, TlsConfigError> {
        match self {
            Self::File(path) => {
                let contents = reader
                    .read(path, files::MAX_BYTES)
                    .map_err(|error| TlsConfigError::Unreadable { path: path.clone(), error })?;
                Authorities::parse(&contents.bytes)
                    .map_err(|error| TlsConfigError::NotAuthorities { path: path.clone(), error })
            }
            // Not through the reader: the number and location of these files depend on the system.
            Self::System => {
                reader.begin_untracked().map_err(|why| TlsConfigError::NoResult {
                    name: self.to_string(),
                    reason: why.to_string(),
                })?;
                Authorities::from_system(rustls_native_certs::load_native_certs().certs)
                    .ok_or(TlsConfigError::NoSystemAuthorities)
            }
        }
    }
}

impl fmt::Display for AuthoritySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::System => f.write_str("the system's authorities"),
        }
    }
}

/// TLS configuration of outgoing connections, with the trusted authorities.
#[derive(Debug)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    trust: Arc<Trust>,
    requests: Arc<CertificateRequests>,
}

impl ClientTls {
    /// Creates a configuration for TLS 1.2 and 1.3. The host name is always checked. Without
    /// authorities, every server is refused.
    ///
    /// # Errors
    ///
    /// The provider does not support these versions.
    pub fn new(authorities: Option<&Authorities>) -> Result<Arc<Self>, TlsConfigError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let trust = Arc::new(Trust::new(authorities, Arc::clone(&provider)));
        let requests = Arc::new(CertificateRequests::default());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsConfigError::Provider)?
            // "Dangerous" because a custom verifier could accept any server; this one delegates to
            // the library's.
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&trust) as _)
            .with_client_cert_resolver(Arc::clone(&requests) as _);
        config.resumption =
            Resumption::store(Arc::new(Groups::default())).tls12_resumption(Tls12Resumption::Disabled);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(Self { config: Arc::new(config), trust, requests }))
    }

    /// Returns the configuration of the TLS library. Its copies also follow changes of the
    /// authorities.
    #[must_use]
    pub const fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// Trusts only these authorities from now on. Returns whether they have changed.
    pub fn replace(&self, authorities: &Authorities) -> bool {
        self.trust.replace(authorities)
    }

    /// Returns the trusted authorities; `None` if there are none.
    #[must_use]
    pub fn authorities(&self) -> Option<Authorities> {
        self.trust.authorities()
    }

    /// Returns the number of changes of the authorities. A connection that was opened in an earlier
    /// generation may be to a server that is no longer trusted.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.trust.generation()
    }

    /// Returns whether a server has requested a client certificate in the last seconds.
    #[must_use]
    pub fn was_asked_for_certificate(&self) -> bool {
        self.requests.were_recent()
    }
}

/// Time for which a certificate request counts as a possible cause of a closed connection.
const RECENT: Duration = Duration::from_secs(5);

/// Records when a server last requested a client certificate, and offers none. Servers that require
/// one often close the connection without a reason.
#[derive(Debug, Default)]
struct CertificateRequests(Mutex<Option<Instant>>);

impl CertificateRequests {
    fn were_recent(&self) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|at| clock::now() < at + RECENT)
    }
}

impl ResolvesClientCert for CertificateRequests {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock::now());
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// TLS configurations of a process: one per source of authorities.
#[derive(Debug, Default)]
pub struct ClientTlsSet(BTreeMap<AuthoritySource, Arc<ClientTls>>);

impl ClientTlsSet {
    /// Returns the configuration for connections to `server`, through `proxy` if there is one. The
    /// system's authorities are read only if one of the two is https, because an image without them
    /// can still be used with a platform on a loopback address.
    ///
    /// # Errors
    ///
    /// The authorities cannot be read or used.
    pub fn get(
        &mut self,
        ca_file: Option<&Path>,
        server: &Url,
        proxy: Option<&Url>,
    ) -> Result<Arc<ClientTls>, TlsConfigError> {
        let source = AuthoritySource::new(ca_file);
        if let Some(tls) = self.0.get(&source) {
            return Ok(Arc::clone(tls));
        }
        let uses_tls = [Some(server), proxy].into_iter().flatten().any(|url| url.scheme() == "https");
        if source == AuthoritySource::System && !uses_tls {
            return ClientTls::new(None);
        }
        let tls = ClientTls::new(Some(&source.load()?))?;
        self.0.insert(source, Arc::clone(&tls));
        Ok(tls)
    }

    /// Returns every source and its configuration, which must follow changes of the source.
    pub fn into_sources(self) -> impl Iterator<Item = (AuthoritySource, Arc<ClientTls>)> {
        self.0.into_iter()
    }
}

/// Returns a configuration that is not shared.
#[cfg(test)]
pub(crate) fn tls_config(ca_file: Option<&Path>) -> Result<Arc<ClientTls>, TlsConfigError> {
    ClientTls::new(Some(&AuthoritySource::new(ca_file).load()?))
}

#[cfg(test)]
mod tests;

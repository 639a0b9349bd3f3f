//! TLS configuration: which servers are trusted. No check can be turned off.
//!
//! The trusted authorities can be replaced while connections exist. Sessions are never resumed:
//! a resumed session skips the check of the certificate, also after the certificate has expired
//! or its authority has been withdrawn.

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
use crate::{
    clock::{self, Instant},
    files::{self, PollError, ReadError, Reader},
    pki::{Authorities, InvalidFile},
};

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// The file of trusted certificates cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: ReadError,
    },
    /// The authorities were not read in time.
    #[error("{name}: {reason}")]
    Unanswered {
        /// What was to be read.
        name: String,
        /// Why.
        reason: String,
    },
    /// The file does not contain usable certificates.
    #[error("{}: {error}", path.display())]
    NotAuthorities {
        /// Which file.
        path: PathBuf,
        /// Why.
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

/// Where trusted authorities come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthoritySource {
    /// Only those in this file.
    File(PathBuf),
    /// Those of the system.
    System,
}

impl AuthoritySource {
    /// The file if there is one, else the system.
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
                other => TlsConfigError::Unanswered { name: self.to_string(), reason: other.to_string() },
            }
        })
    }

    /// Reads and parses the authorities in a poll of theirs.
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
            // Not through the reader: these are many files, found in a way that depends on the
            // system.
            Self::System => {
                reader.begin_untracked().map_err(|why| TlsConfigError::Unanswered {
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

/// The TLS configuration of connections to servers, with the authorities that they trust.
#[derive(Debug)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    trust: Arc<Trust>,
    requests: Arc<CertificateRequests>,
}

impl ClientTls {
    /// TLS 1.2 and 1.3; the host name is always checked. Without authorities, every server is
    /// refused.
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
            // "Dangerous" since a verifier could accept everyone; this one delegates to the
            // library's own.
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&trust) as _)
            .with_client_cert_resolver(Arc::clone(&requests) as _);
        config.resumption =
            Resumption::store(Arc::new(Groups::default())).tls12_resumption(Tls12Resumption::Disabled);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(Self { config: Arc::new(config), trust, requests }))
    }

    /// The library's configuration. Copies of it follow changes of the authorities too.
    #[must_use]
    pub const fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// Trusts only these authorities from now on. Returns whether they have changed.
    pub fn replace(&self, authorities: &Authorities) -> bool {
        self.trust.replace(authorities)
    }

    /// Returns the trusted authorities; `None` without any.
    #[must_use]
    pub fn authorities(&self) -> Option<Authorities> {
        self.trust.authorities()
    }

    /// Counts how often the authorities have changed. A connection that was opened in an
    /// earlier generation may be to a server that is not trusted any more.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.trust.generation()
    }

    /// Returns whether a server has asked for a client certificate within the last seconds.
    #[must_use]
    pub fn was_asked_for_certificate(&self) -> bool {
        self.requests.were_recent()
    }
}

/// Time after a server's request for a certificate within which it may be the cause of a
/// connection's end.
const RECENT: Duration = Duration::from_secs(5);

/// Has no certificate for servers that ask for one, and remembers when one did: such servers
/// often close the connection without giving the reason.
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

/// The TLS configurations of a process: one for each source of authorities.
#[derive(Debug, Default)]
pub struct ClientTlsSet(BTreeMap<AuthoritySource, Arc<ClientTls>>);

impl ClientTlsSet {
    /// Returns the configuration for connections to `server`, through `proxy` if there is one.
    /// The system's authorities are read only if one of the two is https, because an image
    /// without them can still serve a platform on a loopback address.
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

    /// Returns every source with the configuration that must follow it.
    pub fn into_sources(self) -> impl Iterator<Item = (AuthoritySource, Arc<ClientTls>)> {
        self.0.into_iter()
    }
}

/// Returns a configuration that is not shared, for a test.
#[cfg(test)]
pub(crate) fn tls_config(ca_file: Option<&Path>) -> Result<Arc<ClientTls>, TlsConfigError> {
    ClientTls::new(Some(&AuthoritySource::new(ca_file).load()?))
}

#[cfg(test)]
mod tests;

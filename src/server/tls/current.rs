//! The TLS configuration that new handshakes use.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::sync::watch;

use super::{ClientAuth, HTTP1, HTTP2, TlsError};
use crate::base::pki::{Authorities, ServerIdentity};

/// The configuration that new handshakes use. Its two parts are replaced independently. Cheap to
/// clone; clones share the configuration.
#[derive(Clone, Debug)]
pub(in crate::server) struct Current(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: ArcSwap<ServerConfig>,
    parts: Mutex<ConfigParts>,
    /// Verifies the certificates of clients. `None` if clients are not asked for one.
    verifier: watch::Sender<Option<Arc<dyn ClientCertVerifier>>>,
}

/// The parts of a configuration. A part is replaced only if the resulting configuration can be
/// used.
#[derive(Clone, Debug)]
struct ConfigParts {
    identity: ServerIdentity,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl Current {
    pub(super) fn new(
        identity: ServerIdentity,
        client_auth: &ClientAuth,
        client_cas: Option<&Authorities>,
    ) -> Result<Self, TlsError> {
        let verifier = client_cas.map(|client_cas| verifier(client_auth, client_cas)).transpose()?;
        let parts = ConfigParts { identity, verifier };
        Ok(Self(Arc::new(Inner {
            config: ArcSwap::new(parts.configuration()?),
            verifier: watch::Sender::new(parts.verifier.clone()),
            parts: Mutex::new(parts),
        })))
    }

    /// Returns the configuration for a handshake that begins now.
    pub(super) fn load(&self) -> Arc<ServerConfig> {
        self.0.config.load_full()
    }

    /// Returns a receiver of the current verifier of client certificates and of each replacement.
    pub(super) fn verifiers(&self) -> watch::Receiver<Option<Arc<dyn ClientCertVerifier>>> {
        self.0.verifier.subscribe()
    }

    /// Replaces the certificate for handshakes that begin from now on. Open connections keep
    /// theirs.
    pub(super) fn replace_identity(&self, identity: ServerIdentity) -> Result<(), TlsError> {
        self.replace(|parts| ConfigParts { identity, ..parts.clone() })
    }

    /// Replaces the client authorities for handshakes that begin from now on, and has the
    /// certificates of open connections verified again.
    pub(super) fn replace_client_cas(
        &self,
        client_auth: &ClientAuth,
        client_cas: &Authorities,
    ) -> Result<(), TlsError> {
        let verifier = verifier(client_auth, client_cas)?;
        self.replace(|parts| ConfigParts { verifier: Some(Arc::clone(&verifier)), ..parts.clone() })?;
        // Sent after the configuration is stored: a handshake subscribes before it loads the
        // configuration, so it misses no change.
        self.0.verifier.send_replace(Some(verifier));
        Ok(())
    }

    fn replace(&self, change: impl FnOnce(&ConfigParts) -> ConfigParts) -> Result<(), TlsError> {
        let mut parts = self.0.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let new = change(&parts);
        self.0.config.store(new.configuration()?);
        *parts = new;
        Ok(())
    }
}

impl ConfigParts {
    fn configuration(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS12, &rustls::version::TLS13])
            .map_err(TlsError::Provider)?;
        let builder = match &self.verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(self.identity.resolver());
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        // A resumed session would reuse its client certificate without verification, even if it has
        // expired. Connections are long-lived, so a full handshake for each costs little.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn verifier(
    client_auth: &ClientAuth,
    client_cas: &Authorities,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(client_cas.roots(), provider());
    let verifier = match client_auth {
        ClientAuth::Optional { .. } => verifier.allow_unauthenticated(),
        ClientAuth::Off | ClientAuth::Require { .. } => verifier,
    };
    verifier.build().map_err(TlsError::Verifier)
}

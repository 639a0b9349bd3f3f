//! Whether the certificate of an open connection is still trusted.

use std::{fmt, sync::Arc, time::Duration};

use rustls::{
    pki_types::{CertificateDer, UnixTime},
    server::danger::ClientCertVerifier,
};
use tokio::sync::watch;

use crate::base::clock::{self, WallClock};

/// The certificate that the peer of a connection presented, and the current authorities.
pub(in crate::server) struct Trust {
    /// The peer's own certificate first. Empty if the peer presented none.
    chain: Vec<CertificateDer<'static>>,
    verifiers: watch::Receiver<Option<Arc<dyn ClientCertVerifier>>>,
}

impl Trust {
    pub(super) fn new(
        chain: &[CertificateDer<'static>],
        verifiers: watch::Receiver<Option<Arc<dyn ClientCertVerifier>>>,
    ) -> Self {
        Self { chain: chain.to_vec(), verifiers }
    }

    /// Resolves when new client authorities no longer accept the peer's certificate.
    pub(in crate::server) async fn withdrawn(&mut self) {
        if self.chain.is_empty() {
            return std::future::pending().await;
        }
        while self.verifiers.changed().await.is_ok() {
            if !self.is_valid() {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    fn is_valid(&mut self) -> bool {
        let verifier = self.verifiers.borrow_and_update().clone();
        let (Some(verifier), Some((leaf, issuers))) = (verifier, self.chain.split_first()) else {
            return false;
        };
        let now = Duration::from_secs(clock::unix_seconds(WallClock::system().now()));
        verifier.verify_client_cert(leaf, issuers, UnixTime::since_unix_epoch(now)).is_ok()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

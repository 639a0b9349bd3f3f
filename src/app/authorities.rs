//! Follows the authorities that outgoing connections trust.

use std::sync::Arc;

use crate::{
    base::{
        clock::WallClock,
        files::{FollowedFile, Follower, Outcomes, Parser, PollError},
        pki::Authorities,
    },
    http_client::{AuthoritySource, ClientTls, ClientTlsSet, TlsConfigError},
    observe::telemetry::metrics::{Metrics, ReloadMetrics, Reloaded},
};

/// Returns a follower for each source of authorities. New connections trust the new authorities,
/// and earlier connections are not reused.
pub(super) fn followers(
    tls: ClientTlsSet,
    metrics: &Metrics,
) -> impl Iterator<Item = Follower<FollowedAuthorities>> {
    tls.into_sources().map(|(source, tls)| {
        let name: Arc<str> = source.to_string().into();
        let reloads = metrics.reloads(Reloaded::Authorities, &name);
        let in_use = tls.authorities();
        let file = FollowedAuthorities { source, name, tls, reloads };
        Follower::new(file, in_use, WallClock::system())
    })
}

/// A source of authorities, and the TLS configuration that trusts them.
pub(super) struct FollowedAuthorities {
    source: AuthoritySource,
    name: Arc<str>,
    tls: Arc<ClientTls>,
    reloads: ReloadMetrics,
}

impl FollowedFile for FollowedAuthorities {
    type Value = Authorities;
    type Error = TlsConfigError;

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn parser(&self) -> Parser<Authorities, TlsConfigError> {
        let source = self.source.clone();
        Arc::new(move |reader| source.read(reader))
    }

    fn outcomes(&self) -> &dyn Outcomes {
        &self.reloads
    }

    fn apply(&mut self, new: &Authorities, _: Option<&Authorities>) -> Result<(), TlsConfigError> {
        self.tls.replace(new);
        tracing::info!(
            file.path = &*self.name,
            authorities.count = new.count(),
            "trusted authorities reloaded"
        );
        for warning in new.warnings(WallClock::system().now()) {
            tracing::warn!(
                file.path = &*self.name,
                certificate.number = warning.number,
                %warning,
                "certificate will be refused by peers"
            );
        }
        Ok(())
    }

    fn refused(&mut self, error: &PollError<TlsConfigError>, _: Option<&Authorities>) {
        tracing::error!(
            file.path = &*self.name,
            %error,
            "new trusted authorities refused, keeping the current ones"
        );
    }
}

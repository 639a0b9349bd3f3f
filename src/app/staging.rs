//! Selects the service that answers calls: the real one, or that of a sandbox, which fails on demand.

#[cfg(feature = "sandbox")]
use std::sync::Arc;

use tonic::service::Routes;

use crate::{access::Access, server::Handlers, service::OttService};
#[cfg(feature = "sandbox")]
use crate::{rehearsal::Script, service::RehearsedService};

/// The service that answers calls; by default the real one.
#[derive(Clone, Debug, Default)]
pub(super) struct Staging {
    #[cfg(feature = "sandbox")]
    script: Option<Arc<dyn Script>>,
}

impl Staging {
    /// Selects the service of a sandbox.
    #[cfg(feature = "sandbox")]
    pub(super) const fn of(script: Arc<dyn Script>) -> Self {
        Self { script: Some(script) }
    }

    /// Returns the handlers of one worker.
    #[cfg_attr(not(feature = "sandbox"), expect(clippy::unused_self, reason = "it has no fields"))]
    pub(super) fn handlers(&self, service: OttService, routes: Routes) -> Handlers {
        #[cfg(feature = "sandbox")]
        if let Some(script) = &self.script {
            return Handlers::rehearsed(RehearsedService::new(service, Arc::clone(script)), routes);
        }
        Handlers::new(service, routes)
    }

    /// Refills the quotas at every reset of the sandbox.
    #[cfg_attr(
        not(feature = "sandbox"),
        expect(clippy::unused_self, unused_variables, reason = "only a sandbox is reset")
    )]
    pub(super) fn follow_resets(&self, access: &Access) {
        #[cfg(feature = "sandbox")]
        if let Some(script) = &self.script {
            let access = access.clone();
            script.on_reset(Box::new(move || access.refill_quotas()));
        }
    }
}

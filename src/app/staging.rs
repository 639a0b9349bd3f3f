//! Selects the service that answers calls: the real one, or the fault-injecting one of a sandbox.

#[cfg(feature = "sandbox")]
use std::sync::Arc;

use tonic::service::Routes;

use crate::{access::Access, server::Handlers, service::OttService};
#[cfg(feature = "sandbox")]
use crate::{fault_injection::FaultInjector, service::FaultInjectingService};

/// The service that answers calls; by default the real one.
#[derive(Clone, Debug, Default)]
pub(super) struct Staging {
    #[cfg(feature = "sandbox")]
    injector: Option<Arc<dyn FaultInjector>>,
}

impl Staging {
    /// Selects the service of a sandbox.
    #[cfg(feature = "sandbox")]
    pub(super) const fn of(injector: Arc<dyn FaultInjector>) -> Self {
        Self { injector: Some(injector) }
    }

    /// Returns the handlers of one worker.
    #[cfg_attr(not(feature = "sandbox"), expect(clippy::unused_self, reason = "it has no fields"))]
    pub(super) fn handlers(&self, service: OttService, routes: Routes) -> Handlers {
        #[cfg(feature = "sandbox")]
        if let Some(injector) = &self.injector {
            return Handlers::with_faults(FaultInjectingService::new(service, Arc::clone(injector)), routes);
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
        if let Some(injector) = &self.injector {
            let access = access.clone();
            injector.on_reset(Box::new(move || access.refill_quotas()));
        }
    }
}

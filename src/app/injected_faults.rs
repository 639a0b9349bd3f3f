//! Fault injection of a sandbox: selects the service that answers calls.

#[cfg(feature = "sandbox")]
use std::sync::Arc;

use tonic::service::Routes;

use crate::{access::Access, server::Handlers, service::OttService};
#[cfg(feature = "sandbox")]
use crate::{fault_injection::FaultInjector, service::FaultInjectingService};

/// Errors to inject; by default none.
#[derive(Clone, Debug, Default)]
pub(super) struct InjectedFaults {
    #[cfg(feature = "sandbox")]
    injector: Option<Arc<dyn FaultInjector>>,
}

impl InjectedFaults {
    /// Injects the faults that a sandbox decides on.
    #[cfg(feature = "sandbox")]
    pub(super) const fn from_injector(injector: Arc<dyn FaultInjector>) -> Self {
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

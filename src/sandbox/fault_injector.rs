//! Fault decisions of the sandbox for calls of the gateway.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::World;
use super::fault_request::{FaultRequest, Kind, UnknownFaultRequest};
use crate::fault_injection::{FaultDecision, FaultInjector};

/// Injects the faults that logins request.
pub(super) struct Demands(pub(super) Arc<World>);

impl FaultInjector for Demands {
    fn issue(&self, login: &str) -> FaultDecision {
        match FaultRequest::of(login, &self.0.accounts) {
            Some(Ok(FaultRequest::Issue(Kind::Gateway(reason, code)))) => FaultDecision::Fail(reason, code),
            // The simulated platform injects the others.
            None | Some(Ok(_)) => FaultDecision::Proceed,
            Some(Err(unknown)) => {
                warn(unknown);
                FaultDecision::Reject(unknown.rules())
            }
        }
    }

    fn login(&self, ott: &str) -> FaultDecision {
        match self.0.tokens.login(ott).and_then(|login| login.failure) {
            Some(Kind::Gateway(reason, code)) => FaultDecision::Fail(reason, code),
            Some(Kind::Platform(_)) | None => FaultDecision::Proceed,
        }
    }

    fn token_lifetime(&self) -> Duration {
        self.0.ott_lifetime
    }

    fn on_reset(&self, callback: Box<dyn Fn() + Send + Sync>) {
        self.0.forget.add(callback);
    }
}

impl fmt::Debug for Demands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Demands").finish_non_exhaustive()
    }
}

/// Warns on the terminal of the sandbox about a misspelled fault.
pub(super) fn warn(unknown: UnknownFaultRequest) {
    tracing::warn!(problem = %unknown, "login requests an unknown fault");
}

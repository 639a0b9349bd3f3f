//! Fault injection: the sandbox decides which calls fail, and the gateway in front of it fails them.
//!
//! This module and everything that uses it exist only with the cargo feature `sandbox`. A
//! [`FaultInjector`] reaches the gateway only as an argument of
//! [`App::start_with_faults`](crate::app::App::start_with_faults), which only the command `sandbox`
//! calls. No configuration of `serve` enables it. `service::fault_injection` makes the calls fail;
//! `sandbox` maps logins to faults.

use std::{fmt, time::Duration};

use crate::domain::reason::{FailureCode, Reason};

/// Decides which calls fail.
pub trait FaultInjector: Send + Sync + fmt::Debug {
    /// Returns what happens to an `IssueOtt` call for this login.
    fn issue(&self, login: &str) -> FaultDecision;

    /// Returns what happens to a `LoginWithOtt` call with this token.
    fn login(&self, ott: &str) -> FaultDecision;

    /// Returns the lifetime of the one-time tokens that the simulated platform issues.
    fn token_lifetime(&self) -> Duration;

    /// Registers a callback that resets state of the gateway. Runs at every reset of the sandbox.
    fn on_reset(&self, callback: Box<dyn Fn() + Send + Sync>);
}

/// Decision for one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultDecision {
    /// The gateway handles the call. The simulated platform may still fail it.
    Proceed,
    /// The call fails with this reason and this code.
    Fail(Reason, FailureCode),
    /// The login requests an unknown fault: `INVALID_REQUEST` with these descriptions, each as a
    /// violation of the field `login`.
    Reject(Vec<String>),
}

//! Failures on demand: the interface between the sandbox, which decides which calls fail, and the
//! gateway in front of it, which fails them.
//!
//! This module and everything that uses it exist only with the cargo feature `sandbox`. A
//! [`Script`] reaches the gateway in one way, as an argument of
//! [`App::rehearse`](crate::app::App::rehearse), which only the command `sandbox` calls. No
//! configuration of `serve` leads there. What a failure on demand does is in
//! `service::rehearsal`; which logins ask for one is in `sandbox`.

use std::{fmt, time::Duration};

use crate::reason::{FailureCode, Reason};

/// Decides which calls fail on demand.
pub trait Script: Send + Sync + fmt::Debug {
    /// Returns what happens to an `IssueOtt` call for this login.
    fn issue(&self, login: &str) -> Cue;

    /// Returns what happens to a `LoginWithOtt` call with this token.
    fn login(&self, ott: &str) -> Cue;

    /// Lifetime of the one-time tokens that the copy of the platform issues.
    fn token_lifetime(&self) -> Duration;

    /// Takes over what makes the gateway forget its own state, to be called at every reset.
    fn on_reset(&self, forget: Box<dyn Fn() + Send + Sync>);
}

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cue {
    /// The gateway does its work. The copy of the platform may still let it fail.
    Perform,
    /// The call fails with this reason and this code.
    Fail(Reason, FailureCode),
    /// The login asks for a failure that does not exist: `INVALID_REQUEST` with these rules, each
    /// as a violation of the field `login`.
    Refuse(Vec<String>),
}

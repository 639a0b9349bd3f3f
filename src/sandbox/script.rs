//! The sandbox as the author of failures on demand: what the gateway asks it about each call.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::World;
use super::demand::{Demand, Kind, UnknownDemand};
use crate::rehearsal::{Cue, Script};

/// The failures that the gateway in front of a sandbox makes.
pub(super) struct Demands(pub(super) Arc<World>);

impl Script for Demands {
    fn issue(&self, login: &str) -> Cue {
        match Demand::of(login, &self.0.accounts) {
            Some(Ok(Demand::Issue(Kind::Gateway(reason, code)))) => Cue::Fail(reason, code),
            // The copy of the platform makes the others.
            None | Some(Ok(_)) => Cue::Perform,
            Some(Err(unknown)) => {
                warn(unknown);
                Cue::Refuse(unknown.rules())
            }
        }
    }

    fn login(&self, ott: &str) -> Cue {
        match self.0.tokens.login(ott).and_then(|login| login.failure) {
            Some(Kind::Gateway(reason, code)) => Cue::Fail(reason, code),
            Some(Kind::Platform(_)) | None => Cue::Perform,
        }
    }

    fn token_lifetime(&self) -> Duration {
        self.0.ott_lifetime
    }

    fn on_reset(&self, forget: Box<dyn Fn() + Send + Sync>) {
        self.0.forget.add(forget);
    }
}

impl fmt::Debug for Demands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Demands").finish_non_exhaustive()
    }
}

/// Warns on the terminal of the sandbox, so that a misspelled failure is noticed.
pub(super) fn warn(unknown: UnknownDemand) {
    tracing::warn!(problem = %unknown, "no such failure on demand");
}

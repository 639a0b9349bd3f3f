//! The state of a credential: the result of its token requests, and when the next is due.
//!
//! Nothing here waits. The tokens themselves are in [`tokens`](super::tokens).

use std::time::Duration;

use super::{CredentialError, CredentialHealth};
use crate::clock::{self, Instant};

/// Retry delay for a call that arrives after the task has stopped; another replica will
/// answer it.
const AFTER_STOP: Duration = Duration::from_secs(1);

/// The state of a credential.
#[derive(Debug)]
pub(super) struct State {
    stage: Stage,
    /// Whether a token request is in progress or due at once.
    requested: bool,
    /// Number of token requests that have ended.
    ended: u64,
    /// Whether there was ever a token.
    had_token: bool,
    /// Number of tokens in a row that were replaced because the API never accepted them.
    pub(super) given_up: u32,
}

#[derive(Debug)]
enum Stage {
    /// The first token request has not ended.
    Starting,
    /// The last token request was successful.
    InService,
    /// The last token request failed.
    Failing(Failing),
    /// The task has ended: there will be no more token requests.
    Stopped { since: Instant },
}

#[derive(Debug)]
struct Failing {
    error: CredentialError,
    since: Instant,
    /// When the next request is due; none if only another secret leads to one.
    retry_at: Option<Instant>,
    /// The last definite refusal, if there was one since a token was last in service.
    refused: Option<Refused>,
    /// Whether a token was still in service when the request failed.
    token_in_service: bool,
}

#[derive(Clone, Debug)]
struct Refused {
    since: Instant,
    error: CredentialError,
}

impl Failing {
    fn is_due(&self) -> bool {
        self.retry_at.is_some_and(|at| at <= clock::now())
    }

    /// The error for a call, with the rest of the pause.
    fn error(&self) -> CredentialError {
        let rest = self.retry_at.map(|at| at.saturating_duration_since(clock::now()));
        self.error.clone().with_retry_after(rest)
    }
}

impl State {
    pub(super) const fn new() -> Self {
        Self {
            stage: Stage::Starting,
            // The first request is due from the start: a call that comes early waits for it.
            requested: true,
            ended: 0,
            had_token: false,
            given_up: 0,
        }
    }

    /// How the credential is doing.
    pub(super) fn health(&self) -> CredentialHealth {
        match &self.stage {
            Stage::Starting => CredentialHealth::Starting,
            Stage::InService | Stage::Failing(Failing { token_in_service: true, .. }) => {
                CredentialHealth::Usable
            }
            Stage::Failing(Failing { refused: Some(refused), .. }) => CredentialHealth::Refused {
                since: refused.since,
                had_token: self.had_token,
                error: refused.error.clone(),
            },
            Stage::Failing(Failing { since, .. }) | Stage::Stopped { since } => {
                CredentialHealth::Failing { since: *since, had_token: self.had_token }
            }
        }
    }

    /// Whether a token request is in progress or due at once.
    pub(super) const fn is_requested(&self) -> bool {
        self.requested
    }

    /// Why no token can be requested now: the task has stopped, or pauses after a failure.
    pub(super) fn obstacle(&self) -> Option<CredentialError> {
        match &self.stage {
            Stage::Stopped { .. } => Some(stopped()),
            // A call that comes back when the pause is over does not get the old failure.
            Stage::Failing(failing) if !failing.is_due() => Some(failing.error()),
            _ => None,
        }
    }

    /// Why the last token request failed, if it did.
    pub(super) fn failure(&self) -> Option<CredentialError> {
        match &self.stage {
            Stage::Failing(failing) => Some(failing.error()),
            _ => None,
        }
    }

    /// Makes a token request due. Returns whether none was before.
    pub(super) const fn request(&mut self) -> bool {
        let is_new = !self.requested && !self.is_stopped();
        self.requested |= is_new;
        is_new
    }

    /// The end of the request that is in progress or due.
    pub(super) const fn next_end(&self) -> Awaited {
        Awaited(self.ended + 1)
    }

    /// Whether that request has ended, or never will.
    pub(super) const fn has_ended(&self, awaited: Awaited) -> bool {
        self.ended >= awaited.0 || self.is_stopped()
    }

    /// A token request returned a token.
    pub(super) fn succeeded(&mut self) {
        self.had_token = true;
        self.end(Stage::InService);
    }

    /// A token request failed. `token_in_service`: whether there is a token all the same.
    pub(super) fn failed(
        &mut self,
        error: CredentialError,
        retry_at: Option<Instant>,
        token_in_service: bool,
    ) {
        let now = clock::now();
        let before = match &self.stage {
            Stage::Failing(failing) if !failing.token_in_service && !token_in_service => Some(failing),
            _ => None,
        };
        // A refusal still applies if the platform then stops answering.
        let refused = before.and_then(|failing| failing.refused.clone());
        let refused = if error.kind().is_refusal() && !token_in_service {
            let since = refused.map_or(now, |refused| refused.since);
            Some(Refused { since, error: error.clone() })
        } else {
            refused
        };
        let since = before.map_or(now, |failing| failing.since);
        self.end(Stage::Failing(Failing { error, since, retry_at, refused, token_in_service }));
    }

    fn end(&mut self, stage: Stage) {
        self.stage = stage;
        self.requested = false;
        self.ended += 1;
    }

    /// There will be no more token requests.
    pub(super) fn stopped(&mut self) {
        self.stage = Stage::Stopped { since: clock::now() };
        self.requested = false;
    }

    pub(super) const fn is_stopped(&self) -> bool {
        matches!(self.stage, Stage::Stopped { .. })
    }
}

/// The error of a call that comes after the task has ended.
pub(super) fn stopped() -> CredentialError {
    CredentialError::failing("the gateway is stopping").with_retry_after(Some(AFTER_STOP))
}

/// The error of a call for which the token that was just fetched came too late.
pub(super) fn unusable() -> CredentialError {
    CredentialError::failing("the new access token is not valid for long enough")
        .with_retry_after(Some(AFTER_STOP))
}

/// A token request that has to end first, by its number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Awaited(u64);

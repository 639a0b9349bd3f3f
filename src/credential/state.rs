//! State of a credential: the result of its token requests, and when the next is due.
//!
//! Nothing here waits. The tokens themselves are in [`tokens`](super::tokens).

use std::time::Duration;

use super::{CredentialError, CredentialHealth};
use crate::base::clock::{self, Instant};

/// Retry delay for a call that arrives after the task has stopped; another replica will serve it.
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
    /// The first token request has not completed.
    Starting,
    /// The last token request was successful.
    InService,
    /// The last token request failed.
    Failing(Failing),
    /// The task has stopped: there are no more token requests.
    Stopped { since: Instant },
}

#[derive(Debug)]
struct Failing {
    error: CredentialError,
    since: Instant,
    /// When the next request is due; `None` if only another secret leads to one.
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

    /// Returns the error for a call, with the rest of the pause as its retry delay.
    fn error(&self) -> CredentialError {
        let rest = self.retry_at.map(|at| at.saturating_duration_since(clock::now()));
        self.error.clone().with_retry_after(rest)
    }
}

impl State {
    pub(super) const fn new() -> Self {
        Self {
            stage: Stage::Starting,
            // The first request is due from the start, so that an early call waits for it.
            requested: true,
            ended: 0,
            had_token: false,
            given_up: 0,
        }
    }

    /// Returns the health of the credential.
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

    /// Returns why no token can be requested now: the task has stopped, or pauses after a failure.
    pub(super) fn obstacle(&self) -> Option<CredentialError> {
        match &self.stage {
            Stage::Stopped { .. } => Some(stopped()),
            // A call that retries when the pause is over must not get the old failure.
            Stage::Failing(failing) if !failing.is_due() => Some(failing.error()),
            _ => None,
        }
    }

    /// Returns why the last token request failed, if it did.
    pub(super) fn failure(&self) -> Option<CredentialError> {
        match &self.stage {
            Stage::Failing(failing) => Some(failing.error()),
            _ => None,
        }
    }

    /// Makes a token request due. Returns whether none was due before.
    pub(super) const fn request(&mut self) -> bool {
        let is_new = !self.requested && !self.is_stopped();
        self.requested |= is_new;
        is_new
    }

    /// Returns the number of the request that is in progress or due.
    pub(super) const fn next_end(&self) -> Awaited {
        Awaited(self.ended + 1)
    }

    /// Returns whether that request has ended, or never will because the task has stopped.
    pub(super) const fn has_ended(&self, awaited: Awaited) -> bool {
        self.ended >= awaited.0 || self.is_stopped()
    }

    /// Records that a token request returned a token.
    pub(super) fn succeeded(&mut self) {
        self.had_token = true;
        self.end(Stage::InService);
    }

    /// Records that a token request failed. `token_in_service`: whether an earlier token is still
    /// in service.
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

    /// Records that there are no more token requests.
    pub(super) fn stopped(&mut self) {
        self.stage = Stage::Stopped { since: clock::now() };
        self.requested = false;
    }

    pub(super) const fn is_stopped(&self) -> bool {
        matches!(self.stage, Stage::Stopped { .. })
    }
}

/// Returns the error of a call that arrives after the task has stopped.
pub(super) fn stopped() -> CredentialError {
    CredentialError::failing("the gateway is stopping").with_retry_after(Some(AFTER_STOP))
}

/// Returns the error of a call that finds the token just fetched already unusable.
pub(super) fn unusable() -> CredentialError {
    CredentialError::failing("the new access token is not valid for long enough")
        .with_retry_after(Some(AFTER_STOP))
}

/// Number of the token request that a call waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Awaited(u64);

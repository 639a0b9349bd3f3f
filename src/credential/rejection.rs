//! Decides what follows when the platform refuses an access token with a 401.
//!
//! A 401 has four possible causes: the token was revoked, it has expired early, the API does
//! not know a new token yet, or the platform refuses this one user. Trying another token
//! separates the first three from the fourth. The age of the token and the subjects of other
//! refused calls separate a revocation from a delay.

use std::{hash::BuildHasher, time::Duration};

use super::{
    CredentialError, CredentialErrorKind,
    access_token::{Bearer, Replays},
    shared::Shared,
    state::{Awaited, Forced, State, stopped},
    tokens::{Tokens, YOUNG},
};
use crate::{backoff::jittered, call::Deadline};

/// Minimum interval between two token requests that refusals of one subject lead to, so that
/// one user whose 401 persists does not stall the others. Refusals of two subjects are not
/// limited by it.
pub(super) const FORCED_REFRESH_FLOOR: Duration = Duration::from_secs(10);

/// Maximum wait before a call is sent again with the same token.
const SAME_TOKEN_WAIT: Duration = Duration::from_secs(1);

/// Retry delay for a caller while the API does not accept the token yet.
const NOT_ACCEPTED_RETRY: Duration = Duration::from_secs(1);

/// How long a new token has to be accepted when the one before it is known to be revoked.
const REVOKED_PATIENCE: Duration = Duration::from_secs(1);

/// Time after which a new token that was never accepted is replaced, even while an older one
/// is in service.
const MAX_PATIENCE: Duration = Duration::from_mins(1);

/// How a call proceeds after the platform has answered it with a 401.
#[derive(Clone, Debug)]
pub enum Replay {
    /// It is sent again with this token at once.
    Now(Bearer),
    /// It is sent again with this token after the wait: the API may not know the token yet.
    /// The wait fits the call's deadline.
    After(Duration, Bearer),
    /// It is not sent again: the 401 is about this user, and is the answer.
    Never,
}

enum Decision {
    Replay(Replay),
    Error(CredentialError),
    /// A token request has to end first.
    Wait(Awaited),
}

impl Shared {
    /// Decides how a call for `subject` proceeds after the platform has refused `refused`.
    pub(super) async fn after_rejection(
        &self,
        refused: &Bearer,
        subject: &str,
        deadline: Deadline,
    ) -> Result<Replay, CredentialError> {
        // 0 means that there is no subject.
        let subject = self.subjects.hash_one(subject).max(1);
        let awaited = match self.locked(|state| self.decide(state, refused, subject, deadline)) {
            Some(Decision::Replay(replay)) => return Ok(replay),
            Some(Decision::Error(error)) => return Err(error),
            Some(Decision::Wait(awaited)) => awaited,
            None => return Err(stopped()),
        };
        let failure = self.ended(awaited, deadline).await?;
        let now = self.now();
        let tokens = self.tokens().filter(|tokens| tokens.newest().is_usable(now));
        match tokens.filter(|tokens| !refused.has_tried(tokens.newest())) {
            Some(tokens) => {
                let replays = Replays { refreshed: true, ..refused.replays() };
                Ok(Replay::Now(refused.replaced_by(tokens.newest(), replays)))
            }
            None => Err(failure),
        }
    }

    fn decide(&self, state: &mut State, refused: &Bearer, subject: u64, deadline: Deadline) -> Decision {
        refused.token().refuse(subject);
        let now = self.now();
        let Some(tokens) = self.tokens() else { return Decision::Wait(self.order(state)) };
        if let Some(other) = tokens.instead_of(refused, now) {
            let newest = tokens.newest();
            if refused.is(newest)
                && newest.age(now.instant) >= MAX_PATIENCE
                && state.obstacle().is_none()
                && !state.is_requested()
            {
                // The call does not wait for it, because the older token works.
                state.given_up = state.given_up.saturating_add(1);
                self.order(state);
            }
            return Decision::Replay(Replay::Now(refused.replaced_by(other, refused.replays())));
        }
        if state.is_requested() {
            return Decision::Wait(self.order(state));
        }
        let patience = patience(&tokens, state, self);
        let age = tokens.newest().age(now.instant);
        if !tokens.newest().is_accepted() && age < patience {
            return self.not_accepted_yet(state, &tokens, refused, patience.saturating_sub(age), deadline);
        }
        self.refresh(state, &tokens, refused, subject)
    }

    /// The newest token is so young that the API may not know it, and no other one helps.
    fn not_accepted_yet(
        &self,
        state: &State,
        tokens: &Tokens,
        refused: &Bearer,
        rest: Duration,
        deadline: Deadline,
    ) -> Decision {
        let replays = refused.replays();
        let may_be_a_delay = match tokens.previous(self.now()) {
            // No token has worked yet, and none has been given up: a delay is possible.
            None => state.given_up == 0,
            // This call was refused with it too. If others were as well, it was revoked.
            Some(previous) => previous.is_refused_by_several(),
        };
        let wait = jittered(SAME_TOKEN_WAIT, 0.5, 1.0);
        let fits = deadline.remaining() > wait;
        let again = |replays| Replay::After(wait, refused.replaced_by(tokens.newest(), replays));
        if may_be_a_delay && fits {
            Decision::Replay(again(replays))
        } else if may_be_a_delay {
            let error = CredentialError::new(CredentialErrorKind::NotAcceptedYet, "HTTP status 401");
            Decision::Error(error.with_retry_after(Some(NOT_ACCEPTED_RETRY)))
        } else if !replays.refreshed {
            Decision::Error(limited(rest))
        } else if !replays.waited && fits {
            Decision::Replay(again(Replays { waited: true, ..replays }))
        } else {
            Decision::Replay(Replay::Never)
        }
    }

    /// Replaces the newest token, which has worked before or was given enough time.
    fn refresh(&self, state: &mut State, tokens: &Tokens, refused: &Bearer, subject: u64) -> Decision {
        if refused.replays().refreshed {
            return Decision::Replay(Replay::Never);
        }
        if let Some(error) = state.obstacle() {
            return Decision::Error(error);
        }
        let (now, newest) = (self.now().instant, tokens.newest());
        if let Some(forced) = state.forced.filter(|forced| forced.subject == subject)
            && now < forced.at + FORCED_REFRESH_FLOOR
            && !newest.is_refused_by_several()
        {
            return Decision::Error(limited((forced.at + FORCED_REFRESH_FLOOR).duration_since(now)));
        }
        state.forced = Some(Forced { at: now, subject });
        if !newest.is_accepted() {
            state.given_up = state.given_up.saturating_add(1);
        }
        Decision::Wait(self.order(state))
    }
}

/// How long the newest token has to be accepted before it is replaced. Grows with each token
/// that was replaced without having been accepted: replacing it restarts the delay after
/// which the API knows it.
fn patience(tokens: &Tokens, state: &State, shared: &Shared) -> Duration {
    let is_revoked = tokens.previous(shared.now()).is_some_and(|previous| previous.is_refused_by_several())
        && tokens.newest().is_refused_by_several();
    let base = if is_revoked { REVOKED_PATIENCE } else { YOUNG };
    base.saturating_mul(4_u32.saturating_pow(state.given_up)).min(MAX_PATIENCE)
}

fn limited(rest: Duration) -> CredentialError {
    let error = CredentialError::new(CredentialErrorKind::RefreshLimited, "HTTP status 401");
    error.with_retry_after(Some(rest.min(FORCED_REFRESH_FLOOR)))
}

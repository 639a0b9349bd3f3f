//! Handles a 401 of the platform: decides whether and how a call is sent again.
//!
//! A 401 has four possible causes: the token was revoked, the token has expired early, the API does
//! not know a new token yet, or the platform refuses this user. Trying another token distinguishes
//! the first three from the fourth.
//!
//! Only the age of a token distinguishes a revocation from a delay: nodes of a platform can learn
//! of a token at different times, so a token that one node accepts may be unknown to the next. A
//! token younger than 10 s is therefore not replaced because of a 401, which would restart the
//! delay, unless several users that were all refused show that it was revoked. This also limits
//! token requests caused by the 401 of one user to one in 10 s.

use std::{hash::BuildHasher, sync::Arc, time::Duration};

use super::{
    CredentialError, CredentialErrorKind,
    access_token::{AccessToken, Bearer, Now, Replays},
    shared::CredentialState,
    state::{Awaited, State, stopped},
    tokens::{Tokens, YOUNG},
};
use crate::{base::backoff::jittered, domain::call::Deadline};

/// Maximum delay before a call is sent again with the same token.
const SAME_TOKEN_WAIT: Duration = Duration::from_secs(1);

/// Retry delay for a caller while the API does not accept the token yet.
const NOT_ACCEPTED_RETRY: Duration = Duration::from_secs(1);

/// Time without an accepted call after which refusals of several subjects are attributed to the
/// token.
const REVOKED_AFTER: Duration = Duration::from_secs(2);

/// Time after which a new token that was never accepted is replaced, even while the previous one is
/// in service.
const MAX_PATIENCE: Duration = Duration::from_mins(1);

/// How a call proceeds after the platform has answered it with a 401.
#[derive(Clone, Debug)]
pub enum Replay {
    /// It is sent again with this token at once.
    Now(Bearer),
    /// It is sent again with this token after the delay: the API may not know the token yet. The
    /// delay fits the call's deadline.
    After(Duration, Bearer),
    /// It is not sent again: the 401 is about this user, and is final.
    Never,
}

enum Decision {
    Replay(Replay),
    Error(CredentialError),
    /// A token request has to complete first.
    Wait(Awaited),
}

impl CredentialState {
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
        let now = self.now();
        refused.token().refuse(subject, now.instant);
        let Some(tokens) = self.tokens() else { return Decision::Wait(self.order(state)) };
        if let Some(other) = tokens.instead_of(refused, now) {
            let newest = tokens.newest();
            if refused.is(newest)
                && newest.age(now.instant) >= MAX_PATIENCE
                && state.obstacle().is_none()
                && !state.is_requested()
            {
                // The call does not wait for the new token, because the previous one works.
                state.given_up = state.given_up.saturating_add(1);
                self.order(state);
            }
            return Decision::Replay(Replay::Now(refused.replaced_by(other, refused.replays())));
        }
        if state.is_requested() {
            return Decision::Wait(self.order(state));
        }
        let rest = patience(state).saturating_sub(tokens.newest().age(now.instant));
        if !rest.is_zero() && !is_revoked(&tokens, now) {
            return self.not_accepted_yet(state, &tokens, refused, rest, deadline);
        }
        self.refresh(state, &tokens, refused)
    }

    /// Decides for a newest token so young that some nodes may not know it, without another to use.
    fn not_accepted_yet(
        &self,
        state: &State,
        tokens: &Tokens,
        refused: &Bearer,
        rest: Duration,
        deadline: Deadline,
    ) -> Decision {
        let replays = refused.replays();
        let suspicion = Suspicion::of(tokens.previous(self.now()), state);
        let wait = jittered(SAME_TOKEN_WAIT, 0.5, 1.0);
        let fits = deadline.remaining() > wait;
        let again =
            |replays| Decision::Replay(Replay::After(wait, refused.replaced_by(tokens.newest(), replays)));
        match suspicion {
            Suspicion::Subject | Suspicion::Either if !replays.refreshed => Decision::Error(limited(rest)),
            Suspicion::Subject if replays.waited || !fits => Decision::Replay(Replay::Never),
            _ if fits => again(Replays { waited: true, ..replays }),
            _ => {
                let error = CredentialError::new(CredentialErrorKind::NotAcceptedYet, "HTTP status 401");
                Decision::Error(error.with_retry_after(Some(NOT_ACCEPTED_RETRY)))
            }
        }
    }

    /// Replaces the newest token, which every node has had time to accept.
    fn refresh(&self, state: &mut State, tokens: &Tokens, refused: &Bearer) -> Decision {
        if refused.replays().refreshed {
            return Decision::Replay(Replay::Never);
        }
        if let Some(error) = state.obstacle() {
            return Decision::Error(error);
        }
        if !tokens.newest().is_accepted() {
            state.given_up = state.given_up.saturating_add(1);
        }
        Decision::Wait(self.order(state))
    }
}

/// Returns whether a young token that was accepted is now refused for every subject, and the
/// previous one too. Nodes that learn of a token late do not cause this: others keep accepting it.
fn is_revoked(tokens: &Tokens, now: Now) -> bool {
    let newest = tokens.newest();
    newest.is_accepted()
        && newest.is_refused_by_several_for(REVOKED_AFTER, now.instant)
        && tokens.previous(now).is_none_or(|previous| previous.is_refused_by_several())
}

/// Likely cause of a 401 on a young token, if no token in service works for the call.
#[derive(Clone, Copy)]
enum Suspicion {
    /// The API does not know the token yet.
    Delay,
    /// The subject is refused: others are accepted.
    Subject,
    /// One of the two: no other call has used the previous token since, or the previous token was
    /// replaced because no node accepted it in time.
    Either,
}

impl Suspicion {
    /// `previous` is the previous token. If there is one, the call was refused with it too.
    fn of(previous: Option<&Arc<AccessToken>>, state: &State) -> Self {
        match previous {
            None if state.given_up == 0 => Self::Delay,
            Some(previous) if previous.is_refused_by_several() => Self::Delay,
            Some(previous) if !previous.is_refused() => Self::Subject,
            _ => Self::Either,
        }
    }
}

/// Returns how long the nodes have to accept the newest token before a 401 leads to a token
/// request. Grows with each token that was replaced without having been accepted, because each
/// replacement restarts the delay.
fn patience(state: &State) -> Duration {
    YOUNG.saturating_mul(4_u32.saturating_pow(state.given_up)).min(MAX_PATIENCE)
}

fn limited(rest: Duration) -> CredentialError {
    let error = CredentialError::new(CredentialErrorKind::RefreshLimited, "HTTP status 401");
    error.with_retry_after(Some(rest.min(YOUNG)))
}

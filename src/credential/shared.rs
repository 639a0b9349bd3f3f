//! State shared by calls and the refresh task.
//!
//! Nothing here sends a request: calls order one, wait for the one in progress to end, and read the
//! tokens that the task publishes. [`rejection`](super::rejection) handles a 401.

use std::{hash::RandomState, sync::Arc};

use arc_swap::ArcSwapOption;
use tokio::{
    sync::{Notify, watch},
    time::timeout_at,
};

use super::{
    CredentialError, CredentialErrorKind,
    access_token::{AccessToken, Bearer, Now},
    state::{Awaited, State, stopped, unusable},
    tokens::Tokens,
};
use crate::{
    base::clock::{self, Instant, WallClock},
    domain::call::Deadline,
};

#[derive(Debug)]
pub(super) struct CredentialState {
    /// Tokens that calls use. Written before `state`, so that a call that sees a new state finds
    /// its token here.
    tokens: ArcSwapOption<Tokens>,
    state: watch::Sender<State>,
    ordered: Notify,
    wall: WallClock,
    pub(super) subjects: RandomState,
}

/// Interface for calls.
impl CredentialState {
    pub(super) fn new(wall: WallClock) -> Self {
        Self {
            tokens: ArcSwapOption::empty(),
            state: watch::Sender::new(State::new()),
            ordered: Notify::new(),
            wall,
            subjects: RandomState::new(),
        }
    }

    pub(super) fn now(&self) -> Now {
        Now { instant: clock::now(), wall: self.wall.now() }
    }

    /// Returns the token for a call that begins now. Takes no lock and does not allocate.
    pub(super) fn current(&self) -> Option<Bearer> {
        self.tokens.load().as_ref()?.select(self.now())
    }

    pub(super) fn tokens(&self) -> Option<Arc<Tokens>> {
        self.tokens.load_full()
    }

    pub(super) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Returns a token from the request in progress, or from one that this call orders.
    pub(super) async fn next(&self, deadline: Deadline) -> Result<Bearer, CredentialError> {
        enum Next {
            Token(Bearer),
            Error(CredentialError),
            Wait(Awaited),
        }
        let next = self.locked(|state| {
            if let Some(bearer) = self.current() {
                return Next::Token(bearer);
            }
            if !state.is_requested()
                && let Some(error) = state.obstacle()
            {
                return Next::Error(error);
            }
            Next::Wait(self.order(state))
        });
        let awaited = match next {
            Some(Next::Token(bearer)) => return Ok(bearer),
            Some(Next::Error(error)) => return Err(error),
            Some(Next::Wait(awaited)) => awaited,
            None => return Err(stopped()),
        };
        let failure = self.ended(awaited, deadline).await?;
        self.current().ok_or(failure)
    }

    /// Decides under the lock of the state, so that one of several concurrent calls orders a
    /// request and the others join it. Wakes no waiters.
    pub(super) fn locked<T>(&self, decide: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut decided = None;
        self.state.send_if_modified(|state| {
            decided = Some(decide(state));
            false
        });
        decided
    }

    /// Orders a token request, or joins the one in progress.
    pub(super) fn order(&self, state: &mut State) -> Awaited {
        if state.request() {
            self.ordered.notify_one();
        }
        state.next_end()
    }

    /// Waits for a token request to end. Returns the error for a call that then finds no token in
    /// service.
    pub(super) async fn ended(
        &self,
        awaited: Awaited,
        deadline: Deadline,
    ) -> Result<CredentialError, CredentialError> {
        let mut state = self.state.subscribe();
        let over = |state: &State| state.has_ended(awaited);
        let waited = timeout_at(deadline.instant(), async {
            // The sender is owned by `self`: waiting cannot fail.
            state.wait_for(over).await.ok().and_then(|state| state.failure())
        });
        let failure =
            waited.await.map_err(|_| CredentialError::new(CredentialErrorKind::DeadlinePassed, ""))?;
        Ok(failure.unwrap_or_else(|| if self.state.borrow().is_stopped() { stopped() } else { unusable() }))
    }

    /// Records that the API has accepted a token.
    pub(super) fn accepted(&self, bearer: &Bearer) {
        if bearer.token().accept() {
            self.locked(|state| state.given_up = 0);
        }
    }
}

/// Interface for the refresh task.
impl CredentialState {
    pub(super) const fn wall(&self) -> &WallClock {
        &self.wall
    }

    /// Returns whether a call that begins now gets a token.
    pub(super) fn has_usable_token(&self) -> bool {
        self.tokens.load().as_ref().is_some_and(|tokens| tokens.are_usable(self.now()))
    }

    /// Waits until a call orders a token request.
    pub(super) async fn ordered(&self) {
        loop {
            self.ordered.notified().await;
            // If the timer of the task fired before it saw an order, a stale permit is left.
            if self.state.borrow().is_requested() {
                return;
            }
        }
    }

    /// Makes calls wait for the request that follows.
    pub(super) fn request_due(&self) {
        self.locked(State::request);
    }

    /// Records that a token request returned this token.
    pub(super) fn succeeded(&self, token: AccessToken) {
        let tokens = Tokens::after(self.tokens.load().as_deref(), token, self.now());
        self.tokens.store(Some(Arc::new(tokens)));
        self.state.send_modify(State::succeeded);
    }

    /// Records that a token request failed. The next is due at `retry_at`; `None` if only another
    /// secret leads to one. Tokens stay in service.
    pub(super) fn failed(&self, error: CredentialError, retry_at: Option<Instant>) {
        let token_in_service = self.has_usable_token();
        self.state.send_modify(|state| state.failed(error, retry_at, token_in_service));
    }

    /// Records that the task has stopped, so that calls no longer wait for it.
    pub(super) fn stopped(&self) {
        self.state.send_modify(State::stopped);
    }
}

//! State shared by calls and the refresh task.
//!
//! Nothing here sends a request: calls order one, wait for the end of the one in progress,
//! and read the tokens that the task has put into service. What follows from a 401 is in
//! [`rejection`](super::rejection).

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
    call::Deadline,
    clock::{self, Instant, WallClock},
};

#[derive(Debug)]
pub(super) struct Shared {
    /// The tokens that calls use. Written before `state`, so that a call that sees a new
    /// state finds its token here.
    tokens: ArcSwapOption<Tokens>,
    state: watch::Sender<State>,
    ordered: Notify,
    wall: WallClock,
    pub(super) subjects: RandomState,
}

/// For calls.
impl Shared {
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

    /// The token for a call that begins now. Takes no lock and does not allocate.
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

    /// Decides under the lock of the state, so that of any number of calls one orders a
    /// request and the others join it. Nobody is woken.
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

    /// Waits for the end of a token request. Returns the error for a call that finds no
    /// token in service after it.
    pub(super) async fn ended(
        &self,
        awaited: Awaited,
        deadline: Deadline,
    ) -> Result<CredentialError, CredentialError> {
        let mut state = self.state.subscribe();
        let over = |state: &State| state.has_ended(awaited);
        let waited = timeout_at(deadline.instant(), async {
            // The sender lives as long as `self`: waiting cannot fail.
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

/// For the refresh task.
impl Shared {
    pub(super) const fn wall(&self) -> &WallClock {
        &self.wall
    }

    /// Whether a call that begins now gets a token.
    pub(super) fn has_usable_token(&self) -> bool {
        self.tokens.load().as_ref().is_some_and(|tokens| tokens.are_usable(self.now()))
    }

    /// Waits until a call orders a token request.
    pub(super) async fn ordered(&self) {
        loop {
            self.ordered.notified().await;
            // If the task's timer fired before an order was seen, its permit is left over.
            if self.state.borrow().is_requested() {
                return;
            }
        }
    }

    /// From now on calls wait for the request that follows.
    pub(super) fn request_due(&self) {
        self.locked(State::request);
    }

    /// A token request returned this token.
    pub(super) fn succeeded(&self, token: AccessToken) {
        let tokens = Tokens::after(self.tokens.load().as_deref(), token, self.now());
        self.tokens.store(Some(Arc::new(tokens)));
        self.state.send_modify(State::succeeded);
    }

    /// A token request failed, and the next is due at `retry_at`; none if only another
    /// secret leads to one. The tokens in service stay there.
    pub(super) fn failed(&self, error: CredentialError, retry_at: Option<Instant>) {
        let token_in_service = self.has_usable_token();
        self.state.send_modify(|state| state.failed(error, retry_at, token_in_service));
    }

    /// The task has ended: calls do not wait for it any longer.
    pub(super) fn stopped(&self) {
        self.state.send_modify(State::stopped);
    }
}

//! The state of a credential, shared by calls and the refresh task.
//!
//! Nothing here sends a request: calls order one, wait for the end of the one in progress,
//! and read the tokens that the task has put into service. What follows from a 401 is in
//! [`rejection`](super::rejection).

use std::{hash::RandomState, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use tokio::{
    sync::{Notify, watch},
    time::timeout_at,
};

use super::{
    CredentialError, CredentialErrorKind, CredentialHealth,
    access_token::{AccessToken, Bearer},
    tokens::{Now, Tokens},
};
use crate::{
    call::Deadline,
    clock::{self, Instant, WallClock},
};

/// When to ask again once the task has been stopped: another replica will answer.
const AFTER_STOP: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Shared {
    /// What calls read. Written before `state`, so that whoever sees a new state finds its
    /// token here.
    tokens: ArcSwapOption<Tokens>,
    state: watch::Sender<State>,
    ordered: Notify,
    wall: WallClock,
    pub(super) subjects: RandomState,
}

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
    /// The last token request that a 401 led to.
    pub(super) forced: Option<Forced>,
    /// Number of tokens in a row that were given up because the API never accepted them.
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
    /// Whether a token was in service all the same when the request failed.
    token_in_service: bool,
}

#[derive(Clone, Debug)]
struct Refused {
    since: Instant,
    error: CredentialError,
}

/// A token request that a 401 led to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forced {
    pub(super) at: Instant,
    /// The subject of the refused call.
    pub(super) subject: u64,
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
                CredentialHealth::Failing { since: *since }
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

    fn failure(&self) -> Option<CredentialError> {
        match &self.stage {
            Stage::Failing(failing) => Some(failing.error()),
            _ => None,
        }
    }
}

pub(super) fn stopped() -> CredentialError {
    CredentialError::failing("the gateway is stopping").with_retry_after(Some(AFTER_STOP))
}

/// The number of ended requests to wait for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Awaited(u64);

/// For calls.
impl Shared {
    pub(super) fn new(wall: WallClock) -> Self {
        let state = State {
            stage: Stage::Starting,
            // The first request is due from the start: a call that comes early waits for it.
            requested: true,
            ended: 0,
            had_token: false,
            forced: None,
            given_up: 0,
        };
        Self {
            tokens: ArcSwapOption::empty(),
            state: watch::Sender::new(state),
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

    /// A token from the request that is in progress or from one that this call orders.
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
            if !state.requested
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
        if !state.requested && !matches!(state.stage, Stage::Stopped { .. }) {
            state.requested = true;
            self.ordered.notify_one();
        }
        Awaited(state.ended + 1)
    }

    /// Waits for the end of a token request. Returns the error for a call that finds no
    /// token in service after it.
    pub(super) async fn ended(
        &self,
        awaited: Awaited,
        deadline: Deadline,
    ) -> Result<CredentialError, CredentialError> {
        let mut state = self.state.subscribe();
        let over = |state: &State| state.ended >= awaited.0 || matches!(state.stage, Stage::Stopped { .. });
        let waited = timeout_at(deadline.instant(), async {
            // The sender lives as long as `self`: waiting cannot fail.
            state.wait_for(over).await.ok().and_then(|state| state.failure())
        });
        let failure =
            waited.await.map_err(|_| CredentialError::new(CredentialErrorKind::DeadlinePassed, ""))?;
        Ok(failure.unwrap_or_else(stopped))
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
            // An order that the task's own timer has overtaken leaves its permit behind.
            if self.state.borrow().requested {
                return;
            }
        }
    }

    /// From now on calls wait for the request that follows.
    pub(super) fn request_due(&self) {
        self.locked(|state| state.requested = true);
    }

    /// A token request returned this token.
    pub(super) fn succeeded(&self, token: AccessToken) {
        let tokens = Tokens::after(self.tokens.load().as_deref(), token);
        self.tokens.store(Some(Arc::new(tokens)));
        self.end(|state| {
            state.had_token = true;
            state.stage = Stage::InService;
        });
    }

    /// A token request failed, and the next is due at `retry_at`; none if only another
    /// secret leads to one. The tokens in service stay there.
    pub(super) fn failed(&self, error: CredentialError, retry_at: Option<Instant>) {
        let (now, token_in_service) = (clock::now(), self.has_usable_token());
        self.end(|state| {
            let before = match &state.stage {
                Stage::Failing(failing) if !failing.token_in_service && !token_in_service => Some(failing),
                _ => None,
            };
            // A platform that then does not answer at all does not take a refusal back.
            let refused = before.and_then(|failing| failing.refused.clone());
            let refused = if error.kind().is_refusal() && !token_in_service {
                let since = refused.map_or(now, |refused| refused.since);
                Some(Refused { since, error: error.clone() })
            } else {
                refused
            };
            let since = before.map_or(now, |failing| failing.since);
            state.stage = Stage::Failing(Failing { error, since, retry_at, refused, token_in_service });
        });
    }

    fn end(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(|state| {
            change(state);
            state.requested = false;
            state.ended += 1;
        });
    }

    /// The task has ended: calls do not wait for it any longer.
    pub(super) fn stopped(&self) {
        self.state.send_modify(|state| {
            state.stage = Stage::Stopped { since: clock::now() };
            state.requested = false;
        });
    }
}

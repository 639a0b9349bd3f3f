//! What callers and the refresh task tell each other.
//!
//! Nothing here sends a request: callers order one, wait for the end of the one that is
//! under way, and read the token that the task has put into service.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::timeout_at,
};

use super::{
    CredentialError, CredentialHealth,
    access_token::{AccessToken, Bearer, Generation},
};
use crate::{
    call::Deadline,
    clock::{self, Instant, WallClock},
};

/// So many calls may wait for a token, as many as the gateway has in flight at most.
pub(super) const WAITING_ROOM: usize = 4_096;

/// At most one refresh for a refused token in this time, so that one user whose 401
/// persists cannot stall everyone.
pub(super) const FORCED_REFRESH_FLOOR: Duration = Duration::from_secs(10);

/// When to ask again once the task has been stopped: another replica will answer.
const AFTER_STOP: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Shared {
    token: ArcSwapOption<AccessToken>,
    progress: watch::Sender<Progress>,
    ordered: Notify,
    health: watch::Sender<CredentialHealth>,
    waiting_room: Semaphore,
    wall: WallClock,
}

/// How far the refresh task has come.
#[derive(Debug)]
struct Progress {
    stage: Stage,
    /// The token requests that have ended.
    ended: u64,
    /// Why the last one failed; none if it did not.
    failure: Option<Failed>,
    /// When a refusal last led to a token request.
    forced_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A token request is in flight, or due at once.
    Requesting,
    /// None is wanted: the token is fresh, or the task pauses after a failure.
    Resting,
    /// There will be no more.
    Stopped,
}

#[derive(Debug)]
struct Failed {
    error: CredentialError,
    /// When the next request is due; none if only another secret leads to one.
    retry_at: Option<Instant>,
}

impl Failed {
    fn retry_is_due(&self) -> bool {
        self.retry_at.is_some_and(|at| at <= clock::now())
    }

    fn error(&self) -> CredentialError {
        match &self.error {
            CredentialError::Failing { .. } => {
                let now = clock::now();
                let retry_at = self.retry_at.unwrap_or(now);
                CredentialError::Failing { retry_after: retry_at.saturating_duration_since(now) }
            }
            error => error.clone(),
        }
    }
}

/// What a caller without a usable token does next.
enum Joined {
    Answered(Result<Bearer, CredentialError>),
    /// Wait until so many requests have ended.
    Waits(u64),
}

/// For callers.
impl Shared {
    pub(super) fn new(wall: WallClock) -> Self {
        // The first request is due from the start: whoever comes early waits for it.
        let progress = Progress { stage: Stage::Requesting, ended: 0, failure: None, forced_at: None };
        Self {
            token: ArcSwapOption::empty(),
            progress: watch::Sender::new(progress),
            ordered: Notify::new(),
            health: watch::Sender::new(CredentialHealth::Starting),
            waiting_room: Semaphore::new(WAITING_ROOM),
            wall,
        }
    }

    pub(super) fn current(&self) -> Option<Bearer> {
        let token = self.token.load();
        let token = token.as_ref()?;
        token.is_usable(clock::now(), self.wall.now()).then(|| Bearer::new(Arc::clone(token)))
    }

    pub(super) fn health(&self) -> watch::Receiver<CredentialHealth> {
        self.health.subscribe()
    }

    /// A usable token other than `rejected`, from the request that is under way or from
    /// one that this call orders.
    pub(super) async fn next(
        &self,
        rejected: Option<Generation>,
        deadline: Deadline,
    ) -> Result<Bearer, CredentialError> {
        let mut progress = self.progress.subscribe();
        let awaited = match self.join(rejected) {
            Joined::Answered(answer) => return answer,
            Joined::Waits(awaited) => awaited,
        };
        let _place = self.waiting_room.try_acquire().map_err(|_| CredentialError::WaitingRoomFull)?;
        let over = |progress: &Progress| progress.ended >= awaited || progress.stage == Stage::Stopped;
        let failure = timeout_at(deadline.instant(), async {
            // The sender lives as long as `self`: waiting cannot fail.
            let progress = progress.wait_for(over).await.ok()?;
            progress.failure.as_ref().map(Failed::error)
        })
        .await
        .map_err(|_| CredentialError::DeadlinePassed)?;
        self.current_but(rejected)
            .ok_or_else(|| failure.unwrap_or(CredentialError::Failing { retry_after: AFTER_STOP }))
    }

    /// Decides under the lock of `progress`, so that of any number of callers one orders
    /// a request and the others join it.
    fn join(&self, rejected: Option<Generation>) -> Joined {
        let mut joined = None;
        self.progress.send_if_modified(|progress| {
            joined = Some(self.decide(progress, rejected));
            // Nobody waits for a request to begin.
            false
        });
        joined.unwrap_or(Joined::Answered(Err(CredentialError::Failing { retry_after: AFTER_STOP })))
    }

    fn decide(&self, progress: &mut Progress, rejected: Option<Generation>) -> Joined {
        if let Some(bearer) = self.current_but(rejected) {
            return Joined::Answered(Ok(bearer));
        }
        match progress.stage {
            Stage::Requesting => return Joined::Waits(progress.ended + 1),
            Stage::Stopped => {
                let error = CredentialError::Failing { retry_after: AFTER_STOP };
                return Joined::Answered(Err(error));
            }
            Stage::Resting => {}
        }
        if let Some(failed) = &progress.failure {
            // Who comes back when told to finds the pause over, not the old failure.
            if !failed.retry_is_due() {
                return Joined::Answered(Err(failed.error()));
            }
        } else if rejected.is_some() && self.current().is_some() {
            let now = clock::now();
            if progress.forced_at.is_some_and(|at| now < at + FORCED_REFRESH_FLOOR) {
                return Joined::Answered(Err(CredentialError::Rejected));
            }
            progress.forced_at = Some(now);
        }
        progress.stage = Stage::Requesting;
        self.ordered.notify_one();
        Joined::Waits(progress.ended + 1)
    }

    fn current_but(&self, rejected: Option<Generation>) -> Option<Bearer> {
        self.current().filter(|bearer| Some(bearer.generation()) != rejected)
    }
}

/// For the refresh task.
impl Shared {
    pub(super) const fn wall(&self) -> &WallClock {
        &self.wall
    }

    /// Waits until a caller orders a token request.
    pub(super) async fn ordered(&self) {
        loop {
            self.ordered.notified().await;
            // An order that the task's own timer has overtaken leaves its mark behind.
            if self.progress.borrow().stage == Stage::Requesting {
                return;
            }
        }
    }

    pub(super) fn token(&self) -> Option<Arc<AccessToken>> {
        self.token.load_full()
    }

    /// From now on callers wait for the request that follows.
    pub(super) fn request_due(&self) {
        self.progress.send_if_modified(|progress| {
            progress.stage = Stage::Requesting;
            false
        });
    }

    /// A token request gave this token.
    pub(super) fn succeeded(&self, token: AccessToken) {
        // First the token, then the news: who hears the news finds the token.
        self.token.store(Some(Arc::new(token)));
        self.health.send_if_modified(|health| {
            let changed = *health != CredentialHealth::Usable;
            *health = CredentialHealth::Usable;
            changed
        });
        self.progress.send_modify(|progress| {
            progress.stage = Stage::Resting;
            progress.ended += 1;
            progress.failure = None;
        });
    }

    /// A token request failed, and the next is due at `retry_at`; none if only another
    /// secret leads to one. The token in service stays there.
    pub(super) fn failed(&self, error: CredentialError, retry_at: Option<Instant>) {
        let usable = self.current().is_some();
        self.health.send_if_modified(|health| {
            let before = *health;
            *health = after_failure(before, &error, usable);
            before != *health
        });
        self.progress.send_modify(|progress| {
            progress.stage = Stage::Resting;
            progress.ended += 1;
            progress.failure = Some(Failed { error, retry_at });
        });
    }

    /// The task has ended: nobody shall wait for it.
    pub(super) fn stopped(&self) {
        self.progress.send_modify(|progress| progress.stage = Stage::Stopped);
    }

    #[cfg(test)]
    pub(super) fn locked<T>(&self, read: impl FnOnce() -> T) -> Option<T> {
        let mut result = None;
        self.progress.send_if_modified(|_| {
            result = Some(read());
            false
        });
        result
    }
}

fn after_failure(before: CredentialHealth, error: &CredentialError, usable: bool) -> CredentialHealth {
    match (before, error) {
        _ if usable => CredentialHealth::Usable,
        (CredentialHealth::Rejected { .. }, _) => before,
        (_, CredentialError::Rejected) => CredentialHealth::Rejected { since: clock::now() },
        (CredentialHealth::Failing { .. }, _) => before,
        _ => CredentialHealth::Failing { since: clock::now() },
    }
}

//! Key fetches on demand, with bounded waiting.
//!
//! Anyone can invent a key id, so a call whose token names an unknown key is unauthenticated. These
//! calls wait briefly, in a small pool of their own, and never while the issuer is failing. They
//! can neither delay callers with known keys nor cause more than one fetch per
//! [`UNKNOWN_KEY_FLOOR`].

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use crate::{
    base::clock::{self, Instant},
    domain::call::PeerNetwork,
    observe::telemetry::metrics::{KeyWait, KeyWaitMetrics},
};

/// Minimum interval between fetches caused by unknown keys.
pub(super) const UNKNOWN_KEY_FLOOR: Duration = Duration::from_secs(10);
/// Maximum time that a call waits for a fetch.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// Maximum number of calls that wait for fetches, over all issuers.
const MAX_WAITERS: usize = 32;
/// Maximum number of them from one peer network.
const MAX_WAITERS_PER_NETWORK: usize = MAX_WAITERS / 4;
/// Maximum number of them from proxies and this machine, whose addresses do not identify a client.
const MAX_WAITERS_FROM_PROXIES: usize = MAX_WAITERS / 2;

/// Reason that a key could not be looked up at its issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFetchError {
    /// The last fetch failed, so waiting for the next one is pointless.
    #[error("the issuer's keys could not be fetched")]
    Failed,
    /// The fetch takes longer than a call waits for it.
    #[error("the issuer's keys were not fetched within 1 second")]
    Slow,
    /// Too many calls are already waiting for a fetch.
    #[error("too many calls wait for the issuer's keys")]
    Crowded,
}

/// Freshness of the keys for a token with an unknown key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::caller) enum Freshness {
    /// The keys have just been fetched again.
    Fetched,
    /// The keys are recent enough that no new fetch is due.
    Recent,
}

/// The places of calls that wait for fetches, of all issuers. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::caller) struct KeyWaiters {
    /// The network of each waiting call; `None` for a proxy or this machine.
    waiting: Arc<Mutex<Vec<Option<PeerNetwork>>>>,
    metrics: KeyWaitMetrics,
}

/// The place of a waiting call, freed on drop.
#[derive(Debug)]
struct Waiting<'a> {
    waiters: &'a KeyWaiters,
    network: Option<PeerNetwork>,
}

/// Connects calls with unknown keys to the task that fetches keys.
#[derive(Debug)]
pub(super) struct Demand {
    state: Mutex<State>,
    wanted: Notify,
    /// Number of finished fetches.
    ended: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    in_flight: bool,
    wanted: bool,
    last_started: Option<Instant>,
    last_failed: bool,
}

/// State of the next fetch, for a call.
enum Prospect {
    /// No fetch is due.
    Recent,
    /// The last fetch failed.
    Failed,
    /// A fetch is in progress.
    InProgress(watch::Receiver<u64>),
}

impl KeyWaiters {
    pub(in crate::caller) fn new(metrics: KeyWaitMetrics) -> Self {
        Self { waiting: Arc::default(), metrics }
    }

    fn enter(&self, network: Option<PeerNetwork>) -> Result<Waiting<'_>, KeyWait> {
        let share = if network.is_some() { MAX_WAITERS_PER_NETWORK } else { MAX_WAITERS_FROM_PROXIES };
        let mut waiting = self.lock();
        if waiting.len() >= MAX_WAITERS {
            return Err(KeyWait::TotalLimit);
        }
        if waiting.iter().filter(|other| **other == network).count() >= share {
            return Err(KeyWait::PeerLimit);
        }
        waiting.push(network);
        Ok(Waiting { waiters: self, network })
    }

    /// Held briefly, for at most [`MAX_WAITERS`] entries, and never for a token with a known key.
    fn lock(&self) -> MutexGuard<'_, Vec<Option<PeerNetwork>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waiters.lock();
        if let Some(index) = waiting.iter().position(|other| *other == self.network) {
            waiting.swap_remove(index);
        }
    }
}

impl Demand {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), wanted: Notify::new(), ended: watch::Sender::new(0) }
    }

    /// Requests a fetch if one is due, and waits for the one in progress.
    pub(super) async fn refreshed(
        &self,
        waiters: &KeyWaiters,
        network: Option<PeerNetwork>,
    ) -> Result<Freshness, KeyFetchError> {
        let (wait, result) = match self.ask() {
            Prospect::Recent => return Ok(Freshness::Recent),
            Prospect::Failed => (KeyWait::IssuerFailing, Err(KeyFetchError::Failed)),
            Prospect::InProgress(ended) => match waiters.enter(network) {
                Ok(place) => {
                    let waited = self.outcome(ended).await;
                    drop(place);
                    waited
                }
                Err(limit) => (limit, Err(KeyFetchError::Crowded)),
            },
        };
        waiters.metrics.count(wait);
        result
    }

    async fn outcome(&self, mut ended: watch::Receiver<u64>) -> (KeyWait, Result<Freshness, KeyFetchError>) {
        match timeout(MAX_WAIT, ended.changed()).await {
            Ok(Ok(())) if !self.state().last_failed => (KeyWait::Fetched, Ok(Freshness::Fetched)),
            Ok(_) => (KeyWait::Failed, Err(KeyFetchError::Failed)),
            Err(_elapsed) => (KeyWait::TimedOut, Err(KeyFetchError::Slow)),
        }
    }

    fn ask(&self) -> Prospect {
        let mut state = self.state();
        if !state.in_flight {
            let is_due = state.last_started.is_none_or(|started| started.elapsed() >= UNKNOWN_KEY_FLOOR);
            if is_due {
                state.in_flight = true;
                state.wanted = true;
                state.last_started = Some(clock::now());
                self.wanted.notify_one();
            } else if !state.last_failed {
                return Prospect::Recent;
            }
        }
        if state.last_failed {
            return Prospect::Failed;
        }
        // Subscribed under the lock, so that the fetch cannot end before.
        Prospect::InProgress(self.ended.subscribe())
    }

    pub(super) fn begin(&self) {
        let mut state = self.state();
        state.in_flight = true;
        state.wanted = false;
        state.last_started = Some(clock::now());
    }

    pub(super) fn end(&self, failed: bool) {
        let mut state = self.state();
        state.in_flight = false;
        state.last_failed = failed;
        self.ended.send_modify(|count| *count += 1);
    }

    /// Returns when a call has requested a fetch that has not begun.
    pub(super) async fn wanted(&self) {
        while !self.state().wanted {
            self.wanted.notified().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn ends(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }
}

#[cfg(test)]
mod tests;

//! One name whose addresses are cached, and its queries in progress.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::timeout_at};

use super::{
    LookupError, SharedHosts,
    query::{QueryError, ResolvedAddresses},
    state::{Change, Question, State, Step},
};
use crate::{
    base::clock::{self, Instant},
    observe::telemetry::metrics::{LookupQuery, LookupResult, OutgoingMetrics},
};

/// Maximum time that a connection waits for the addresses of a name. Longer than 5 s, after which
/// the system's resolver repeats a lost query.
const MAX_WAIT: Duration = Duration::from_secs(6);

/// A name, its addresses, and the lookup in progress, shared by all connections to it.
pub(in super::super) struct Host {
    name: Box<str>,
    shared: Arc<SharedHosts>,
    state: Mutex<State>,
    /// Notified of every result.
    changed: watch::Sender<()>,
}

impl Host {
    pub(super) fn new(name: &str, shared: Arc<SharedHosts>) -> Self {
        let state = Mutex::new(State::new(name));
        Self { name: Box::from(name), shared, state, changed: watch::Sender::new(()) }
    }

    pub(in super::super) fn name(&self) -> &str {
        &self.name
    }

    fn metrics(&self) -> &OutgoingMetrics {
        &self.shared.metrics
    }

    /// Returns the addresses, or waits for the lookup in progress, at most for [`MAX_WAIT`].
    /// Dropping the future does not cancel the lookup.
    pub(in super::super) async fn addresses(self: &Arc<Self>) -> Result<Arc<[IpAddr]>, LookupError> {
        let give_up_at = clock::now() + MAX_WAIT;
        let mut changed = self.changed.subscribe();
        loop {
            let until = match self.step() {
                Step::Use(addresses) => return Ok(addresses),
                Step::Fail(error) => return Err(self.error(error)),
                Step::Wait(until) => until,
            };
            let wake_at = until.map_or(give_up_at, |until| until.min(give_up_at));
            // Cannot be closed: the sender is part of `self`.
            let _ = timeout_at(wake_at, changed.changed()).await;
            if clock::now() >= give_up_at {
                return Err(self.error(QueryError::NoAnswer(MAX_WAIT)));
            }
        }
    }

    /// Returns the addresses, or why there are none, without waiting for a lookup. Like
    /// [`addresses`](Self::addresses), it waits 50 ms for the second family of addresses.
    pub(in super::super) async fn known_addresses(self: &Arc<Self>) -> Result<Arc<[IpAddr]>, LookupError> {
        let mut changed = self.changed.subscribe();
        loop {
            match self.step() {
                Step::Use(addresses) => return Ok(addresses),
                Step::Fail(error) => return Err(self.error(error)),
                Step::Wait(Some(until)) => {
                    let _ = timeout_at(until, changed.changed()).await;
                }
                Step::Wait(None) => return Err(self.error(self.state().no_addresses(clock::now()))),
            }
        }
    }

    /// Returns the next step of a request. Starts a lookup if the addresses are not fresh.
    fn step(self: &Arc<Self>) -> Step {
        self.refresh_if_due();
        self.state().step(clock::now())
    }

    /// Starts a lookup in the background if the addresses are not fresh.
    pub(super) fn refresh_if_due(self: &Arc<Self>) {
        let questions = self.state().begin_if_due(clock::now());
        self.ask(questions);
    }

    /// Returns the error of a request that could not wait longer for the lookup in progress;
    /// `None` if there are addresses.
    pub(in super::super) fn unanswered(&self) -> Option<LookupError> {
        let now = clock::now();
        let since = self.state().unanswered_since(now)?;
        Some(self.error(QueryError::NoAnswer(now.saturating_duration_since(since))))
    }

    #[cfg(test)]
    pub(super) fn forget_addresses(&self) {
        *self.state() = State::new(&self.name);
    }

    /// Records the result of a query.
    fn record(self: &Arc<Self>, query: LookupQuery, id: u64, result: Result<ResolvedAddresses, QueryError>) {
        let effect = self.state().record(query, id, result, clock::now());
        if effect.is_confirmed {
            self.metrics().addresses_confirmed(&self.name);
        }
        match effect.change {
            Some(Change::Failed(cause)) => {
                let usable = self.state().has_addresses(clock::now());
                tracing::warn!(host.name = %self.name, %cause, addresses.usable = usable, "name lookup failed");
            }
            Some(Change::Recovered) => tracing::info!(host.name = %self.name, "name lookup succeeds again"),
            None => {}
        }
        self.ask(effect.questions);
        self.changed.send_replace(());
    }

    /// Must not be called with the state locked, because a query may end at once.
    fn ask(self: &Arc<Self>, questions: Vec<Question>) {
        for (query, id) in questions {
            self.shared.service.ask(Reply::new(Arc::clone(self), query, id, clock::now()));
        }
    }

    fn error(&self, cause: QueryError) -> LookupError {
        LookupError { name: self.name.clone(), cause }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.shared.forget(&self.name);
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A query in progress. Dropping it without a result fails it, so that it always ends.
pub(super) struct Reply {
    host: Arc<Host>,
    query: LookupQuery,
    /// Distinguishes it from an earlier query of the same kind that was abandoned.
    id: u64,
    asked_at: Instant,
    is_sent: bool,
}

impl Reply {
    pub(super) const fn new(host: Arc<Host>, query: LookupQuery, id: u64, asked_at: Instant) -> Self {
        Self { host, query, id, asked_at, is_sent: false }
    }

    pub(super) fn name(&self) -> &str {
        self.host.name()
    }

    pub(super) const fn query(&self) -> LookupQuery {
        self.query
    }

    /// Returns the time since the query was asked.
    pub(super) fn elapsed(&self) -> Duration {
        clock::now().saturating_duration_since(self.asked_at)
    }

    pub(super) fn send(mut self, result: Result<ResolvedAddresses, QueryError>) {
        self.end(result);
    }

    fn end(&mut self, result: Result<ResolvedAddresses, QueryError>) {
        if std::mem::replace(&mut self.is_sent, true) {
            return;
        }
        let metrics = self.host.metrics();
        let label = result.as_ref().map_or_else(QueryError::result, |_| LookupResult::Ok);
        metrics.lookup(self.query, label, self.elapsed());
        if let Err(QueryError::Exhausted { resource, .. }) = &result {
            metrics.exhausted(*resource);
        }
        self.host.record(self.query, self.id, result);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.end(Err(QueryError::Failed("the lookup ended without a result".to_owned())));
    }
}

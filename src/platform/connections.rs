//! One worker's connections to one endpoint of the platform.
//!
//! A `reqwest` client keeps one connection over HTTP/2, and one per concurrent request over
//! HTTP/1.1. It reports neither a connection that stopped answering nor the peer's limit of
//! concurrent streams, so this module infers both from the progress of requests, and switches to
//! another client. [`attempt`](super::attempt) builds requests and interprets their outcomes.

mod client;
mod failure;
mod lease;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::Version;

use self::client::{Client, KnownServer};
pub(super) use self::{failure::ConnectFailure, lease::Lease};
use crate::{
    base::{
        backoff::jittered,
        clock::{self, Instant},
    },
    http_client::{ConnectionReuse, HttpClientError, HttpProtocol, HttpSettings, LookupError},
    observe::telemetry::metrics::LocalResource,
};

/// Maximum number of clients that take requests at the same time, and thus of HTTP/2 connections.
const MAX_CLIENTS: usize = 16;
/// Minimum interval between two replacements of connections that stopped answering.
const REPLACEMENT_FLOOR: Duration = Duration::from_secs(1);
/// Timeout for connecting a new client before it takes requests.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay before the next attempt after a new client failed to connect.
const RENEWAL_PAUSE: Duration = Duration::from_secs(30);

/// Maximum age of a client over HTTP/1.1, and thus of its connections. Limits the effect of a stray
/// response: it shifts all later responses on its connection to the wrong requests.
const MAX_HTTP1_AGE: Duration = Duration::from_millis(1500);

/// The connections of one worker. Spawned tasks run on the runtime of the caller.
pub(super) struct Connections {
    settings: HttpSettings,
    reuse: Reuse,
    generation: Generation,
    state: Mutex<State>,
}

/// Connection reuse.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reuse {
    /// Maximum idle time of a reused connection.
    pub(super) max_idle: Duration,
    /// Whether HTTP/1.1 connections are reused. A stray response would be taken for the response to
    /// the next request.
    pub(super) over_http1: bool,
}

/// Generation of the connections of an API client. Incremented when a connection has carried a
/// response to another request; HTTP/1.1 connections of an earlier generation take no more requests.
/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Generation(Arc<AtomicU64>);

impl Generation {
    /// Retires all connections of all workers.
    pub(super) fn end(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn current(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct State {
    /// The preferred client for new requests. Requests in progress on a replaced client complete.
    first: Arc<Client>,
    /// Additional clients, if the platform limits the streams of a connection.
    others: Vec<Arc<Client>>,
    replaced_at: Option<Instant>,
    renew_at: Instant,
    is_renewing: bool,
}

impl Connections {
    /// Creates the first client. Opens no connection.
    pub(super) fn new(
        settings: HttpSettings,
        reuse: Reuse,
        generation: Generation,
    ) -> Result<Arc<Self>, HttpClientError> {
        let server = KnownServer::speaking(settings.protocol());
        let client = Client::new(&settings, reuse.of(server), server, generation.current())?;
        let state = State {
            first: Arc::new(client),
            others: Vec::new(),
            replaced_at: None,
            renew_at: next_renewal(&settings),
            is_renewing: false,
        };
        Ok(Arc::new(Self { settings, reuse, generation, state: Mutex::new(state) }))
    }

    /// Assigns a request to the first client with a free stream, else to a new one, else to the one
    /// with the fewest requests.
    pub(super) fn lease(self: &Arc<Self>, now: Instant) -> Lease {
        let mut state = self.state();
        self.renew_if_due(&mut state, now);
        self.replace_unusable(&mut state, now);
        if state.clients().any(|client| client.is_suspect(now)) && state.may_replace(now) {
            self.replace(&mut state, now, |client| client.is_suspect(now));
        }
        self.choose(&mut state, |_| true)
    }

    /// Assigns a request that got no stream on the client of `lease` to another client.
    pub(super) fn lease_instead_of(&self, lease: &Lease) -> Lease {
        let mut state = self.state();
        self.replace_unusable(&mut state, clock::now());
        self.choose(&mut state, |client| !lease.is_on(client))
    }

    /// Returns whether a request on this lease may be sent. False if, for example, the server turned
    /// out to speak HTTP/1.1 after the lease was taken.
    pub(super) fn is_usable(&self, lease: &Lease, now: Instant) -> bool {
        self.may_use(lease.client(), now)
    }

    /// Replaces the first client if its connections may no longer be used.
    fn replace_unusable(&self, state: &mut State, now: Instant) {
        if !self.may_use(&state.first, now)
            && let Some(client) = self.new_client(KnownServer::speaking(self.settings.protocol()))
        {
            state.first = client;
            state.others.clear();
        }
    }

    fn may_use(&self, client: &Client, now: Instant) -> bool {
        // The authority of the server may no longer be trusted.
        if client.trust_generation != self.settings.tls.generation() {
            return false;
        }
        if client.header_room != self.settings.header_room() {
            return false;
        }
        let protocol = client.protocol().or_else(|| self.settings.protocol());
        if protocol != Some(HttpProtocol::Http1) {
            return client.reuse != ConnectionReuse::Never;
        }
        if !self.reuse.over_http1 {
            return client.reuse == ConnectionReuse::Never;
        }
        !client.is_distrusted()
            && client.generation == self.generation.current()
            && now < client.created_at + MAX_HTTP1_AGE
    }

    fn choose(&self, state: &mut State, is_candidate: impl Fn(&Arc<Client>) -> bool) -> Lease {
        let is_free = |client: &&Arc<Client>| is_candidate(client) && client.has_room();
        if let Some(free) = state.clients().find(is_free) {
            return Lease::new(Arc::clone(free));
        }
        if state.others.len() + 1 < MAX_CLIENTS
            && let Some(client) = self.new_client(state.first.server())
        {
            state.others.push(client);
        }
        let free = state.clients().find(is_free);
        let least = || state.clients().min_by_key(|client| client.requests());
        Lease::new(Arc::clone(free.or_else(least).unwrap_or(&state.first)))
    }

    /// Returns whether a request that waits for a stream on the client of `lease` could get one on
    /// another client.
    pub(super) fn has_room_elsewhere(&self, lease: &Lease) -> bool {
        let state = self.state();
        state.others.len() + 1 < MAX_CLIENTS
            || state.clients().any(|client| !lease.is_on(client) && client.has_room())
    }

    /// Replaces all connections after a request on this lease timed out without a response head: the
    /// cause (a lost NAT entry, a failed node) usually affects all of them. Does nothing if they have
    /// already been replaced.
    pub(super) fn replace_after_timeout(&self, lease: &Lease) {
        let now = clock::now();
        let mut state = self.state();
        if state.clients().any(|client| lease.is_on(client)) && state.may_replace(now) {
            self.replace(&mut state, now, |_| true);
        }
    }

    /// Returns whether a request may be sent over HTTP/1.1.
    pub(super) fn may_be_http1(&self) -> bool {
        self.settings.protocol() != Some(HttpProtocol::Http2)
    }

    /// Records a response head.
    pub(super) fn answered(&self, lease: &Lease, version: Version) {
        self.settings.record_protocol(version);
        lease.answered(version.into());
    }

    /// Records that an attempt failed without a response.
    pub(super) fn failed(&self, error: &reqwest::Error) {
        self.settings.record_failure(error);
    }

    /// Returns the root cause of a failed request, for the log.
    pub(super) async fn cause_of(&self, error: &reqwest::Error) -> String {
        self.settings.cause_of(error).await
    }

    /// Counts a request whose response was interrupted because this machine or process lacked a
    /// resource.
    pub(super) fn count_exhaustion(&self, resource: LocalResource) {
        self.settings.count_exhaustion(resource);
    }

    /// Waits until the addresses of the platform are known.
    pub(super) async fn addresses_known(&self) -> Result<(), ConnectFailure> {
        self.settings.addresses_known().await.map_err(|error| ConnectFailure::from_error(&error))
    }

    /// Returns the error of a request that timed out waiting for the current name lookup.
    pub(super) fn unanswered_lookup(&self) -> Option<LookupError> {
        self.settings.unanswered_lookup()
    }

    /// Returns a client for a request that is not an attempt, such as a logout.
    pub(super) fn http(self: &Arc<Self>) -> reqwest::Client {
        self.lease(clock::now()).http().clone()
    }

    /// Sends a request that is not an attempt.
    pub(super) async fn send(&self, request: reqwest::RequestBuilder) -> reqwest::Result<reqwest::Response> {
        self.settings.send(request).await
    }

    #[cfg(test)]
    pub(super) fn is_renewing(&self) -> bool {
        self.state().is_renewing
    }

    fn replace(&self, state: &mut State, now: Instant, is_obsolete: impl Fn(&Client) -> bool) {
        if let Some(client) = self.new_client(state.first.server()) {
            let first = std::mem::replace(&mut state.first, client);
            state.others.push(first);
            state.others.retain(|client| !is_obsolete(client));
            state.replaced_at = Some(now);
            tracing::info!("platform connections stopped answering, opening new ones");
        }
    }

    fn new_client(&self, server: KnownServer) -> Option<Arc<Client>> {
        match Client::new(&self.settings, self.reuse.of(server), server, self.generation.current()) {
            Ok(client) => Some(Arc::new(client)),
            Err(error) => {
                tracing::warn!(%error, "cannot build a new HTTP client, keeping the current one");
                None
            }
        }
    }

    fn renew_if_due(self: &Arc<Self>, state: &mut State, now: Instant) {
        // HTTP/1.1 clients are replaced more often anyway.
        let is_http1 = state.first.protocol() == Some(HttpProtocol::Http1);
        if state.is_renewing || is_http1 || now < state.renew_at {
            return;
        }
        state.is_renewing = true;
        let renewal = Renewal(Arc::clone(self));
        tokio::spawn(async move { renewal.0.renew().await });
    }

    /// Replaces the clients by a new, already connected one, outside any call.
    async fn renew(&self) {
        let client = self.connected_client().await;
        let mut state = self.state();
        match client {
            Ok(client) => {
                state.first = client;
                state.others.clear();
                state.renew_at = next_renewal(&self.settings);
            }
            Err(cause) => {
                state.renew_at = next_retry();
                drop(state);
                tracing::warn!(cause, "cannot renew platform connections, keeping the current ones");
            }
        }
    }

    /// Returns a new client that has received a response. Its status does not matter.
    async fn connected_client(&self) -> Result<Arc<Client>, String> {
        let client =
            self.new_client(KnownServer::speaking(None)).ok_or_else(|| "no HTTP client".to_owned())?;
        let mut server = self.settings.server.clone();
        server.set_path("/");
        let response = self.send(client.http().head(server));
        match tokio::time::timeout(WARM_UP_TIMEOUT, response).await {
            Ok(Ok(response)) => {
                self.settings.record_protocol(response.version());
                client.answered(response.version().into());
                Ok(client)
            }
            Ok(Err(error)) => Err(self.cause_of(&error).await),
            Err(_) => Err("no response in time".to_owned()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A renewal in progress. Dropping it allows the next one, even after a panic; otherwise the clients
/// and their addresses would never change.
struct Renewal(Arc<Connections>);

impl Drop for Renewal {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_renewing = false;
        if state.renew_at <= clock::now() {
            // It stopped without a result.
            state.renew_at = next_retry();
        }
    }
}

impl Reuse {
    const fn of(self, server: KnownServer) -> ConnectionReuse {
        if server.is_http1() && !self.over_http1 {
            ConnectionReuse::Never
        } else {
            ConnectionReuse::IdleFor(self.max_idle)
        }
    }
}

impl State {
    fn clients(&self) -> impl Iterator<Item = &Arc<Client>> {
        std::iter::once(&self.first).chain(&self.others)
    }

    fn may_replace(&self, now: Instant) -> bool {
        self.replaced_at.is_none_or(|at| now >= at + REPLACEMENT_FLOOR)
    }
}

/// Returns the time of the next renewal, with jitter, so that workers and replicas do not reconnect
/// at the same time.
fn next_renewal(settings: &HttpSettings) -> Instant {
    clock::now() + jittered(settings.max_connection_age, 0.8, 1.2)
}

/// Returns the time of the next renewal after a failed one.
fn next_retry() -> Instant {
    clock::now() + jittered(RENEWAL_PAUSE, 0.8, 1.2)
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("settings", &self.settings).finish_non_exhaustive()
    }
}

//! One HTTP client, and the state of its connection as inferred from its requests.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Semaphore, watch};

use super::lease::ConnectFailure;
use crate::{
    clock::{self, Instant},
    http_client::{
        self, ConnectionReuse, HeaderRoom, HttpClientError, HttpProtocol, HttpSettings, LastProtocol,
    },
};

/// Time without any response after which an HTTP/2 connection with unanswered requests
/// takes no more of them. Shorter than the keep-alive, and far shorter than a login's
/// timeout: a login on a dead connection costs its token.
const MAX_SILENCE: Duration = Duration::from_secs(2);
/// Time after the first request on a new connection until others follow, unless its response
/// arrives earlier. The peer's SETTINGS, with its limit of streams, come within a round trip;
/// requests that are sent before may be queued inside the HTTP library, beyond our control.
pub(super) const SETTLING_TIME: Duration = Duration::from_millis(100);
/// A connection on which a stream was opened this recently still accepts streams.
const RECENTLY: Duration = Duration::from_secs(1);
/// Maximum age of the last response at which a client counts as connected.
const CONNECTED_FOR: Duration = Duration::from_secs(1);

/// The client, shared by the requests in progress on it.
pub(super) struct Client {
    http: reqwest::Client,
    /// Which of its connections it uses again.
    pub(super) reuse: ConnectionReuse,
    /// How many header lines its responses may have.
    pub(super) header_room: HeaderRoom,
    pub(super) created_at: Instant,
    /// Its generation ([`Generation`](super::Generation)).
    pub(super) generation: u64,
    /// Generation of the trusted authorities that its connections were verified by, or a later
    /// one.
    pub(super) trust_generation: u64,
    /// Set by a response that the platform itself does not send.
    distrusted: AtomicBool,
    /// Held by the one request that is being handed to the HTTP library. The library counts
    /// streams only after it has opened them: of several requests at once it would take more
    /// than the peer accepts, bodies included, and queue them beyond our control.
    pub(super) turn: Arc<Semaphore>,
    /// The protocol of its server. Apart from the progress, because over HTTP/1.1 most questions
    /// about a client need nothing else.
    protocol: LastProtocol,
    progress: Mutex<Progress>,
}

/// How far the request that connects has come, for those who wait for it.
#[derive(Clone, Debug)]
pub(super) enum Connection {
    /// There is no connection yet.
    Connecting,
    /// There is one since then, and the request is being sent. The peer's limit of streams
    /// may not have arrived.
    Connected(Instant),
    /// The peer has responded.
    Settled,
    /// There is no connection.
    Failed(ConnectFailure),
}

/// The requests of a client, and what is known from them.
pub(super) struct Progress {
    /// The server's limit of concurrent streams on a connection ([`KnownServer::max_streams`]).
    max_streams: u32,
    /// When a request was last sent.
    sent_at: Option<Instant>,
    /// Number of requests that have ever been sent.
    pub(super) opened: u64,
    /// Requests that have not been sent.
    pub(super) waiting: u32,
    /// Requests that have been sent and whose response is not complete.
    pub(super) sent: u32,
    /// Requests that have been sent and have no response head.
    unanswered: u32,
    /// Since when there are unanswered requests and nothing arrived.
    silent_since: Option<Instant>,
    answered_at: Option<Instant>,
    /// The outcome of the request that connects, if there is one.
    pub(super) connecting: Option<watch::Receiver<Connection>>,
}

/// What is known of a server from its responses.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownServer {
    /// The protocol of its last response.
    protocol: Option<HttpProtocol>,
    /// Its limit of concurrent streams on a connection, inferred from streams that it refused
    /// or did not accept in time.
    max_streams: u32,
}

impl KnownServer {
    /// A server of which only the protocol may be known.
    pub(super) const fn speaking(protocol: Option<HttpProtocol>) -> Self {
        Self { protocol, max_streams: u32::MAX }
    }

    pub(super) const fn is_http1(self) -> bool {
        matches!(self.protocol, Some(HttpProtocol::Http1))
    }
}

impl Client {
    /// Creates a client of a server of which `server` is already known.
    pub(super) fn new(
        settings: &HttpSettings,
        reuse: ConnectionReuse,
        server: KnownServer,
        generation: u64,
    ) -> Result<Self, HttpClientError> {
        // Before the client exists, so that it is never taken for one of a later generation.
        let trust_generation = settings.tls.generation();
        let header_room = settings.header_room();
        let protocol = LastProtocol::default();
        if let Some(known) = server.protocol {
            protocol.replace(known);
        }
        Ok(Self {
            http: http_client::build(settings, reuse)?,
            trust_generation,
            reuse,
            header_room,
            created_at: clock::now(),
            generation,
            distrusted: AtomicBool::new(false),
            turn: Arc::new(Semaphore::new(1)),
            protocol,
            progress: Mutex::new(Progress {
                max_streams: server.max_streams,
                sent_at: None,
                opened: 0,
                waiting: 0,
                sent: 0,
                unanswered: 0,
                silent_since: None,
                answered_at: None,
                connecting: None,
            }),
        })
    }

    pub(super) const fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Returns what is known of its server.
    pub(super) fn server(&self) -> KnownServer {
        KnownServer { protocol: self.protocol(), max_streams: self.progress().max_streams }
    }

    /// Returns the protocol of its server's last response.
    pub(super) fn protocol(&self) -> Option<HttpProtocol> {
        self.protocol.get()
    }

    /// Records a response head.
    pub(super) fn answered(&self, protocol: HttpProtocol) {
        self.set_protocol(protocol);
        self.progress().response(clock::now());
    }

    /// Records the protocol of a response.
    pub(super) fn set_protocol(&self, protocol: HttpProtocol) {
        self.protocol.replace(protocol);
    }

    /// Returns whether a request may have to wait for a connection or a stream of its server. Over
    /// HTTP/1.1 each request has a connection of its own.
    pub(super) fn may_wait(&self) -> bool {
        self.protocol() != Some(HttpProtocol::Http1)
    }

    /// Returns whether there has been a response.
    pub(super) fn has_answered(&self) -> bool {
        self.progress().answered_at.is_some()
    }

    /// Records a response that the platform itself does not send.
    pub(super) fn distrust(&self) {
        self.distrusted.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_distrusted(&self) -> bool {
        self.distrusted.load(Ordering::Relaxed)
    }

    /// Returns whether the connection seems to be dead. Only over HTTP/2: over HTTP/1.1 a
    /// slow request occupies a connection of its own.
    pub(super) fn is_suspect(&self, now: Instant) -> bool {
        self.protocol() == Some(HttpProtocol::Http2)
            && self.progress().silent_since.is_some_and(|since| now >= since + MAX_SILENCE)
    }

    /// Returns whether one more request would be sent at once.
    pub(super) fn has_room(&self) -> bool {
        !self.may_wait() || {
            let progress = self.progress();
            progress.waiting.saturating_add(progress.sent) < progress.max_streams
        }
    }

    /// Returns the number of requests assigned to this client.
    pub(super) fn requests(&self) -> u32 {
        let progress = self.progress();
        progress.waiting.saturating_add(progress.sent)
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    /// Returns whether a request that [may wait](Client::may_wait) has to wait for another one that
    /// connects, or has to be that one.
    pub(super) fn needs_connection(&self) -> bool {
        let now = clock::now();
        self.is_settling(now) || self.sent == 0 && self.answered_at.is_none_or(|at| now >= at + CONNECTED_FOR)
    }

    fn is_settling(&self, now: Instant) -> bool {
        self.connecting.as_ref().is_some_and(|connecting| {
            matches!(*connecting.borrow(), Connection::Connected(at) if now < at + SETTLING_TIME)
        })
    }

    /// Returns whether any request has been sent.
    pub(super) const fn has_sent(&self) -> bool {
        self.sent_at.is_some()
    }

    /// Records that a request got no stream in time, although others have some.
    pub(super) fn no_stream_in_time(&mut self, now: Instant) {
        if self.sent_at.is_some_and(|at| now < at + RECENTLY) {
            self.max_streams = self.sent.max(1);
        }
    }

    /// Records that the peer refused a stream. Returns whether others are in use.
    pub(super) fn stream_refused(&mut self) -> bool {
        let others = self.sent.saturating_sub(1);
        if others > 0 {
            self.max_streams = others;
        }
        others > 0
    }

    /// Records that a request is being sent.
    pub(super) fn request_sent(&mut self, now: Instant) {
        self.waiting = self.waiting.saturating_sub(1);
        self.sent += 1;
        // The limit was too low, or the peer has raised it.
        self.max_streams = self.max_streams.max(self.sent);
        self.unanswered += 1;
        self.sent_at = Some(now);
        self.opened += 1;
        self.silent_since.get_or_insert(now);
    }

    /// Records a response head.
    pub(super) fn response(&mut self, now: Instant) {
        self.answered_at = Some(now);
        self.silent_since = self.silent_since.map(|_| now);
    }

    pub(super) fn request_answered(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if self.unanswered == 0 {
            self.silent_since = None;
        }
    }

    pub(super) fn request_ended(&mut self) {
        self.sent = self.sent.saturating_sub(1);
        if self.sent == 0 {
            // What was inferred may have been about a connection that no longer exists.
            self.max_streams = u32::MAX;
        }
    }
}

//! One HTTP client, and the state of its connection as inferred from its requests.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Semaphore, watch};

use super::failure::ConnectFailure;
use crate::{
    base::clock::{self, Instant},
    http_client::{
        self, ConnectionReuse, HeaderRoom, HttpClientError, HttpProtocol, HttpSettings, LastProtocol,
    },
};

/// Time without any response after which an HTTP/2 connection with unanswered requests takes no more
/// requests. Shorter than the keep-alive, and much shorter than the timeout of a login: a login on a
/// dead connection wastes its token.
const MAX_SILENCE: Duration = Duration::from_secs(2);
/// Delay between the first request on a new connection and the next, unless its response arrives
/// earlier. The peer's SETTINGS with the stream limit arrive within a round trip; requests sent
/// before may be queued inside the HTTP library.
pub(super) const SETTLING_TIME: Duration = Duration::from_millis(100);
/// Time after opening a stream during which a connection is known to accept streams.
const RECENTLY: Duration = Duration::from_secs(1);
/// Maximum age of the last response at which a client counts as connected.
const CONNECTED_FOR: Duration = Duration::from_secs(1);

/// An HTTP client, shared by its requests in progress.
pub(super) struct Client {
    http: reqwest::Client,
    /// Its connection reuse.
    pub(super) reuse: ConnectionReuse,
    /// Maximum number of header lines of its responses.
    pub(super) header_room: HeaderRoom,
    pub(super) created_at: Instant,
    /// Its generation ([`Generation`](super::Generation)).
    pub(super) generation: u64,
    /// Generation of the trusted authorities when it was created, or an earlier one.
    pub(super) trust_generation: u64,
    /// Set by a response that the platform would not send.
    distrusted: AtomicBool,
    /// Held by the one request that is being passed to the HTTP library. The library counts streams
    /// only after opening them: it would accept more concurrent requests than the peer, including
    /// their bodies, and queue them.
    pub(super) turn: Arc<Semaphore>,
    /// The protocol of its server. Outside `progress`, because HTTP/1.1 rarely needs the lock.
    protocol: LastProtocol,
    progress: Mutex<Progress>,
}

/// State of the connecting request, for requests that wait for it.
#[derive(Clone, Debug)]
pub(super) enum Connection {
    /// There is no connection yet.
    Connecting,
    /// Connected at this time; the request is being sent. The peer's stream limit may not have
    /// arrived.
    Connected(Instant),
    /// The peer has responded.
    Settled,
    /// Connecting failed.
    Failed(ConnectFailure),
}

/// The requests of a client, and the state inferred from them.
pub(super) struct Progress {
    /// The server's limit of concurrent streams ([`KnownServer::max_streams`]).
    max_streams: u32,
    /// Time when a request was last sent.
    sent_at: Option<Instant>,
    /// Total number of requests sent.
    pub(super) opened: u64,
    /// Number of requests not sent yet.
    pub(super) waiting: u32,
    /// Number of requests sent without a complete response.
    pub(super) sent: u32,
    /// Number of requests sent without a response head.
    unanswered: u32,
    /// Start of the current period with unanswered requests and without a response.
    silent_since: Option<Instant>,
    answered_at: Option<Instant>,
    /// State of the connecting request, if any.
    pub(super) connecting: Option<watch::Receiver<Connection>>,
}

/// Properties of a server, learned from its responses.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownServer {
    /// The protocol of its last response.
    protocol: Option<HttpProtocol>,
    /// Its limit of concurrent streams on a connection, inferred from streams that it refused or did
    /// not accept in time.
    max_streams: u32,
}

impl KnownServer {
    /// Creates the properties of a server of which at most the protocol is known.
    pub(super) const fn speaking(protocol: Option<HttpProtocol>) -> Self {
        Self { protocol, max_streams: u32::MAX }
    }

    pub(super) const fn is_http1(self) -> bool {
        matches!(self.protocol, Some(HttpProtocol::Http1))
    }
}

impl Client {
    /// Creates a client of a server with these known properties.
    pub(super) fn new(
        settings: &HttpSettings,
        reuse: ConnectionReuse,
        server: KnownServer,
        generation: u64,
    ) -> Result<Self, HttpClientError> {
        // Read before building the client, so that it never gets a later generation than its authorities.
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

    /// Returns the known properties of its server.
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

    /// Returns whether a request may have to wait for a connection or a stream. Over HTTP/1.1 each
    /// request has its own connection.
    pub(super) fn may_wait(&self) -> bool {
        self.protocol() != Some(HttpProtocol::Http1)
    }

    /// Returns whether there has been a response.
    pub(super) fn has_answered(&self) -> bool {
        self.progress().answered_at.is_some()
    }

    /// Records a response that the platform would not send.
    pub(super) fn distrust(&self) {
        self.distrusted.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_distrusted(&self) -> bool {
        self.distrusted.load(Ordering::Relaxed)
    }

    /// Returns whether the connection seems dead. Only for HTTP/2: over HTTP/1.1 a slow request
    /// occupies only its own connection.
    pub(super) fn is_suspect(&self, now: Instant) -> bool {
        self.protocol() == Some(HttpProtocol::Http2)
            && self.progress().silent_since.is_some_and(|since| now >= since + MAX_SILENCE)
    }

    /// Returns whether another request would be sent at once.
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
    /// Returns whether a request that [may wait](Client::may_wait) has to wait for the connecting
    /// request, or has to connect itself.
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

    /// Records that a request got no stream in time while others have streams.
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
        // The inferred limit was too low, or the peer has raised it.
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
            // The limit may have been inferred from a connection that no longer exists.
            self.max_streams = u32::MAX;
        }
    }
}

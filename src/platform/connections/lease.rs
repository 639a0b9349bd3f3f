//! Assignment of a request to a client.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::timeout_at,
};

#[cfg(test)]
use super::client::KnownServer;
use super::{
    client::{Client, Connection, SETTLING_TIME},
    failure::ConnectFailure,
};
use crate::{
    base::clock::{self, Instant},
    http_client::HttpProtocol,
};

/// Assignment of a request to a client, until its response is complete.
pub(in super::super) struct Lease {
    client: Arc<Client>,
    /// Lock order: before the client's progress.
    state: Mutex<State>,
}

struct State {
    stage: Stage,
    /// Permit to be sent, until the request has been sent.
    turn: Option<OwnedSemaphorePermit>,
    /// Set while others wait for this request to connect.
    connecting: Option<watch::Sender<Connection>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Sent,
    Answered,
    Ended,
}

impl Lease {
    pub(super) fn new(client: Arc<Client>) -> Self {
        client.progress().waiting += 1;
        let state = State { stage: Stage::Waiting, turn: None, connecting: None };
        Self { client, state: Mutex::new(state) }
    }

    /// Creates a lease on a client that never connects.
    #[cfg(test)]
    pub(in super::super) fn for_test() -> Self {
        use crate::http_client::{ConnectionReuse, HttpSettings, Resolver, tls_config};
        let server = url::Url::parse("https://localhost").expect("a URL");
        let settings = HttpSettings::new(server, tls_config(None).expect("TLS"), Resolver::for_test());
        let client = Client::new(&settings, ConnectionReuse::Never, KnownServer::speaking(None), 0);
        Self::new(Arc::new(client.expect("a client")))
    }

    /// Records that the platform would not send this response.
    pub(in super::super) fn distrust(&self) {
        self.client.distrust();
    }

    pub(super) const fn client(&self) -> &Arc<Client> {
        &self.client
    }

    pub(super) fn is_on(&self, client: &Arc<Client>) -> bool {
        Arc::ptr_eq(&self.client, client)
    }

    /// Returns the client to send the request with.
    pub(in super::super) fn http(&self) -> &reqwest::Client {
        self.client.http()
    }

    /// Waits while another request of this client connects, and fails with its error. Without this,
    /// each of several first requests would open a connection, although HTTP/2 needs only one.
    pub(in super::super) async fn connection(&self) -> Result<(), ConnectFailure> {
        loop {
            if !self.client.may_wait() {
                return Ok(());
            }
            let mut connecting = {
                let mut state = self.state();
                let mut progress = self.client.progress();
                if !progress.needs_connection() {
                    return Ok(());
                }
                match &progress.connecting {
                    // An error means that the other request ended without an outcome.
                    Some(connecting) if connecting.has_changed().is_ok() => connecting.clone(),
                    _ => {
                        let (sender, receiver) = watch::channel(Connection::Connecting);
                        progress.connecting = Some(receiver);
                        state.connecting = Some(sender);
                        return Ok(());
                    }
                }
            };
            // Runs until the other request ends.
            loop {
                let state = connecting.borrow_and_update().clone();
                let ended = match state {
                    Connection::Connecting => connecting.changed().await.is_err(),
                    Connection::Connected(at) => timeout_at(at + SETTLING_TIME, connecting.changed())
                        .await
                        .is_ok_and(|seen| seen.is_err()),
                    Connection::Settled => return Ok(()),
                    Connection::Failed(failure) => return Err(failure),
                };
                if ended || !self.client.may_wait() || !self.client.progress().needs_connection() {
                    break;
                }
            }
        }
    }

    /// Waits for the permit to be sent, if streams have to be counted.
    pub(in super::super) async fn turn(&self) {
        if self.may_wait()
            && let Ok(turn) = Arc::clone(&self.client.turn).acquire_owned().await
        {
            self.state().turn = Some(turn);
        }
    }

    /// Returns whether its client has received a response, and thus may have a connection.
    pub(in super::super) fn has_answered(&self) -> bool {
        self.client.has_answered()
    }

    /// Returns the protocol of the server, if its client has received a response.
    pub(in super::super) fn protocol(&self) -> Option<HttpProtocol> {
        self.client.protocol()
    }

    /// Returns whether the request may have to wait for a connection or a stream. Over HTTP/1.1 it has
    /// its own connection.
    pub(in super::super) fn may_wait(&self) -> bool {
        self.client.may_wait()
    }

    /// Returns whether a request that was not sent in time was queued behind others on the same
    /// connection. Connecting has a shorter timeout.
    pub(in super::super) fn is_queued(&self) -> bool {
        self.is_waiting() && self.may_wait() && self.client.progress().has_sent()
    }

    /// Returns whether the request waits for a stream rather than for a connection.
    pub(in super::super) fn waits_for_stream(&self) -> bool {
        self.is_waiting()
            && self.client.protocol() == Some(HttpProtocol::Http2)
            && self.client.progress().sent > 0
    }

    /// Returns the total number of streams opened on this connection.
    pub(in super::super) fn opened_streams(&self) -> u64 {
        self.client.progress().opened
    }

    /// Records that the request got no stream while others use this connection. If a stream was opened
    /// recently, the peer limits streams; otherwise the connection may be closing.
    pub(in super::super) fn no_stream_in_time(&self) {
        self.client.progress().no_stream_in_time(clock::now());
    }

    /// Records that the peer refused the stream of this request. Returns whether other requests use
    /// streams, so that a limit can be the cause.
    pub(in super::super) fn stream_refused(&self) -> bool {
        self.state().stage == Stage::Sent && self.client.progress().stream_refused()
    }

    /// Records that the request's body is being sent.
    pub(in super::super) fn sent(&self, now: Instant) {
        let mut state = self.state();
        if state.stage == Stage::Waiting {
            state.stage = Stage::Sent;
            self.client.progress().request_sent(now);
            state.report(Connection::Connected(now));
            let turn = state.turn.take();
            drop(state);
            // Wakes the next request.
            drop(turn);
        }
    }

    /// Records the response head.
    pub(in super::super) fn answered(&self, protocol: HttpProtocol) {
        let now = clock::now();
        self.client.set_protocol(protocol);
        let mut state = self.state();
        let mut progress = self.client.progress();
        if state.stage == Stage::Waiting {
            // A server may respond before it reads the request.
            progress.request_sent(now);
        }
        progress.response(now);
        if matches!(state.stage, Stage::Waiting | Stage::Sent) {
            state.stage = Stage::Answered;
            progress.request_answered();
        }
        drop(progress);
        state.report(Connection::Settled);
    }

    /// Records that connecting failed.
    pub(in super::super) fn connection_failed(&self, failure: ConnectFailure) {
        self.state().report(Connection::Failed(failure));
    }

    /// Ends the lease. Idempotent.
    pub(in super::super) fn end(&self) {
        let mut state = self.state();
        if state.stage == Stage::Ended {
            return;
        }
        let mut progress = self.client.progress();
        match state.stage {
            Stage::Waiting => progress.waiting = progress.waiting.saturating_sub(1),
            Stage::Sent => {
                progress.request_answered();
                progress.request_ended();
            }
            Stage::Answered => progress.request_ended(),
            Stage::Ended => {}
        }
        drop(progress);
        let ended =
            std::mem::replace(&mut *state, State { stage: Stage::Ended, turn: None, connecting: None });
        drop(state);
        // Wakes the next request, and those that wait for a connection, one of which then connects.
        drop(ended);
    }

    fn is_waiting(&self) -> bool {
        self.state().stage == Stage::Waiting
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn report(&self, state: Connection) {
        if let Some(others) = &self.connecting {
            others.send_replace(state);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end();
    }
}

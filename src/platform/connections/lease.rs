//! One request's place on a client.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::timeout_at,
};

#[cfg(test)]
use super::client::KnownServer;
use super::client::{Client, Connection, SETTLING_TIME};
use crate::{
    clock,
    http_client::{ConnectFault, HttpProtocol, cause::root_cause},
};

/// Why there is no connection, as the network stack reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct ConnectFailure {
    pub(in super::super) fault: ConnectFault,
    /// For the operator.
    pub(in super::super) cause: String,
}

impl ConnectFailure {
    /// The failure of a request that was not sent because of this error.
    pub(in super::super) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        Self { fault: ConnectFault::of(error), cause: root_cause(error) }
    }
}

/// One request's place on a client, from its assignment to the end of its response.
pub(in super::super) struct Lease {
    client: Arc<Client>,
    stage: Mutex<Stage>,
    /// The turn of this request, until it has been sent.
    turn: Mutex<Option<OwnedSemaphorePermit>>,
    /// Set while others wait for this request to connect.
    connecting: Mutex<Option<watch::Sender<Connection>>>,
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
        Self {
            client,
            stage: Mutex::new(Stage::Waiting),
            turn: Mutex::new(None),
            connecting: Mutex::new(None),
        }
    }

    /// A lease on a client that never connects anywhere.
    #[cfg(test)]
    pub(in super::super) fn for_test() -> Self {
        use crate::http_client::{ConnectionReuse, HttpSettings, Resolver, tls_config};
        let server = url::Url::parse("https://localhost").expect("a URL");
        let settings = HttpSettings::new(server, tls_config(None).expect("TLS"), Resolver::for_test());
        let client = Client::new(&settings, ConnectionReuse::Never, KnownServer::speaking(None), 0);
        Self::new(Arc::new(client.expect("a client")))
    }

    /// Records that its response is not one that the platform itself sends.
    pub(in super::super) fn distrust(&self) {
        self.client.distrust();
    }

    pub(super) const fn client(&self) -> &Arc<Client> {
        &self.client
    }

    pub(super) fn is_on(&self, client: &Arc<Client>) -> bool {
        Arc::ptr_eq(&self.client, client)
    }

    /// The client to send the request with.
    pub(in super::super) fn http(&self) -> &reqwest::Client {
        self.client.http()
    }

    /// Waits while another request of this client connects, and fails as that one fails.
    /// Without this, any number of first requests would each open a connection of which
    /// HTTP/2 needs only one.
    pub(in super::super) async fn connection(&self) -> Result<(), ConnectFailure> {
        loop {
            let mut connecting = {
                let mut progress = self.client.progress();
                if !progress.needs_connection() {
                    return Ok(());
                }
                match &progress.connecting {
                    // An error: the other request ended without an outcome.
                    Some(connecting) if connecting.has_changed().is_ok() => connecting.clone(),
                    _ => {
                        let (sender, receiver) = watch::channel(Connection::Connecting);
                        progress.connecting = Some(receiver);
                        *self.connecting() = Some(sender);
                        return Ok(());
                    }
                }
            };
            // Until the other request ends; then its last state counts.
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
                if ended || !self.client.progress().needs_connection() {
                    break;
                }
            }
        }
    }

    /// Waits for the turn to be sent, where streams have to be counted.
    pub(in super::super) async fn turn(&self) {
        if self.may_wait_for_stream()
            && let Ok(turn) = Arc::clone(&self.client.turn).acquire_owned().await
        {
            *self.own_turn() = Some(turn);
        }
    }

    /// Returns whether its client has ever received a response, so may have a connection.
    pub(in super::super) fn has_answered(&self) -> bool {
        self.client.has_answered()
    }

    /// Returns the protocol of the server, if its client has had a response.
    pub(in super::super) fn protocol(&self) -> Option<HttpProtocol> {
        self.client.protocol()
    }

    /// Returns whether the request may have to wait for a stream.
    pub(in super::super) fn may_wait_for_stream(&self) -> bool {
        self.client.progress().may_wait_for_stream()
    }

    /// Returns whether a request that was not sent in time waited for others on the same
    /// connection: connecting itself has a shorter limit.
    pub(in super::super) fn is_queued(&self) -> bool {
        let is_waiting = *self.stage() == Stage::Waiting;
        let progress = self.client.progress();
        is_waiting && progress.may_wait_for_stream() && progress.has_sent()
    }

    /// Returns whether the request waits for one of the peer's streams rather than for a
    /// connection.
    pub(in super::super) fn waits_for_stream(&self) -> bool {
        *self.stage() == Stage::Waiting && self.client.progress().waits_for_stream()
    }

    /// Returns the number of streams that have ever been opened on this connection.
    pub(in super::super) fn opened_streams(&self) -> u64 {
        self.client.progress().opened
    }

    /// Records that the request got no stream while others use this connection. If they
    /// opened theirs recently, the peer limits them; otherwise the connection may merely be
    /// closing.
    pub(in super::super) fn no_stream_in_time(&self) {
        self.client.progress().no_stream_in_time(clock::now());
    }

    /// Records that the peer refused the stream of this request. Returns whether other
    /// requests use streams, so that a limit can be the reason.
    pub(in super::super) fn stream_refused(&self) -> bool {
        *self.stage() == Stage::Sent && self.client.progress().stream_refused()
    }

    /// Records that the request's body is being sent.
    pub(in super::super) fn sent(&self) {
        let mut stage = self.stage();
        if *stage == Stage::Waiting {
            *stage = Stage::Sent;
            let sent_at = self.client.progress().request_sent();
            self.own_turn().take();
            self.report(Connection::Connected(sent_at));
        }
    }

    /// Records the head of the response.
    pub(in super::super) fn answered(&self, protocol: HttpProtocol) {
        let mut stage = self.stage();
        let mut progress = self.client.progress();
        if *stage == Stage::Waiting {
            // A server may answer before it reads.
            progress.request_sent();
        }
        progress.response(protocol);
        if matches!(*stage, Stage::Waiting | Stage::Sent) {
            *stage = Stage::Answered;
            progress.request_answered();
        }
        drop(progress);
        self.report(Connection::Settled);
    }

    /// Records that no connection could be made.
    pub(in super::super) fn connection_failed(&self, failure: ConnectFailure) {
        self.report(Connection::Failed(failure));
    }

    /// Ends the lease. Ending it twice does nothing.
    pub(in super::super) fn end(&self) {
        let mut stage = self.stage();
        let mut progress = self.client.progress();
        match *stage {
            Stage::Waiting => progress.waiting = progress.waiting.saturating_sub(1),
            Stage::Sent => {
                progress.request_answered();
                progress.request_ended();
            }
            Stage::Answered => progress.request_ended(),
            Stage::Ended => {}
        }
        *stage = Stage::Ended;
        drop(progress);
        self.own_turn().take();
        // Wakes the waiting requests, one of which then connects.
        self.connecting().take();
    }

    fn report(&self, state: Connection) {
        if let Some(others) = &*self.connecting() {
            others.send_replace(state);
        }
    }

    fn own_turn(&self) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connecting(&self) -> MutexGuard<'_, Option<watch::Sender<Connection>>> {
        self.connecting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end();
    }
}

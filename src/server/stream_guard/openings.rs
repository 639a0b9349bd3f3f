//! Limits on the streams that a connection may open before its caller is identified.
//!
//! Each stream uses memory until its response has been sent, and the peer decides how long that
//! takes: it may withhold the request's body, or not accept the response. For a caller that the
//! access rules name, the limits on calls bound this. Any other connection has a few places for
//! streams of its own, and takes further ones from a budget that all those connections share, so
//! that an unusual client is not slowed down unnecessarily. Without a free place, the connection is
//! paused: reading stops at the frame that opens the stream, so that the client waits instead of
//! being refused.

use std::{
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

use super::super::limits::Limits;
use crate::{
    caller::Recognition,
    observe::telemetry::{logging::LogThrottle, metrics::Metrics},
};

/// The places for streams that connections without an identified call share. One per port; clones
/// share it.
#[derive(Clone, Debug)]
pub(in crate::server) struct StreamBudget(Arc<BudgetState>);

#[derive(Debug)]
struct BudgetState {
    streams: Arc<Semaphore>,
    per_connection: usize,
    paused: LogThrottle,
    metrics: Metrics,
}

/// The open streams of one connection.
#[derive(Debug)]
pub(super) struct Openings {
    open: Vec<OpenStream>,
    max: usize,
    budget: StreamBudget,
    recognition: Recognition,
    /// Places from the shared budget: one for each open stream beyond the connection's own places.
    shared: Option<OwnedSemaphorePermit>,
    /// The position in the queue for another place, while the connection is paused.
    queued: Option<PollSemaphore>,
    address: SocketAddr,
}

#[derive(Debug)]
struct OpenStream {
    id: u32,
    /// Whether the response has begun.
    responds: bool,
}

impl StreamBudget {
    pub(in crate::server) fn new(limits: &Limits, metrics: Metrics) -> Self {
        Self(Arc::new(BudgetState {
            streams: Arc::new(Semaphore::new(limits.shared_unidentified_streams)),
            per_connection: limits.unidentified_streams,
            paused: LogThrottle::default(),
            metrics,
        }))
    }

    fn report_pause(&self, address: SocketAddr) {
        self.0.metrics.connection_paused();
        let due = self.0.paused.due();
        if let Some(suppressed) = due {
            tracing::warn!(
                peer.address = %address,
                log.suppressed = suppressed,
                "connection paused until its caller is identified or a stream ends"
            );
        }
    }
}

impl Openings {
    /// Tracks the streams of a connection, at most `max` at a time.
    pub(super) const fn new(
        max: usize,
        budget: StreamBudget,
        recognition: Recognition,
        address: SocketAddr,
    ) -> Self {
        Self { open: Vec::new(), max, budget, recognition, shared: None, queued: None, address }
    }

    /// Waits for the place of another stream. The caller then opens the stream.
    pub(super) fn poll_place(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.open.len() < self.budget.0.per_connection || self.recognition.poll_set(cx).is_ready() {
            self.queued = None;
            return Poll::Ready(());
        }
        if self.queued.is_none() {
            if let Ok(place) = Arc::clone(&self.budget.0.streams).try_acquire_owned() {
                self.keep(place);
                return Poll::Ready(());
            }
            self.queued = Some(PollSemaphore::new(Arc::clone(&self.budget.0.streams)));
            self.budget.report_pause(self.address);
        }
        let Some(Poll::Ready(place)) = self.queued.as_mut().map(|queued| queued.poll_acquire(cx)) else {
            return Poll::Pending;
        };
        self.queued = None;
        // The semaphore is never closed.
        if let Some(place) = place {
            self.keep(place);
        }
        Poll::Ready(())
    }

    /// Returns whether a stream can be opened without waiting for a place.
    pub(super) fn has_place(&self) -> bool {
        self.open.len() < self.budget.0.per_connection || self.recognition.is_set()
    }

    fn keep(&mut self, place: OwnedSemaphorePermit) {
        match &mut self.shared {
            Some(places) => places.merge(place),
            None => self.shared = Some(place),
        }
    }

    /// Records an opened stream, for which there is a place.
    pub(super) fn opened(&mut self, id: u32) {
        // The HTTP/2 library ignores streams that are opened after its last GOAWAY. They never end,
        // so their number is limited here.
        if self.open.len() < self.max {
            self.open.push(OpenStream { id, responds: false });
        }
        self.return_places();
    }

    /// Records that the response of a stream has begun.
    pub(super) fn responds(&mut self, id: u32) {
        if let Some(stream) = self.open.iter_mut().find(|stream| stream.id == id) {
            stream.responds = true;
        }
    }

    /// Records the end of a stream, if it was open. Returns whether its response had begun.
    pub(super) fn ended(&mut self, id: u32) -> bool {
        let Some(at) = self.open.iter().position(|stream| stream.id == id) else { return false };
        let stream = self.open.swap_remove(at);
        self.return_places();
        stream.responds
    }

    fn return_places(&mut self) {
        let Some(places) = &mut self.shared else { return };
        let needed = if self.recognition.is_set() {
            0
        } else {
            self.open.len().saturating_sub(self.budget.0.per_connection)
        };
        drop(places.split(places.num_permits().saturating_sub(needed)));
        if needed == 0 {
            self.shared = None;
        }
    }
}

#[cfg(test)]
mod tests;

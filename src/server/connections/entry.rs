//! The state of one open connection: its calls, its activity, and its time limits.
//!
//! All state is atomic and per connection, so that a call shares nothing with the calls of other
//! connections.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::Response;
use http_body::{Frame, SizeHint};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::PeerKey;
use crate::{
    base::{
        backoff::jittered,
        clock::{self, Instant},
        memory::{Reader, Reservation},
    },
    caller::Recognition,
    observe::telemetry::metrics::{ConnectionEnd, ConnectionRefusal},
    server::{limits::Limits, response_body::ResponseBody},
};

/// Interval between checks of a connection that is past its time but still carries a response.
const RECHECK: Duration = Duration::from_secs(1);

/// One open connection.
#[derive(Debug)]
pub(in crate::server) struct Entry {
    /// Position in the order in which connections were accepted.
    pub(super) number: u64,
    pub(super) address: SocketAddr,
    /// The group of peers under whose limit it is counted; `None` if its peer is exempt.
    pub(super) key: Option<PeerKey>,
    /// Whether it is still counted in that group. Changes only under the lock of `Connections`.
    pub(super) counted: AtomicBool,
    accepted: Instant,
    recognition: Recognition,
    evicted: CancellationToken,
    /// The limit that caused the eviction; set before the token is cancelled.
    evicted_for: OnceLock<ConnectionRefusal>,
    /// The peer as a reader of responses.
    reader: Arc<Reader>,
    /// Number of calls in progress, from their headers to the end of their response.
    calls: AtomicU32,
    /// Number of those whose response has begun.
    responses: AtomicU32,
    /// Number of those with response data that the peer has not accepted yet. Counted until the
    /// first identified call.
    undelivered: AtomicU32,
    /// Time from `accepted` until `undelivered` last became positive, in milliseconds.
    stalled: AtomicU64,
    /// Time from `accepted` until the last start or end of a call, in milliseconds.
    active: AtomicU64,
}

impl Entry {
    pub(super) fn new(number: u64, address: SocketAddr, key: Option<PeerKey>) -> Self {
        Self {
            number,
            address,
            key,
            counted: AtomicBool::new(key.is_some()),
            accepted: clock::now(),
            recognition: Recognition::default(),
            evicted: CancellationToken::new(),
            evicted_for: OnceLock::new(),
            reader: Arc::default(),
            calls: AtomicU32::new(0),
            responses: AtomicU32::new(0),
            undelivered: AtomicU32::new(0),
            stalled: AtomicU64::new(0),
            active: AtomicU64::new(0),
        }
    }

    /// Returns the address of the peer.
    pub(in crate::server) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the flag that the first identified call sets.
    pub(in crate::server) const fn recognition(&self) -> &Recognition {
        &self.recognition
    }

    /// Returns the token that is cancelled when the connection has to make room for another.
    pub(in crate::server) const fn evicted(&self) -> &CancellationToken {
        &self.evicted
    }

    /// Returns the token that is cancelled when the peer has not accepted a response in time and
    /// others wait for its memory.
    pub(in crate::server) fn unread(&self) -> &CancellationToken {
        self.reader.closing()
    }

    /// Has the connection closed, because its place has been given to another.
    pub(super) fn evict(&self, limit: ConnectionRefusal) {
        let _ = self.evicted_for.set(limit);
        self.evicted.cancel();
    }

    /// Returns the limit for which the connection made room, if it did.
    pub(super) fn evicted_for(&self) -> Option<ConnectionRefusal> {
        self.evicted_for.get().copied()
    }

    /// Returns the number of calls in progress.
    pub(in crate::server) fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Counts a call that arrived at `now`.
    pub(in crate::server) fn call(self: &Arc<Self>, now: Instant) -> OpenCall {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.set_active(now);
        OpenCall { entry: Arc::clone(self), responds: false, undelivered: false }
    }

    /// Returns the sort key of the order in which connections make room: those without calls in
    /// progress first, then by the time of their last activity.
    pub(super) fn idleness(&self) -> (bool, Instant) {
        (self.calls() > 0, self.last_active())
    }

    /// Resolves when one of the connection's time limits is reached.
    pub(in crate::server) async fn is_over(&self, limits: &Limits) -> ConnectionEnd {
        let too_old = self.accepted + jittered(limits.connection_age, 0.9, 1.1);
        loop {
            let check = match self.next_check(clock::now(), limits) {
                Ok(check) => check,
                Err(end) => return end,
            };
            if too_old <= check {
                sleep_until(too_old).await;
                return ConnectionEnd::Age;
            }
            sleep_until(check).await;
        }
    }

    /// Returns the time of the next check, which is after `now`, or the reason that the connection
    /// is over.
    fn next_check(&self, now: Instant, limits: &Limits) -> Result<Instant, ConnectionEnd> {
        let idle_timeout = limits.idle_timeout;
        if let Some(timeout) = limits.unidentified_timeout
            && !self.recognition.is_set()
        {
            let (due, last) = (self.accepted + timeout.min(idle_timeout), self.accepted + idle_timeout);
            return if now < due {
                Ok(due)
            } else if self.responses.load(Ordering::Relaxed) > 0
                && now < last
                && !self.is_stalled(now, limits)
            {
                // Most likely a health `Watch`, which clients keep open before their first call.
                // The connection is still one of the first to make room.
                Ok(last.min(now + RECHECK))
            } else {
                Err(ConnectionEnd::Unidentified)
            };
        }
        if self.is_stalled(now, limits) {
            return Err(ConnectionEnd::Idle);
        }
        if self.calls() > 0 {
            let stalls = !self.recognition.is_set();
            return Ok(now + if stalls { idle_timeout.min(limits.delivery_timeout) } else { idle_timeout });
        }
        let due = self.last_active() + idle_timeout;
        if now < due { Ok(due) } else { Err(ConnectionEnd::Idle) }
    }

    /// Returns whether the peer has stopped accepting responses, and the connection has carried no
    /// identified call.
    pub(in crate::server) fn is_stalled(&self, now: Instant, limits: &Limits) -> bool {
        let since = self.accepted + Duration::from_millis(self.stalled.load(Ordering::Relaxed));
        self.undelivered.load(Ordering::Relaxed) > 0
            && !self.recognition.is_set()
            && now.saturating_duration_since(since) >= limits.delivery_timeout
    }

    fn last_active(&self) -> Instant {
        self.accepted + Duration::from_millis(self.active.load(Ordering::Relaxed))
    }

    fn set_active(&self, now: Instant) {
        self.active.store(self.age(now), Ordering::Relaxed);
    }

    /// Returns the time since the connection was accepted, in milliseconds.
    fn age(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.accepted).as_millis();
        u64::try_from(age).unwrap_or(u64::MAX)
    }
}

/// A call in progress. It counts until this, or the response that it became, is dropped.
#[derive(Debug)]
pub(in crate::server) struct OpenCall {
    entry: Arc<Entry>,
    responds: bool,
    undelivered: bool,
}

impl OpenCall {
    /// Keeps the call counted until its response has been sent.
    pub(in crate::server) fn responding(
        mut self,
        mut response: Response<impl Into<ResponseBody>>,
    ) -> Response<OpenResponse> {
        self.entry.responses.fetch_add(1, Ordering::Relaxed);
        self.responds = true;
        self.set_undelivered(true);
        let memory: Option<Arc<Reservation>> = response.extensions_mut().remove();
        if let Some(memory) = &memory {
            memory.deliver(&self.entry.reader);
        }
        response.map(|body| OpenResponse { body: body.into(), call: self, memory })
    }

    /// Records whether there is response data that the peer has not accepted.
    fn set_undelivered(&mut self, undelivered: bool) {
        let entry = &self.entry;
        // The value is not used after the first identified call.
        if undelivered == self.undelivered || (undelivered && entry.recognition.is_set()) {
            return;
        }
        self.undelivered = undelivered;
        if !undelivered {
            entry.undelivered.fetch_sub(1, Ordering::Relaxed);
        } else if entry.undelivered.fetch_add(1, Ordering::Relaxed) == 0 {
            entry.stalled.store(entry.age(clock::now()), Ordering::Relaxed);
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.set_undelivered(false);
        if self.responds {
            self.entry.responses.fetch_sub(1, Ordering::Relaxed);
        }
        self.entry.calls.fetch_sub(1, Ordering::Relaxed);
        self.entry.set_active(clock::now());
    }
}

/// The body of a response whose call is in progress.
#[derive(Debug)]
pub(in crate::server) struct OpenResponse {
    body: ResponseBody,
    call: OpenCall,
    memory: Option<Arc<Reservation>>,
}

impl http_body::Body for OpenResponse {
    type Data = ResponseData;
    type Error = <ResponseBody as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<ResponseData>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        // hyper polls for more only after the last frame fitted into the peer's flow-control
        // windows.
        self.call.set_undelivered(frame.is_ready());
        frame.map_ok(|frame| frame.map_data(|data| ResponseData::new(data, self.memory.as_ref())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Part of a response. Its memory stays reserved until its last byte has been written to the
/// socket, which may be long after the body has ended.
#[derive(Debug)]
pub(in crate::server) struct ResponseData {
    data: Bytes,
    memory: Option<Arc<Reservation>>,
}

impl ResponseData {
    fn new(data: Bytes, memory: Option<&Arc<Reservation>>) -> Self {
        if let Some(memory) = memory {
            // The values that the message was encoded from have been dropped. The encoder's buffer
            // is up to twice as large as its contents.
            memory.shrink(data.len().saturating_mul(2));
        }
        Self { data, memory: memory.cloned() }
    }
}

impl Buf for ResponseData {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
        if let Some(memory) = &self.memory {
            memory.accepted(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::memory::{Consumer, MAX_RESPONSE_BYTES, ResponseMemory};

    #[test]
    fn memory_of_a_response_is_reserved_until_its_last_byte_is_written() {
        let memory = ResponseMemory::new(0, 1);
        let all = memory.available_bytes();
        let reserved = memory.try_reserve(Consumer::default()).expect("free");
        assert_eq!(memory.available_bytes(), all - 2 * MAX_RESPONSE_BYTES);
        let mut data = ResponseData::new(Bytes::from(vec![7; 100 * 1024]), Some(&reserved));
        // The body has ended, and its last byte waits for the peer's window.
        drop(reserved);
        data.advance(100 * 1024 - 1);
        assert_eq!(
            memory.available_bytes(),
            all - 2 * 100 * 1024,
            "the copies that it was encoded from are dropped"
        );
        assert_eq!(data.chunk(), [7]);
        drop(data);
        assert_eq!(memory.available_bytes(), all);
    }
}

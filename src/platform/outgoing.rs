//! Body of a request, and the gate that it passes when it is sent.
//!
//! The HTTP client polls the body only once it has a connection to write it to. A body that was
//! never polled proves that the platform cannot have acted on the request, and a withdrawn body can
//! no longer be sent. Nothing here does I/O.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::connections::Lease;
use crate::{
    base::clock::{self, WallClock},
    domain::call::Call,
};

/// Allows the body of one attempt to be sent at most once.
pub(super) struct BodyGate {
    call: Call,
    wall: WallClock,
    /// Minimum time before the call's deadline for sending the body.
    min_time_left: Duration,
    lease: Lease,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Passed(SystemTime),
    Withdrawn,
}

impl BodyGate {
    /// Creates a gate that the body has not passed yet.
    pub(super) fn new(call: Call, wall: WallClock, min_time_left: Duration, lease: Lease) -> Arc<Self> {
        Arc::new(Self { call, wall, min_time_left, lease, state: Mutex::new(State::Waiting) })
    }

    /// Returns the lease of the body's connection.
    pub(super) const fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Allows the body to be sent, unless it was withdrawn, the caller is gone, or the response
    /// would be too late to be delivered. Marks the call under the lock, so that no body is sent
    /// after its attempt has ended.
    fn pass(&self) -> Result<(), Withdrawn> {
        let mut state = self.state();
        let now = clock::now();
        let remaining = self.call.deadline().remaining_at(now);
        if *state == State::Waiting
            && !self.call.is_abandoned()
            && !remaining.is_zero()
            && remaining >= self.min_time_left
        {
            *state = State::Passed(self.wall.now());
            self.call.sending();
            self.lease.sent(now);
            return Ok(());
        }
        if *state == State::Waiting {
            *state = State::Withdrawn;
        }
        Err(Withdrawn)
    }

    /// Returns the current time of the clock that records when the body is sent.
    pub(super) fn now(&self) -> SystemTime {
        self.wall.now()
    }

    /// Returns whether the body can no longer be sent.
    pub(super) fn is_withdrawn(&self) -> bool {
        *self.state() == State::Withdrawn
    }

    /// Returns whether the body was sent.
    pub(super) fn has_passed(&self) -> bool {
        matches!(*self.state(), State::Passed(_))
    }

    /// Ends the attempt: a body that was not sent never will be. Returns when it was sent, if it
    /// was.
    pub(super) fn close(&self) -> Option<SystemTime> {
        let mut state = self.state();
        match *state {
            State::Passed(when) => Some(when),
            State::Waiting | State::Withdrawn => {
                *state = State::Withdrawn;
                None
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Error for a request that must not be sent any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request was withdrawn before it was sent")]
pub(super) struct Withdrawn;

/// A body of known length, in one chunk.
pub(super) struct OutgoingBody {
    bytes: Option<Bytes>,
    gate: Arc<BodyGate>,
}

impl OutgoingBody {
    /// Creates a body that passes this gate.
    pub(super) const fn new(bytes: Bytes, gate: Arc<BodyGate>) -> Self {
        Self { bytes: Some(bytes), gate }
    }
}

impl Body for OutgoingBody {
    type Data = Bytes;
    type Error = Withdrawn;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Withdrawn>>> {
        Poll::Ready(self.bytes.take().map(|bytes| self.gate.pass().map(|()| Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;

    use super::*;
    use crate::{
        base::clock,
        domain::call::{Certainty, Deadline},
    };

    fn call() -> Call {
        Call::new(clock::now(), Deadline::after(Duration::from_secs(1)))
    }

    fn gate(call: &Call, min_time_left: Duration) -> Arc<BodyGate> {
        BodyGate::new(call.clone(), WallClock::system(), min_time_left, Lease::for_test())
    }

    fn body(gate: &Arc<BodyGate>) -> OutgoingBody {
        OutgoingBody::new(Bytes::from_static(b"body"), Arc::clone(gate))
    }

    #[tokio::test(start_paused = true)]
    async fn polled_body_has_passed() {
        let call = call();
        let gate = gate(&call, Duration::ZERO);
        assert_eq!(call.certainty(), Certainty::NotSent);
        assert_eq!(body(&gate).collect().await.unwrap().to_bytes(), "body");
        assert_eq!(call.certainty(), Certainty::Unknown);
        assert!(gate.has_passed() && gate.close().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn withdrawn_body_is_never_sent() {
        let call = call();
        let gate = gate(&call, Duration::ZERO);
        assert!(gate.close().is_none());
        assert_eq!(body(&gate).collect().await.unwrap_err(), Withdrawn);
        assert!(gate.close().is_none(), "polling it later changes nothing");
        assert_eq!(call.certainty(), Certainty::NotSent);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_sent_after_the_deadline_or_for_a_disconnected_caller() {
        let gate_of_late_call = gate(&call(), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(body(&gate_of_late_call).collect().await.unwrap_err(), Withdrawn);

        let abandoned = call();
        let gate = gate(&abandoned, Duration::ZERO);
        abandoned.abandon();
        assert_eq!(body(&gate).collect().await.unwrap_err(), Withdrawn);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_sent_if_the_response_would_be_too_late() {
        let call = call();
        let gate = gate(&call, Duration::from_millis(400));
        tokio::time::advance(Duration::from_millis(601)).await;
        assert_eq!(body(&gate).collect().await.unwrap_err(), Withdrawn);
        assert_eq!(call.certainty(), Certainty::NotSent);
    }
}

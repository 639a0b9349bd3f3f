//! The body of a request, and the gate through which it leaves.
//!
//! The HTTP client asks for the body only once it has a connection to write it to. A
//! body that was never asked for proves that the platform cannot have acted on the
//! request, and one that is withdrawn can no longer leave. Nothing here sends.

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
    call::Call,
    clock::{self, WallClock},
};

/// Lets the body of one attempt leave at most once, or never.
pub(super) struct BodyGate {
    call: Call,
    wall: WallClock,
    /// With less than this left of the call's deadline the body does not leave.
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
    /// Creates a gate that the body has not passed.
    pub(super) fn new(call: Call, wall: WallClock, min_time_left: Duration, lease: Lease) -> Arc<Self> {
        Arc::new(Self { call, wall, min_time_left, lease, state: Mutex::new(State::Waiting) })
    }

    /// The connection that the body is meant for.
    pub(super) const fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Lets the body pass, unless it was withdrawn, nobody waits for the response, or the
    /// response would come too late to be delivered. The call is marked under the lock, so
    /// that no body leaves after its attempt has ended.
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

    /// The time now, by the clock that dates a body that leaves.
    pub(super) fn now(&self) -> SystemTime {
        self.wall.now()
    }

    /// Returns whether the body can no longer leave.
    pub(super) fn is_withdrawn(&self) -> bool {
        *self.state() == State::Withdrawn
    }

    /// Returns whether the body has left.
    pub(super) fn has_passed(&self) -> bool {
        matches!(*self.state(), State::Passed(_))
    }

    /// Ends the attempt: a body that has not passed never will. Returns when it passed, if
    /// it did.
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

/// The request must not be sent any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request was withdrawn before it was sent")]
pub(super) struct Withdrawn;

/// A body of known length in one piece.
pub(super) struct OutgoingBody {
    bytes: Option<Bytes>,
    gate: Arc<BodyGate>,
}

impl OutgoingBody {
    /// A body that leaves through this gate.
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
        call::{Certainty, Deadline},
        clock,
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
    async fn a_body_that_was_asked_for_has_passed() {
        let call = call();
        let gate = gate(&call, Duration::ZERO);
        assert_eq!(call.certainty(), Certainty::NotSent);
        assert_eq!(body(&gate).collect().await.unwrap().to_bytes(), "body");
        assert_eq!(call.certainty(), Certainty::Unknown);
        assert!(gate.has_passed() && gate.close().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_withdrawn_body_never_leaves() {
        let call = call();
        let gate = gate(&call, Duration::ZERO);
        assert!(gate.close().is_none());
        assert_eq!(body(&gate).collect().await.unwrap_err(), Withdrawn);
        assert!(gate.close().is_none(), "asking later changes nothing");
        assert_eq!(call.certainty(), Certainty::NotSent);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_leaves_past_the_deadline_or_for_nobody() {
        let gate_of_late_call = gate(&call(), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(body(&gate_of_late_call).collect().await.unwrap_err(), Withdrawn);

        let abandoned = call();
        let gate = gate(&abandoned, Duration::ZERO);
        abandoned.abandon();
        assert_eq!(body(&gate).collect().await.unwrap_err(), Withdrawn);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_leaves_whose_response_would_be_too_late() {
        let call = call();
        let gate = gate(&call, Duration::from_millis(400));
        tokio::time::advance(Duration::from_millis(601)).await;
        assert_eq!(body(&gate).collect().await.unwrap_err(), Withdrawn);
        assert_eq!(call.certainty(), Certainty::NotSent);
    }
}

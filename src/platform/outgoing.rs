//! The body of a request, and the gate through which it leaves.
//!
//! The HTTP client asks for the body only once it has a connection to write it to. A
//! body that was never asked for proves that the platform cannot have acted on the
//! request, and one that is withdrawn can no longer leave. Nothing here sends.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::SystemTime,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::{call::Call, clock::WallClock};

/// Where the body of one attempt passes at most once, or never.
#[derive(Debug)]
pub(super) struct Gate {
    call: Call,
    wall: WallClock,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Passed(SystemTime),
    Withdrawn,
}

impl Gate {
    /// A gate that nothing has passed.
    pub(super) fn new(call: Call, wall: WallClock) -> Arc<Self> {
        Arc::new(Self { call, wall, state: Mutex::new(State::Waiting) })
    }

    /// Lets the body pass, unless it was withdrawn or nobody waits for the answer any
    /// more. The call is told under the lock, so that it never hears of a body that
    /// leaves after its attempt has ended.
    fn pass(&self) -> Result<(), Withdrawn> {
        let mut state = self.state();
        if *state == State::Waiting
            && !self.call.is_abandoned()
            && !self.call.deadline().remaining().is_zero()
        {
            *state = State::Passed(self.wall.now());
            self.call.sending();
            return Ok(());
        }
        Err(Withdrawn)
    }

    /// Ends the attempt: what has not passed never will. When the body passed, if it did.
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

/// The request is not to be sent any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request was withdrawn before it was sent")]
pub(super) struct Withdrawn;

/// A body of known length in one piece.
pub(super) struct OutgoingBody {
    bytes: Option<Bytes>,
    gate: Arc<Gate>,
}

impl OutgoingBody {
    /// A body that leaves through this gate.
    pub(super) const fn new(bytes: Bytes, gate: Arc<Gate>) -> Self {
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

    fn body(gate: &Arc<Gate>) -> OutgoingBody {
        OutgoingBody::new(Bytes::from_static(b"body"), Arc::clone(gate))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_was_asked_for_has_passed() {
        let call = call();
        let gate = Gate::new(call.clone(), WallClock::system());
        assert_eq!(call.certainty(), Certainty::NotSent);
        assert_eq!(body(&gate).collect().await.unwrap().to_bytes(), "body");
        assert_eq!(call.certainty(), Certainty::Unknown);
        assert!(gate.close().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_withdrawn_body_never_leaves() {
        let call = call();
        let gate = Gate::new(call.clone(), WallClock::system());
        assert!(gate.close().is_none());
        assert_eq!(body(&gate).collect().await.unwrap_err(), Withdrawn);
        assert!(gate.close().is_none(), "asking later changes nothing");
        assert_eq!(call.certainty(), Certainty::NotSent);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_leaves_past_the_deadline_or_for_nobody() {
        let late = call();
        let gate = Gate::new(late, WallClock::system());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(body(&gate).collect().await.unwrap_err(), Withdrawn);

        let abandoned = call();
        let gate = Gate::new(abandoned.clone(), WallClock::system());
        abandoned.abandon();
        assert_eq!(body(&gate).collect().await.unwrap_err(), Withdrawn);
    }
}

//! Acknowledgement of a line to the call that waits for it.
//!
//! The writer thread and the call decide the fate of the line exactly once: the line is written or
//! has failed, or the call has given up first. A line whose call has given up is written again,
//! marked as late, so that no line is mistaken for the record of a response that was sent.
//!
//! The state is one atomic per line. A sequence number per worker, up to which lines are written,
//! could not replace it: a call may give up at any time, before or after its line is written.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

use super::{
    AuditUnavailable,
    signal::{Signal, Wakes},
};

/// Values of [`State::fate`]. The first one changes to one of the others, which never change.
const UNDECIDED: u8 = 0;
const WRITTEN: u8 = 1;
const FAILED: u8 = 2;
const GIVEN_UP: u8 = 3;

/// State shared by a line, its call and the hand-over between them.
#[derive(Debug)]
struct State {
    fate: AtomicU8,
    /// Woken only by the hand-over, on the thread of the call.
    call: AtomicWaker,
}

impl State {
    /// Decides the fate of the line. Returns false if it was decided before. Of several threads
    /// that try, exactly one succeeds.
    ///
    /// `Release`: the kernel has the line before another thread reads [`WRITTEN`].
    fn decide(&self, fate: u8) -> bool {
        self.fate.compare_exchange(UNDECIDED, fate, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn fate(&self) -> u8 {
        self.fate.load(Ordering::Acquire)
    }
}

/// Returns the three ends of an acknowledgement: for the line, for the call, and for the hand-over
/// that `signal` wakes.
pub(super) fn acknowledgement(signal: &Arc<Signal>) -> (Acknowledger, Acknowledgement, Waiter) {
    let state = Arc::new(State { fate: AtomicU8::new(UNDECIDED), call: AtomicWaker::new() });
    let acknowledger = Acknowledger { state: Arc::clone(&state), signal: Arc::clone(signal) };
    (acknowledger, Acknowledgement(Arc::clone(&state)), Waiter(state))
}

/// The end for the line. If it is dropped undecided, the line has failed: it cannot be written any
/// more, because the thread has panicked or stopped.
#[derive(Debug)]
pub(super) struct Acknowledger {
    state: Arc<State>,
    signal: Arc<Signal>,
}

impl Acknowledger {
    /// Records that the line is written. Returns false if the call has given up first.
    pub(super) fn written(self, wakes: &mut Wakes) -> bool {
        self.decide(WRITTEN, wakes)
    }

    /// Records that the line is not written in time.
    pub(super) fn failed(self, wakes: &mut Wakes) {
        self.decide(FAILED, wakes);
    }

    /// Returns whether the call has given up.
    pub(super) fn is_given_up(&self) -> bool {
        self.state.fate() == GIVEN_UP
    }

    fn decide(&self, fate: u8, wakes: &mut Wakes) -> bool {
        let is_first = self.state.decide(fate);
        if is_first {
            wakes.add(&self.signal);
        }
        is_first
    }
}

impl Drop for Acknowledger {
    fn drop(&mut self) {
        if self.state.decide(FAILED) {
            self.signal.wake();
        }
    }
}

/// The call's end. Resolves when the fate of the line is decided. Dropping it before that abandons
/// the line.
#[derive(Debug)]
#[must_use = "dropping this abandons the line"]
pub(super) struct Acknowledgement(Arc<State>);

impl Future for Acknowledgement {
    type Output = Result<(), AuditUnavailable>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Registered before the fate is read: if it is decided afterwards, the hand-over wakes this
        // call.
        self.0.call.register(context.waker());
        match self.0.fate() {
            UNDECIDED => Poll::Pending,
            WRITTEN => Poll::Ready(Ok(())),
            _failed_or_given_up => Poll::Ready(Err(AuditUnavailable)),
        }
    }
}

impl Drop for Acknowledgement {
    fn drop(&mut self) {
        self.0.decide(GIVEN_UP);
        // The hand-over may keep the state for a while, but need not keep the task of the call
        // alive.
        self.0.call.take();
    }
}

/// The hand-over's end. Wakes the call, or abandons the line for it at the time limit.
#[derive(Debug)]
pub(super) struct Waiter(Arc<State>);

impl Waiter {
    /// Returns whether the fate of the line is decided, so that the call can be woken.
    pub(super) fn is_decided(&self) -> bool {
        self.0.fate() != UNDECIDED
    }

    /// Gives up. Returns false if the fate was decided before.
    pub(super) fn give_up(&self) -> bool {
        self.0.decide(GIVEN_UP)
    }

    /// Wakes the call.
    pub(super) fn wake(&self) {
        self.0.call.wake();
    }
}

#[cfg(test)]
mod tests;

//! What became of the line of a call that waits for it.
//!
//! The thread that writes and the call decide it between them, exactly once: the line is written
//! or has failed, or the call has given up before. A line whose call has given up is written
//! once more, marked as late, so no line can be taken for the record of an answer that did not
//! leave.
//!
//! The state is one atomic for each line. A sequence number for each worker, up to which lines are
//! written, would not replace it: a call may give up at any time, and whether it did so before
//! its line was written differs from line to line.

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

/// What a line, its call and the hand-over between them share.
#[derive(Debug)]
struct State {
    fate: AtomicU8,
    /// Woken by the hand-over only, on the thread of the call.
    call: AtomicWaker,
}

impl State {
    /// Decides the fate of the line. Returns false if it was decided before: of several threads
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

/// Returns the ends of a line that a call waits for: of the line, of the call, and of the hand-over
/// that `signal` wakes.
pub(super) fn acknowledgement(signal: &Arc<Signal>) -> (Acknowledger, Acknowledgement, Waiter) {
    let state = Arc::new(State { fate: AtomicU8::new(UNDECIDED), call: AtomicWaker::new() });
    let acknowledger = Acknowledger { state: Arc::clone(&state), signal: Arc::clone(signal) };
    (acknowledger, Acknowledgement(Arc::clone(&state)), Waiter(state))
}

/// The line's end. Dropped undecided, the line has failed: it cannot be written any more,
/// because the thread has panicked or stopped.
#[derive(Debug)]
pub(super) struct Acknowledger {
    state: Arc<State>,
    signal: Arc<Signal>,
}

impl Acknowledger {
    /// Records that the line is written. Returns false if the call has given up before.
    pub(super) fn written(self, wakes: &mut Wakes) -> bool {
        self.decide(WRITTEN, wakes)
    }

    /// Records that the line is not written in time.
    pub(super) fn failed(self, wakes: &mut Wakes) {
        self.decide(FAILED, wakes);
    }

    /// Whether the call has given up.
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

/// The call's end. Resolves when the fate of the line is decided. Dropped before, the call has
/// given up.
#[derive(Debug)]
#[must_use = "the call gives up when this is dropped"]
pub(super) struct Acknowledgement(Arc<State>);

impl Future for Acknowledgement {
    type Output = Result<(), AuditUnavailable>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Before the fate is read: if it is decided afterwards, the hand-over wakes this call.
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
        // The hand-over may keep the state for a while, and need not keep the call's task.
        self.0.call.take();
    }
}

/// The hand-over's end: wakes the call, and gives up for it when its time is over.
#[derive(Debug)]
pub(super) struct Waiter(Arc<State>);

impl Waiter {
    /// Whether the fate of the line is decided, so that the call can be woken.
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

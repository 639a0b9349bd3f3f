//! One wake-up for many lines.
//!
//! Waking the task of a worker from another thread costs a lock and a system call. The writer
//! thread therefore decides all lines of a batch first, and then wakes each affected task once.

use std::{sync::Arc, task::Waker};

use futures_util::task::AtomicWaker;

/// Wakes the task of one hand-over. The hand-over and its lines share it.
#[derive(Debug, Default)]
pub(super) struct Signal(AtomicWaker);

impl Signal {
    /// Registers the task to wake. The task calls this before it reads the state, so that later
    /// changes wake it again ([`AtomicWaker::register`]).
    pub(super) fn register(&self, task: &Waker) {
        self.0.register(task);
    }

    /// Wakes the task. The change must have been published before.
    pub(super) fn wake(&self) {
        self.0.wake();
    }
}

/// The tasks whose lines were decided in this batch. Dropping this wakes them, so that after a
/// panic of the thread no call waits for a line that is already decided.
#[derive(Debug, Default)]
pub(super) struct Wakes(Vec<Arc<Signal>>);

impl Wakes {
    /// Adds a task, once. There are few: one per worker, and one per call that outlives its worker.
    pub(super) fn add(&mut self, signal: &Arc<Signal>) {
        if !self.0.iter().any(|known| Arc::ptr_eq(known, signal)) {
            self.0.push(Arc::clone(signal));
        }
    }

    /// Wakes each task once.
    pub(super) fn send(&mut self) {
        self.0.drain(..).for_each(|signal| signal.wake());
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.send();
    }
}

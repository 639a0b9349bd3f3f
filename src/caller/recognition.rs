//! A flag for connections that have carried a call of a caller that the access rules name.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

/// The flag of one connection, set by its first call whose caller is identified and named by the
/// access rules. `anonymous` sets it only if a rule names `anonymous`. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct Recognition(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is_set: AtomicBool,
    waiting: AtomicWaker,
}

impl Recognition {
    /// Sets the flag. It is never cleared.
    pub fn set(&self) {
        // Read first, because every call of a connection calls this and only the first one has to
        // write.
        if !self.is_set() {
            self.0.is_set.store(true, Ordering::Release);
            self.0.waiting.wake();
        }
    }

    /// Returns whether the flag is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.is_set.load(Ordering::Acquire)
    }

    /// Resolves when the flag is set. Only the task that polled last is woken.
    pub fn poll_set(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_set() {
            return Poll::Ready(());
        }
        self.0.waiting.register(cx.waker());
        // The flag may have been set before the registration.
        if self.is_set() { Poll::Ready(()) } else { Poll::Pending }
    }
}

//! How many calls are under way, with a limit and a way to wait for the last.
//!
//! A call counts until all that works on it has ended, also what goes on after its
//! caller went away. Which calls count, and what the others are told, is decided
//! elsewhere.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The calls under way, and how many there may be. Cheap to clone.
#[derive(Clone, Debug)]
pub struct InFlightLimit(Arc<Counter>);

/// One call under way: it counts until the last clone is dropped.
///
/// It lies in the extensions of each request, so that a task that goes on when the
/// caller has gone away can hold it.
#[derive(Clone, Debug)]
pub struct InFlight {
    ticket: Arc<Ticket>,
}

#[derive(Debug)]
struct Counter {
    limit: usize,
    count: AtomicUsize,
    idle: Notify,
    given_up: CancellationToken,
}

#[derive(Debug)]
struct Ticket(Arc<Counter>);

impl InFlightLimit {
    /// Nothing is under way, and at most `limit` calls may be.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Counter {
            limit,
            count: AtomicUsize::new(0),
            idle: Notify::new(),
            given_up: CancellationToken::new(),
        }))
    }

    /// Counts one more call; `None` if that would be one too many.
    #[must_use]
    pub fn admit(&self) -> Option<InFlight> {
        let one_more = |count: usize| (count < self.0.limit).then_some(count + 1);
        self.0.count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more).ok()?;
        Some(InFlight { ticket: Arc::new(Ticket(Arc::clone(&self.0))) })
    }

    /// How many calls are under way.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.count.load(Ordering::Acquire)
    }

    /// The process ends: whatever still goes on for a call that nobody waits for stops,
    /// and only writes its record.
    pub fn give_up(&self) {
        self.0.given_up.cancel();
    }

    /// Waits until no call is under way.
    pub async fn idle(&self) {
        loop {
            let idle = self.0.idle.notified();
            if self.count() == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl InFlight {
    /// Waits until the process can wait for this call no longer.
    pub async fn given_up(&self) {
        self.ticket.0.given_up.cancelled().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn limit_is_exact_and_a_call_counts_until_its_last_holder_is_gone() {
        let limit = InFlightLimit::new(2);
        let first = limit.admit().unwrap();
        let held_on = first.clone();
        let second = limit.admit().unwrap();
        assert!(limit.admit().is_none(), "the third is one too many");
        drop(first);
        assert!(limit.admit().is_none(), "the first is still held");
        drop(held_on);
        assert_eq!(limit.count(), 1);

        let waiting = tokio::spawn({
            let limit = limit.clone();
            async move { limit.idle().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.unwrap();
        assert!(limit.admit().is_some());
    }
}

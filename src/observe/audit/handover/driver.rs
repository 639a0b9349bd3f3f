//! Task of a hand-over: sends lines, wakes calls, and limits how long they wait.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Sleep, sleep_until};

use super::Handover;
use crate::{
    base::clock::{self, Instant},
    observe::audit::{acknowledgement::Waiter, judge::MAX_WRITE, started::RECORD_LIMIT},
};

/// A call that waits for its line.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) waiter: Waiter,
    pub(super) since: Instant,
}

/// Drives a hand-over until that is dropped. If the driver is dropped first, as at the end of a
/// worker, it sends the remaining lines; later ones are sent directly.
#[derive(Debug)]
#[must_use = "nothing is handed over unless this is polled"]
pub(in crate::observe::audit) struct Driver {
    /// Weak: calls own the hand-over.
    handover: Weak<Handover>,
    /// Calls in the order of their lines, which is the order in which they began to wait. The
    /// thread decides lines in this order, except after a short write that could not be synced: a
    /// call may then wait for the one before it, at most as long as that one waits.
    waiting: VecDeque<Waiting>,
    /// Number of calls at the front that have waited longer than one write may take.
    late: usize,
    /// One timer for all calls. It may fire early, but not late.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Driver {
    pub(super) fn new(handover: &Arc<Handover>) -> Self {
        Self { handover: Arc::downgrade(handover), waiting: VecDeque::new(), late: 0, timer: None }
    }

    fn wake_decided(&mut self) {
        while let Some(Waiting { waiter, .. }) = self.waiting.pop_front_if(|it| it.waiter.is_decided()) {
            self.late = self.late.saturating_sub(1);
            waiter.wake();
        }
    }

    /// Returns when the next call has waited for the duration of one write, or for its limit.
    fn due(&self) -> Option<Instant> {
        let over = self.waiting.front().filter(|_| self.late > 0).map(|it| it.since + RECORD_LIMIT);
        let late = self.waiting.get(self.late).map(|it| it.since + MAX_WRITE);
        [over, late].into_iter().flatten().min()
    }

    /// Runs the checks that are due, and sets the timer for the next ones.
    fn poll_timer(&mut self, handover: &Handover, context: &mut Context<'_>) {
        while let Some(due) = self.due() {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(context).is_pending() {
                // It may be set for a call that no longer waits. Resetting it for each call would
                // cost more than one spurious wake-up.
                return;
            }
            self.timer = None;
            self.check_limits(handover, clock::now());
        }
    }

    fn check_limits(&mut self, handover: &Handover, now: Instant) {
        let has_waited = |it: &Waiting, limit: Duration| now.saturating_duration_since(it.since) >= limit;
        let late = self.late;
        while self.waiting.get(self.late).is_some_and(|it| has_waited(it, MAX_WRITE)) {
            self.late += 1;
        }
        if self.late > late {
            // Reading this makes the sink unavailable if the write in progress takes too long. The
            // calls themselves keep waiting, because their requests were sent.
            let _ = handover.writer.availability().is_unavailable();
        }
        while let Some(Waiting { waiter, .. }) = self.waiting.pop_front_if(|it| has_waited(it, RECORD_LIMIT))
        {
            self.late = self.late.saturating_sub(1);
            if waiter.give_up() {
                // Published before the call continues, so that no new call starts.
                handover.writer.availability().distrust(&"an audit record was not written in time");
                handover.writer.wake();
            }
            waiter.wake();
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(handover) = this.handover.upgrade() else { return Poll::Ready(()) };
        // Registered before lines and fates are read: a later change wakes this task again.
        handover.signal.register(context.waker());
        {
            let mut turn = handover.turn();
            this.waiting.extend(turn.waiting.drain(..));
            handover.send_turn(&mut turn);
        }
        // Without the lock, because a waker may run arbitrary code.
        this.wake_decided();
        this.poll_timer(&handover, context);
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(handover) = self.handover.upgrade() {
            let mut turn = handover.turn();
            turn.is_driven = false;
            self.waiting.extend(turn.waiting.drain(..));
            handover.send_turn(&mut turn);
        }
        // Nothing else would wake these calls. In practice they end with the same runtime.
        for Waiting { waiter, .. } in self.waiting.drain(..) {
            waiter.give_up();
            waiter.wake();
        }
    }
}

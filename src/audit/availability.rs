//! Whether records can be written in time, as calls see it.
//!
//! The thread that writes publishes here when it began what it is doing. A call that reads
//! this notices a write that hangs, which the thread itself cannot report.

use std::{
    fmt::Display,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

use super::{AuditUnavailable, judge::MAX_WRITE};
use crate::{
    clock::{self, Instant},
    telemetry::metrics::Metrics,
};

/// A write that takes longer than this may turn out to hang: calls that have sent nothing
/// wait for its end.
const DOUBTFUL_AFTER: Duration = Duration::from_millis(250);

/// Value of [`Availability::busy_since`] while nothing is being written.
const IDLE: u64 = u64::MAX;

/// Whether the sink is available.
#[derive(Debug)]
pub(super) struct Availability {
    created: Instant,
    /// Microseconds from `created` to the beginning of the write in progress, or [`IDLE`].
    busy_since: AtomicU64,
    /// The write in progress has failed and is being repeated.
    retrying: AtomicBool,
    unavailable: AtomicBool,
    /// A call has marked the sink as unavailable, and the thread has not taken note yet.
    distrusted: AtomicBool,
    changes: watch::Sender<bool>,
    /// Wakes calls that wait for the end of a write.
    writes: watch::Sender<()>,
    closed: watch::Sender<bool>,
    metrics: Metrics,
}

/// The state of the sink at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Available,
    /// The write in progress may fail or hang. It is decided within this time.
    Doubtful(Duration),
    Unavailable,
}

impl Availability {
    pub(super) fn new(metrics: Metrics) -> Self {
        metrics.audit_sink_up(true);
        Self {
            created: clock::now(),
            busy_since: AtomicU64::new(IDLE),
            retrying: AtomicBool::new(false),
            unavailable: AtomicBool::new(false),
            distrusted: AtomicBool::new(false),
            changes: watch::Sender::new(false),
            writes: watch::Sender::new(()),
            closed: watch::Sender::new(false),
            metrics,
        }
    }

    /// Returns whether the sink is unavailable, or becomes so because the write in progress
    /// takes too long.
    pub(super) fn is_unavailable(&self) -> bool {
        self.state() == State::Unavailable
    }

    /// Waits until the record of a call that begins now can be expected to be written in
    /// time. Does not wait unless a write takes long or is being repeated, and no longer than
    /// such a write may take.
    pub(super) async fn expected(&self) -> Result<(), AuditUnavailable> {
        // Most calls end here, with one or two atomic loads.
        match self.state() {
            State::Available => Ok(()),
            State::Unavailable => Err(AuditUnavailable),
            // On the heap: the future of every call would have room for it otherwise.
            State::Doubtful(_) => Box::pin(self.settled()).await,
        }
    }

    /// Waits for the end of a write that is in doubt.
    async fn settled(&self) -> Result<(), AuditUnavailable> {
        let mut writes = self.writes.subscribe();
        loop {
            // Before the state is read: a write that ends afterwards is noticed.
            writes.mark_unchanged();
            match self.state() {
                State::Available => return Ok(()),
                State::Unavailable => return Err(AuditUnavailable),
                // An error is the end of the time, or of the audit: the state shows which.
                State::Doubtful(left) => drop(timeout(left, writes.changed()).await),
            }
        }
    }

    /// Returns a watch on [`is_unavailable`](Self::is_unavailable).
    pub(super) fn subscribe(&self) -> watch::Receiver<bool> {
        self.changes.subscribe()
    }

    /// Returns a watch on [`set_closed`](Self::set_closed).
    pub(super) fn subscribe_closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// Records that a write begins.
    pub(super) fn begin(&self, now: Instant) {
        let since = now.saturating_duration_since(self.created).as_micros();
        self.busy_since.store(u64::try_from(since).unwrap_or(IDLE - 1).min(IDLE - 1), Ordering::Release);
    }

    /// Records that the write in progress has failed and is repeated.
    pub(super) fn retry(&self) {
        self.retrying.store(true, Ordering::Release);
    }

    /// Records that the write that took this long has ended.
    pub(super) fn end(&self, took: Duration) {
        self.busy_since.store(IDLE, Ordering::Release);
        if self.retrying.swap(false, Ordering::AcqRel) || took >= DOUBTFUL_AFTER {
            self.writes.send_replace(());
        }
    }

    /// Marks the sink as unavailable for a call that waits for it. The thread that writes then
    /// has to see a good write first.
    pub(super) fn distrust(&self, why: &dyn Display) {
        self.distrusted.store(true, Ordering::Release);
        self.set_unavailable(why);
    }

    /// Returns whether a call has marked the sink as unavailable since the last time.
    pub(super) fn take_distrust(&self) -> bool {
        self.distrusted.load(Ordering::Acquire) && self.distrusted.swap(false, Ordering::AcqRel)
    }

    pub(super) fn set_unavailable(&self, why: &dyn Display) {
        if !self.unavailable.swap(true, Ordering::AcqRel) {
            tracing::error!(error = %why, "audit sink unavailable, refusing calls");
            self.metrics.audit_sink_up(false);
            self.changes.send_replace(true);
            self.writes.send_replace(());
        }
    }

    pub(super) fn set_available(&self) {
        if self.unavailable.swap(false, Ordering::AcqRel) {
            tracing::warn!("audit sink available again, accepting calls");
            self.metrics.audit_sink_up(true);
            self.changes.send_replace(false);
        }
    }

    /// Records that the sink is unavailable for good, so that the process has to end.
    pub(super) fn set_closed(&self, why: &dyn Display) {
        if !self.closed.send_replace(true) {
            tracing::error!(error = %why, "audit sink closed by its reader, stopping");
        }
        self.set_unavailable(why);
    }

    fn state(&self) -> State {
        if self.unavailable.load(Ordering::Acquire) {
            return State::Unavailable;
        }
        let since = self.busy_since.load(Ordering::Acquire);
        if since == IDLE {
            return State::Available;
        }
        let busy =
            clock::now().saturating_duration_since(self.created).saturating_sub(Duration::from_micros(since));
        let Some(left) = MAX_WRITE.checked_sub(busy).filter(|left| !left.is_zero()) else {
            self.distrust(&"writing audit records takes too long");
            return State::Unavailable;
        };
        if busy >= DOUBTFUL_AFTER || self.retrying.load(Ordering::Acquire) {
            State::Doubtful(left)
        } else {
            State::Available
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::advance;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn availability() -> Availability {
        Availability::new(Metrics::new())
    }

    #[tokio::test(start_paused = true)]
    async fn calls_wait_for_a_long_write_and_go_on_when_it_ends_in_time() {
        let sink = availability();
        assert_eq!(sink.expected().now_or_never(), Some(Ok(())), "nothing is being written");
        sink.begin(clock::now());
        assert_eq!(sink.expected().now_or_never(), Some(Ok(())), "it has just begun");
        advance(DOUBTFUL_AFTER).await;
        let mut waiting = Box::pin(sink.expected());
        assert_eq!(waiting.as_mut().now_or_never(), None);
        advance(900 * MS).await;
        assert_eq!(waiting.as_mut().now_or_never(), None);
        sink.end(DOUBTFUL_AFTER + 900 * MS);
        assert_eq!(waiting.await, Ok(()));
        assert!(!sink.is_unavailable());
    }

    #[tokio::test(start_paused = true)]
    async fn write_that_takes_too_long_makes_the_sink_unavailable_without_its_thread() {
        let sink = availability();
        let mut changes = sink.subscribe();
        sink.begin(clock::now());
        advance(DOUBTFUL_AFTER).await;
        let started = clock::now();
        assert_eq!(sink.expected().await, Err(AuditUnavailable), "decided by time alone");
        assert_eq!(started.elapsed() + DOUBTFUL_AFTER, MAX_WRITE);
        assert!(*changes.borrow_and_update());
        sink.end(MAX_WRITE);
        assert_eq!(sink.expected().now_or_never(), Some(Err(AuditUnavailable)), "until a write is good");
        sink.set_available();
        assert_eq!(sink.expected().now_or_never(), Some(Ok(())));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_wait_while_a_failed_write_is_repeated() {
        for outcome in [Ok(()), Err(AuditUnavailable)] {
            let sink = availability();
            sink.begin(clock::now());
            sink.retry();
            let mut waiting = Box::pin(sink.expected());
            assert_eq!(waiting.as_mut().now_or_never(), None);
            if outcome.is_err() {
                sink.set_unavailable(&"a broken disk");
            }
            sink.end(10 * MS);
            assert_eq!(waiting.await, outcome);
        }
    }
}

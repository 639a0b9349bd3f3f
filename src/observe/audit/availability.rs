//! Availability of the audit sink, as seen by calls.
//!
//! The writer thread publishes the start time of the write in progress, so that calls detect a hung
//! write, which the thread itself cannot report.

use std::{
    fmt::Display,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

use super::{AuditUnavailable, judge::MAX_WRITE};
use crate::{
    base::clock::{self, Instant},
    observe::telemetry::metrics::Metrics,
};

/// Duration after which a write may be hung: calls that have sent nothing wait for it to complete. If
/// it hangs, calls that were sent before cannot be recorded in time.
const DOUBTFUL_AFTER: Duration = Duration::from_millis(50);
/// Time for which a successful write proves that the sink is available, in microseconds. Afterwards,
/// the next call waits for another write before it sends anything.
const PROOF_MICROS: u64 = 10_000_000;

/// Value of [`Availability::busy_since`] while nothing is being written.
const IDLE: u64 = u64::MAX;
/// Value of [`Availability::proven_at`] before the first successful write.
const NEVER: u64 = u64::MAX;

/// Availability of the sink.
#[derive(Debug)]
pub(super) struct Availability {
    created: Instant,
    /// Start of the write in progress, in microseconds since `created`, or [`IDLE`].
    busy_since: AtomicU64,
    /// Start of the last write that proved that the sink is available, in microseconds since
    /// `created`, or [`NEVER`].
    proven_at: AtomicU64,
    /// The write in progress is in doubt from its start: it is the first to its file, or a repetition
    /// of a failed one.
    in_doubt: AtomicBool,
    /// A call waits for the write in progress to complete.
    awaited: AtomicBool,
    unavailable: AtomicBool,
    /// A call has marked the sink as unavailable, and the writer thread has not seen it yet.
    distrusted: AtomicBool,
    changes: watch::Sender<Standing>,
    /// Wakes calls that wait for a write to complete.
    writes: watch::Sender<()>,
    closed: watch::Sender<bool>,
    metrics: Metrics,
}

/// Availability according to the writes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The first write has not completed.
    Unproven,
    Available,
    Unavailable,
}

/// Current state of the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Available,
    /// Nothing is being written, and the last write was too long ago to prove anything.
    Stale,
    /// The write in progress may fail or hang. Resolved within this time.
    Doubtful(Duration),
    Unavailable,
}

impl Availability {
    /// Creates the state of a sink whose first write starts now.
    pub(super) fn new(metrics: Metrics) -> Self {
        metrics.audit_sink_up(false);
        Self {
            created: clock::now(),
            busy_since: AtomicU64::new(0),
            proven_at: AtomicU64::new(NEVER),
            in_doubt: AtomicBool::new(true),
            awaited: AtomicBool::new(false),
            unavailable: AtomicBool::new(false),
            distrusted: AtomicBool::new(false),
            changes: watch::Sender::new(Standing::Unproven),
            writes: watch::Sender::new(()),
            closed: watch::Sender::new(false),
            metrics,
        }
    }

    /// Returns whether the sink is unavailable. Marks it as unavailable if the write in progress takes
    /// too long.
    pub(super) fn is_unavailable(&self) -> bool {
        // Every call checks this several times, usually while nothing is being written, so that case
        // does not read the clock.
        if self.unavailable.load(Ordering::Acquire) {
            return true;
        }
        let since = self.busy_since.load(Ordering::SeqCst);
        since != IDLE && self.time_left(since, self.micros(clock::now())).is_none()
    }

    /// Waits until the record of a call that starts now can be expected to be written in time. Waits
    /// only if a write is in doubt or the last one was long ago, and at most [`MAX_WRITE`].
    /// `request_write` makes the thread write something.
    pub(super) async fn expected(&self, request_write: impl Fn()) -> Result<(), AuditUnavailable> {
        // The usual case: a few atomic loads.
        match self.state() {
            State::Available => Ok(()),
            State::Unavailable => Err(AuditUnavailable),
            // Boxed: otherwise the future of every call would reserve space for it.
            State::Stale | State::Doubtful(_) => Box::pin(self.settled(request_write)).await,
        }
    }

    /// Waits for a write in doubt to complete.
    async fn settled(&self, request_write: impl Fn()) -> Result<(), AuditUnavailable> {
        let mut writes = self.writes.subscribe();
        loop {
            // Both before reading the state, so that a write that completes afterwards is noticed.
            writes.mark_unchanged();
            self.awaited.store(true, Ordering::SeqCst);
            match self.state() {
                State::Available => return Ok(()),
                State::Unavailable => return Err(AuditUnavailable),
                State::Stale => {
                    if self.begin_requested() {
                        request_write();
                    }
                }
                // On a timeout or a closed channel, the next check of the state decides.
                State::Doubtful(left) => drop(timeout(left, writes.changed()).await),
            }
        }
    }

    /// Records the start of a write requested by a call. Returns false if another one is in progress.
    fn begin_requested(&self) -> bool {
        // Before the start: no other call may be sent until the write has completed.
        self.doubt();
        let now = self.micros(clock::now());
        self.busy_since.compare_exchange(IDLE, now, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Returns a watch on the availability.
    pub(super) fn subscribe(&self) -> watch::Receiver<Standing> {
        self.changes.subscribe()
    }

    /// Returns a watch on [`set_closed`](Self::set_closed).
    pub(super) fn subscribe_closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// Records the start of a write.
    pub(super) fn begin(&self, now: Instant) {
        self.busy_since.store(self.micros(now), Ordering::SeqCst);
    }

    /// Makes calls wait for the write in progress, or the next one, to complete, regardless of its
    /// duration.
    pub(super) fn doubt(&self) {
        self.in_doubt.store(true, Ordering::SeqCst);
    }

    /// Records that the write in progress has completed.
    pub(super) fn end(&self) {
        self.in_doubt.store(false, Ordering::SeqCst);
        self.busy_since.store(IDLE, Ordering::SeqCst);
        if self.awaited.swap(false, Ordering::SeqCst) {
            self.writes.send_replace(());
        }
    }

    /// Marks the sink as unavailable on behalf of a call. The writer thread then needs a successful
    /// write first.
    pub(super) fn distrust(&self, why: &dyn Display) {
        self.distrusted.store(true, Ordering::Release);
        self.set_unavailable(why);
    }

    /// Returns whether a call has marked the sink as unavailable since the last call of this function.
    pub(super) fn take_distrust(&self) -> bool {
        self.distrusted.load(Ordering::Acquire) && self.distrusted.swap(false, Ordering::AcqRel)
    }

    pub(super) fn set_unavailable(&self, why: &dyn Display) {
        if !self.unavailable.swap(true, Ordering::AcqRel) {
            tracing::error!(error = %why, "audit sink unavailable, refusing calls");
            self.metrics.audit_sink_up(false);
            self.changes.send_replace(Standing::Unavailable);
            self.writes.send_replace(());
        }
    }

    /// Records that a write that started at this time proved that the sink is available.
    pub(super) fn set_available(&self, began: Instant) {
        let is_first = self.proven_at.swap(self.micros(began), Ordering::AcqRel) == NEVER;
        let was_unavailable = self.unavailable.swap(false, Ordering::AcqRel);
        if was_unavailable {
            tracing::warn!("audit sink available again, accepting calls");
        }
        if is_first || was_unavailable {
            self.metrics.audit_sink_up(true);
            self.changes.send_replace(Standing::Available);
        }
    }

    /// Makes the last write too old to prove anything.
    #[cfg(test)]
    pub(super) fn forget_proof(&self) {
        self.proven_at.store(NEVER, Ordering::Release);
    }

    /// Records that the sink is permanently unavailable, so that the process has to stop.
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
        let since = self.busy_since.load(Ordering::SeqCst);
        let now = self.micros(clock::now());
        let proven_at = self.proven_at.load(Ordering::Acquire);
        let is_proven = proven_at != NEVER && now.saturating_sub(proven_at) < PROOF_MICROS;
        if since == IDLE {
            return if is_proven { State::Available } else { State::Stale };
        }
        let Some(left) = self.time_left(since, now) else { return State::Unavailable };
        // A write that proves nothing, because it is not synced, may be in progress while the last
        // proof is too old.
        if left <= MAX_WRITE.saturating_sub(DOUBTFUL_AFTER)
            || !is_proven
            || self.in_doubt.load(Ordering::SeqCst)
        {
            State::Doubtful(left)
        } else {
            State::Available
        }
    }

    /// Returns the time left for the write in progress. If there is none, marks the sink as
    /// unavailable.
    fn time_left(&self, since: u64, now: u64) -> Option<Duration> {
        let busy = Duration::from_micros(now.saturating_sub(since));
        let left = MAX_WRITE.checked_sub(busy).filter(|left| !left.is_zero());
        if left.is_none() {
            self.distrust(&"writing audit records takes too long");
        }
        left
    }

    /// Returns the microseconds since the creation, less than [`IDLE`] and [`NEVER`].
    fn micros(&self, at: Instant) -> u64 {
        let micros = at.saturating_duration_since(self.created).as_micros();
        u64::try_from(micros).unwrap_or(IDLE - 1).min(IDLE - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::FutureExt;
    use tokio::time::advance;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Returns a sink whose first write succeeded.
    fn availability() -> Availability {
        let sink = Availability::new(Metrics::new());
        sink.set_available(clock::now());
        sink.end();
        sink
    }

    /// Checks the sink for a call that does not request a write.
    async fn expected(sink: &Availability) -> Result<(), AuditUnavailable> {
        sink.expected(|| panic!("a write is requested")).await
    }

    #[tokio::test(start_paused = true)]
    async fn calls_wait_for_the_first_write() {
        let sink = Availability::new(Metrics::new());
        let mut changes = sink.subscribe();
        assert_eq!(*changes.borrow_and_update(), Standing::Unproven);
        let mut waiting = Box::pin(expected(&sink));
        assert_eq!(waiting.as_mut().now_or_never(), None);
        sink.begin(clock::now());
        assert_eq!(waiting.as_mut().now_or_never(), None);
        sink.set_available(clock::now());
        sink.end();
        assert_eq!(waiting.await, Ok(()));
        assert_eq!(*changes.borrow_and_update(), Standing::Available);
    }

    #[tokio::test(start_paused = true)]
    async fn first_write_that_takes_too_long_makes_the_sink_unavailable() {
        let sink = Availability::new(Metrics::new());
        let started = clock::now();
        assert_eq!(expected(&sink).await, Err(AuditUnavailable), "even if its thread never starts");
        assert_eq!(started.elapsed(), MAX_WRITE);
        assert_eq!(*sink.subscribe().borrow(), Standing::Unavailable);
    }

    #[tokio::test(start_paused = true)]
    async fn first_call_after_a_pause_requests_a_write_and_waits_for_it() {
        let sink = availability();
        advance(Duration::from_micros(PROOF_MICROS - 1)).await;
        assert_eq!(expected(&sink).now_or_never(), Some(Ok(())), "the last write was a moment ago");
        advance(MS).await;
        let requests = Cell::new(0);
        let call = || Box::pin(sink.expected(|| requests.set(requests.get() + 1)));
        let (mut first, mut second) = (call(), call());
        assert_eq!((first.as_mut().now_or_never(), second.as_mut().now_or_never()), (None, None));
        assert_eq!(requests.get(), 1, "one is enough for both");

        // The line of a refused call is written first. It is not synced, and proves nothing.
        sink.begin(clock::now());
        sink.end();
        assert_eq!((first.as_mut().now_or_never(), second.as_mut().now_or_never()), (None, None));
        assert_eq!(requests.get(), 2);
        sink.begin(clock::now());
        sink.set_available(clock::now());
        sink.end();
        assert_eq!((first.await, second.await), (Ok(()), Ok(())));
        assert_eq!(expected(&sink).now_or_never(), Some(Ok(())));
    }

    #[tokio::test(start_paused = true)]
    async fn requested_write_that_never_starts_makes_the_sink_unavailable() {
        let sink = availability();
        advance(Duration::from_micros(PROOF_MICROS)).await;
        let started = clock::now();
        assert_eq!(sink.expected(|| {}).await, Err(AuditUnavailable));
        assert_eq!(started.elapsed(), MAX_WRITE);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_wait_for_a_slow_write() {
        let sink = availability();
        assert_eq!(expected(&sink).now_or_never(), Some(Ok(())), "nothing is being written");
        sink.begin(clock::now());
        assert_eq!(expected(&sink).now_or_never(), Some(Ok(())), "it has just started");
        advance(DOUBTFUL_AFTER).await;
        let mut waiting = Box::pin(expected(&sink));
        assert_eq!(waiting.as_mut().now_or_never(), None);
        advance(900 * MS).await;
        assert_eq!(waiting.as_mut().now_or_never(), None);
        sink.end();
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
        assert_eq!(expected(&sink).await, Err(AuditUnavailable), "decided by time alone");
        assert_eq!(started.elapsed() + DOUBTFUL_AFTER, MAX_WRITE);
        assert_eq!(*changes.borrow_and_update(), Standing::Unavailable);
        sink.end();
        assert_eq!(expected(&sink).now_or_never(), Some(Err(AuditUnavailable)), "until a write succeeds");
        sink.set_available(clock::now());
        assert_eq!(expected(&sink).now_or_never(), Some(Ok(())));
    }

    #[tokio::test(start_paused = true)]
    async fn write_that_takes_too_long_is_noticed_by_calls_that_do_not_wait_for_it() {
        let sink = availability();
        sink.begin(clock::now());
        advance(MAX_WRITE.saturating_sub(MS)).await;
        assert!(!sink.is_unavailable());
        assert!(!sink.take_distrust());
        advance(MS).await;
        assert!(sink.is_unavailable());
        assert!(sink.take_distrust(), "a successful write has to follow");
        assert_eq!(*sink.subscribe().borrow(), Standing::Unavailable);
        sink.end();
        assert!(sink.is_unavailable(), "until a write succeeds");
        sink.set_available(clock::now());
        assert!(!sink.is_unavailable());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_wait_while_a_write_is_in_doubt() {
        for outcome in [Ok(()), Err(AuditUnavailable)] {
            let sink = availability();
            sink.begin(clock::now());
            sink.doubt();
            let mut waiting = Box::pin(expected(&sink));
            assert_eq!(waiting.as_mut().now_or_never(), None);
            if outcome.is_err() {
                sink.set_unavailable(&"a broken disk");
            }
            sink.end();
            assert_eq!(waiting.await, outcome);
        }
    }
}

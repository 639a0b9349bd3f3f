//! Work that outlives its caller.
//!
//! Dropping a request that may have reached the platform would leave a token or a session
//! without a record. When the caller disconnects, the work therefore moves to a task of its own,
//! and stops as soon as no platform request is in progress. Its audit record is always written.
//! Until then the work runs in the task of the call, which is cheaper.

use std::{
    future::{Future, pending, poll_fn},
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::FutureExt;

use crate::{
    domain::call::{Call, Certainty, Ending, InFlight},
    observe::{
        audit::Audit,
        telemetry::{metrics::Metrics, panics},
    },
    status::{Failure, Reason},
};

/// Runs the work of a call, and writes its audit record before returning the result. If the
/// returned future is dropped, the work finishes in a task of its own.
///
/// If the record cannot be written, `T` is dropped, and its `Drop` has to clean up. If the result
/// is not taken, the record is corrected.
///
/// Pass large futures as [`Begin`]: a future passed by value takes its size twice.
pub(super) fn run<T, W>(
    call: &Call,
    in_flight: Option<InFlight>,
    audit: Audit,
    metrics: Metrics,
    work: W,
) -> Detachable<T>
where
    T: Send + 'static,
    W: IntoFuture<Output = Result<T, Failure>, IntoFuture: Send> + Send + 'static,
{
    call.work_begins();
    let is_ours = call.claim_record();
    let recorded = record(call.clone(), in_flight, audit, metrics, is_ours, work);
    Detachable { call: call.clone(), work: Some(Box::pin(recorded)) }
}

/// Work that creates its future where it runs.
pub(super) struct Begin<F>(pub(super) F);

impl<F, W> IntoFuture for Begin<F>
where
    F: FnOnce() -> W,
    W: Future,
{
    type Output = W::Output;
    type IntoFuture = W;

    fn into_future(self) -> W {
        self.0()
    }
}

/// Runs the work and writes its record.
async fn record<T, W>(
    call: Call,
    in_flight: Option<InFlight>,
    audit: Audit,
    metrics: Metrics,
    is_ours: bool,
    work: W,
) -> Handover<T>
where
    W: IntoFuture<Output = Result<T, Failure>>,
{
    let result = tokio::select! {
        biased;
        // Checked first, because each poll of the work may send a request.
        () = unrecordable(&call, &audit) => Err(Failure::new(Reason::AuditUnavailable)),
        // A panic fails only this call, which still gets its record.
        result = AssertUnwindSafe(work.into_future()).catch_unwind() => result.unwrap_or_else(|_payload| {
            panics::call_panicked(&call, &metrics);
            Err(Failure::new(Reason::InternalError))
        }),
        // The caller is gone: nobody reads this result.
        () = is_obsolete(&call, in_flight.as_ref()) => Err(Failure::new(Reason::InternalError)),
    };
    let ending = ending(&call, result.as_ref().err());
    let recorded = if is_ours { audit.record(&call, ending).await } else { Ok(()) };
    match recorded {
        Ok(()) => {
            let recorded = Recorded { audit, call, ending, delivered: false };
            Handover { recorded: is_ours.then_some(recorded), result, in_flight }
        }
        // The audit writes the record later, marked as late.
        Err(_) if result.is_ok() => {
            Handover { recorded: None, result: Err(Failure::new(Reason::AuditUnavailable)), in_flight }
        }
        Err(_) => Handover { recorded: None, result, in_flight },
    }
}

/// Work in the task of its call. Dropping it unfinished abandons the call and moves the work to a
/// task of its own.
#[must_use = "the work runs only while this is polled"]
pub(super) struct Detachable<T: Send + 'static> {
    call: Call,
    /// `None` once it has completed.
    work: Option<Pin<Box<dyn Future<Output = Handover<T>> + Send>>>,
}

impl<T: Send + 'static> Future for Detachable<T> {
    type Output = Result<T, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Restored only while pending: work that panicked outside `catch_unwind` must not be polled
        // again.
        let Some(mut work) = self.work.take() else { return Poll::Pending };
        match work.as_mut().poll(context) {
            Poll::Ready(handover) => Poll::Ready(handover.take()),
            Poll::Pending => {
                self.work = Some(work);
                Poll::Pending
            }
        }
    }
}

impl<T: Send + 'static> Drop for Detachable<T> {
    fn drop(&mut self) {
        self.call.abandon();
        let Some(work) = self.work.take() else { return };
        // Without a runtime the process is stopping, and nothing can be sent or awaited.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Nobody takes the result; dropping it drops `T`.
            runtime.spawn(async move { drop(work.await) });
        }
    }
}

/// The result of a call whose record is written. Field order is drop order: a drain that waits for
/// `in_flight` also waits for the correction of the record.
struct Handover<T> {
    recorded: Option<Recorded>,
    result: Result<T, Failure>,
    in_flight: Option<InFlight>,
}

impl<T> Handover<T> {
    fn take(self) -> Result<T, Failure> {
        if let Some(mut recorded) = self.recorded {
            recorded.delivered = true;
        }
        drop(self.in_flight);
        self.result
    }
}

/// The written record of a call. Corrects the record when dropped undelivered: while or after the
/// record was written, the call may have failed otherwise (deadline, drain) or been cancelled.
struct Recorded {
    audit: Audit,
    call: Call,
    ending: Ending,
    delivered: bool,
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if self.delivered {
            return;
        }
        // The code that drops this may not have abandoned the call yet.
        self.call.abandon();
        let ending = ending(&self.call, None);
        // Equal if the call was abandoned before its record was started.
        if ending != self.ending {
            self.audit.correct_record(&self.call, ending);
        }
    }
}

/// Resolves when the caller is gone and no platform request is in progress, or when the
/// process is shutting down.
async fn is_obsolete(call: &Call, in_flight: Option<&InFlight>) {
    // Registers no waker: dropping the work abandons the call, and the task that takes over the
    // work polls it.
    poll_fn(|_| if call.is_abandoned() { Poll::Ready(()) } else { Poll::Pending }).await;
    // Boxed: otherwise the future of every call would reserve space for it.
    Box::pin(idle_or_given_up(call, in_flight)).await;
}

async fn idle_or_given_up(call: &Call, in_flight: Option<&InFlight>) {
    let given_up = async {
        match in_flight {
            Some(in_flight) => in_flight.given_up().await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = call.idle() => {}
        () = given_up => {}
    }
}

/// Resolves if records cannot be written and the call has neither a platform request in progress nor
/// its result: nothing more may be sent then. Registers no waker: it only has to be polled before
/// the work.
async fn unrecordable(call: &Call, audit: &Audit) {
    poll_fn(|_| {
        let may_withdraw = || call.is_idle() && call.certainty() != Certainty::Done;
        if audit.is_unavailable() && may_withdraw() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Returns the outcome of the call for its caller: the response, or a cancellation.
fn ending(call: &Call, failure: Option<&Failure>) -> Ending {
    match (call.failure(), failure) {
        (Some((code, reason)), _) => Ending::Failed(code, reason),
        (None, _) if call.is_abandoned() => Ending::Cancelled,
        (None, Some(failure)) => failure.ending(call),
        (None, None) => Ending::Succeeded,
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        base::clock::{self, WallClock},
        domain::call::{Deadline, Holder, InFlightLimit, Method},
        observe::audit::{
            Fingerprints,
            for_test::{fill, pipe, read_available},
        },
    };

    /// An audit log, and a call that is recorded in it.
    struct Fixture {
        folder: tempfile::TempDir,
        audit: Audit,
        metrics: Metrics,
        call: Call,
    }

    impl Fixture {
        fn new() -> Self {
            Self::with_sink(Path::new("audit.jsonl"))
        }

        /// `path` is relative to the folder, or absolute.
        fn with_sink(path: &Path) -> Self {
            Self::in_folder(tempfile::tempdir().expect("a temporary folder"), path)
        }

        /// Uses a full pipe as the sink, which blocks until it is read. Returns the pipe.
        async fn with_full_pipe() -> (Self, std::fs::File) {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = Path::new("audit.pipe");
            let mut pipe = pipe(&folder.path().join(path));
            let fixture = Self::in_folder(folder, path);
            // Make sure that the sink was available.
            fixture.audit.flush(Duration::from_secs(10)).await.expect("the sink works");
            read_available(&mut pipe);
            fill(&mut pipe);
            (fixture, pipe)
        }

        fn in_folder(folder: tempfile::TempDir, path: &Path) -> Self {
            let metrics = Metrics::new();
            let settings = crate::observe::audit::Settings {
                sink: crate::observe::audit::Sink::File(folder.path().join(path)),
                hmac_key: None,
                fsync: false,
            };
            let audit =
                Audit::start(&settings, None, 16, &Fingerprints::default(), &metrics, WallClock::system())
                    .expect("the sink opens");
            let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(10)));
            call.set_method(Method::LoginWithOtt);
            Self { folder, audit, metrics, call }
        }

        /// Returns code, reason and `late` of each record.
        async fn records(&self) -> Vec<String> {
            self.audit.flush(Duration::from_secs(10)).await.expect("the sink works");
            summaries(&std::fs::read_to_string(self.folder.path().join("audit.jsonl")).expect("a file"))
        }

        /// Like [`records`](Self::records), from a pipe.
        async fn records_in(&self, pipe: &mut std::fs::File) -> Vec<String> {
            let mut text = read_available(pipe);
            self.audit.flush(Duration::from_secs(10)).await.expect("the sink works");
            text.push_str(&read_available(pipe));
            summaries(&text)
        }
    }

    fn summaries(text: &str) -> Vec<String> {
        let summary = |line: &str| {
            let record: serde_json::Value = serde_json::from_str(line).expect("one JSON object");
            let [code, reason, late] =
                ["code", "reason", "late"].map(|name| record.get(name).map(ToString::to_string));
            format!("{code:?} {reason:?} {late:?}").replace(['"', '\\'], "")
        };
        text.lines().filter(|line| line.contains(r#""event":"call""#)).map(summary).collect()
    }

    /// A session that records when it is dropped.
    struct Session(std::sync::Arc<std::sync::atomic::AtomicBool>);

    impl Drop for Session {
        fn drop(&mut self) {
            self.0.store(true, std::sync::atomic::Ordering::Release);
        }
    }

    /// Drops a call whose record is written, before its handler is polled again. Returns the records.
    async fn records_of_untaken_result(settle: impl FnOnce(&Call)) -> Vec<String> {
        let (fixture, mut pipe) = Fixture::with_full_pipe().await;
        let limit = InFlightLimit::new(1);
        let in_flight = limit.admit(&Holder::default(), None).ok();
        let dropped = std::sync::Arc::default();
        let session = Session(std::sync::Arc::clone(&dropped));
        let call = fixture.call.clone();
        let work = {
            let call = call.clone();
            async move {
                call.attempt_ended(Certainty::Done);
                Ok(session)
            }
        };
        let audit = fixture.audit.clone();
        let mut handler = Box::pin(run(&call, in_flight, audit, fixture.metrics.clone(), work));
        assert!(handler.as_mut().now_or_never().is_none(), "the record cannot be written yet");
        let mut records = fixture.records_in(&mut pipe).await;
        settle(&call);
        drop(handler);
        limit.idle().await;
        assert!(dropped.load(std::sync::atomic::Ordering::Acquire), "the session is dropped");
        assert!(call.is_abandoned());
        records.extend(fixture.records_in(&mut pipe).await);
        records
    }

    #[tokio::test]
    async fn an_untaken_result_is_corrected_by_a_late_record() {
        assert_eq!(
            records_of_untaken_result(|_| {}).await,
            ["Some(OK) Some(null) None", "Some(CANCELLED) Some(cancelled) Some(true)"]
        );
        assert_eq!(
            records_of_untaken_result(|call| Failure::new(Reason::DeadlineExceeded).settle(call)).await,
            ["Some(OK) Some(null) None", "Some(DEADLINE_EXCEEDED) Some(DEADLINE_EXCEEDED) Some(true)"]
        );
    }

    #[tokio::test]
    async fn taken_results_and_abandoned_calls_have_one_record() {
        let fixture = Fixture::new();
        let Fixture { call, audit, metrics, .. } = &fixture;
        let work = async { Ok(()) };
        run(call, None, audit.clone(), metrics.clone(), work).await.expect("it succeeds");
        assert_eq!(fixture.records().await, ["Some(OK) Some(null) None"]);

        let fixture = Fixture::new();
        let Fixture { call, audit, metrics, .. } = &fixture;
        let limit = InFlightLimit::new(1);
        let work = {
            let call = call.clone();
            async move {
                call.sending();
                call.abandoned().await;
                call.attempt_ended(Certainty::Done);
                Ok(())
            }
        };
        let mut handler = Box::pin(run(
            call,
            limit.admit(&Holder::default(), None).ok(),
            audit.clone(),
            metrics.clone(),
            work,
        ));
        assert!(handler.as_mut().now_or_never().is_none());
        drop(handler);
        limit.idle().await;
        assert_eq!(fixture.records().await, ["Some(CANCELLED) Some(cancelled) None"]);
    }

    /// Such a call waits for an access token, or for its next attempt.
    #[tokio::test]
    async fn an_unsent_call_fails_when_its_record_cannot_be_written() {
        let fixture = Fixture::with_sink(Path::new("/dev/full"));
        let Fixture { call, audit, metrics, .. } = &fixture;
        let (sent, unsent) =
            (call.clone(), Call::new(clock::now(), Deadline::after(Duration::from_secs(10))));
        sent.set_method(Method::LoginWithOtt);
        let (answered, answer) = oneshot::channel::<()>();
        let work = {
            let sent = sent.clone();
            async move {
                sent.sending();
                // `answered` outlives this future: dropping it would resolve `answer`.
                let _ = answer.await;
                sent.attempt_ended(Certainty::Done);
                Ok(())
            }
        };
        let mut exchange = Box::pin(run(&sent, None, audit.clone(), metrics.clone(), work));
        assert!(exchange.as_mut().now_or_never().is_none());
        let backoff = async {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waiting = run::<(), _>(&unsent, None, audit.clone(), metrics.clone(), backoff);
        audit.correct_record(call, Ending::Cancelled);
        let withdrawn =
            tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("withdrawn in time");
        assert_eq!(withdrawn.expect_err("it was withdrawn").reason(), Reason::AuditUnavailable);
        assert_eq!(unsent.certainty(), Certainty::NotSent);
        // The request of the other call is in progress: its outcome is awaited.
        assert!(exchange.as_mut().now_or_never().is_none());
        answered.send(()).expect("still waiting");
        assert_eq!(exchange.await.expect_err("without a record").reason(), Reason::AuditUnavailable);
        assert_eq!(sent.certainty(), Certainty::Done);
    }

    #[tokio::test]
    async fn a_panic_has_one_response_one_record_and_one_count() {
        let fixture = Fixture::new();
        let Fixture { call, audit, metrics, .. } = &fixture;
        let work = {
            let call = call.clone();
            async move {
                call.sending();
                call.attempt_ended(Certainty::Done);
                assert!(call.is_abandoned(), "CANARY");
                Ok(())
            }
        };
        let failure = run(call, None, audit.clone(), metrics.clone(), work).await.expect_err("it panics");
        assert_eq!(failure.reason(), Reason::InternalError);
        let record = std::fs::read_to_string(fixture.folder.path().join("audit.jsonl")).expect("a record");
        assert_eq!(record.matches(r#""event":"call""#).count(), 1);
        assert!(record.contains("INTERNAL_ERROR") && record.contains("\"outcome\":\"done\""), "{record}");
        assert!(!record.contains("CANARY"));
        let shown = metrics.render();
        assert!(shown.contains("panics_total 1"), "{shown}");
    }
}

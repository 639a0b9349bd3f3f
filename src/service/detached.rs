//! Work that outlives its caller.
//!
//! Once a request may have reached the platform, giving up on it would leave a token
//! or a session that nobody has written down. So the work of a call runs in a task of
//! its own: when nobody waits any more it stops at the first moment at which nothing
//! is under way, and its audit record is written in any case.

use std::{
    future::{Future, pending},
    panic::AssertUnwindSafe,
};

use futures_util::FutureExt;
use tokio::sync::oneshot;
use tonic::Code;

use crate::{
    audit::{Audit, Ending},
    call::{Call, Certainty, InFlight, Operation},
    status::{Failure, Reason},
    telemetry::metrics::Metrics,
};

/// Does the work of a call in a task of its own and writes its audit record before
/// the answer is handed over.
///
/// Without a record there is no answer: `T` is dropped (and does what it must then).
pub(super) async fn run<T, W>(
    call: &Call,
    in_flight: Option<InFlight>,
    audit: Audit,
    metrics: Metrics,
    work: W,
) -> Result<T, Failure>
where
    T: Send + 'static,
    W: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let _abandoned_when_dropped = AbandonWhenDropped(call);
    let (answer, answered) = oneshot::channel();
    let owed = call.claim_record();
    let task_call = call.clone();
    tokio::spawn(async move {
        let result = tokio::select! {
            biased;
            // A panic is one call's failure, and that call still has its record.
            result = AssertUnwindSafe(work).catch_unwind() => result.unwrap_or_else(|_payload| {
                panicked(&task_call, &metrics);
                Err(Failure::new(Reason::InternalError))
            }),
            // Nobody reads this answer.
            () = moot(&task_call, in_flight.as_ref()) => Err(Failure::new(Reason::InternalError)),
        };
        let ending = ending(&task_call, result.as_ref().err());
        let recorded = if owed { audit.record(&task_call, ending).await } else { Ok(()) };
        let answer_now = match recorded {
            Err(_) if result.is_ok() => Err(Failure::audit_unavailable(&task_call)),
            _ => result,
        };
        // If nobody is there to take it, the answer ends here, and `T` with it.
        let _ = answer.send(answer_now);
        drop(in_flight);
    });
    // The task is gone without an answer only if it panicked.
    answered.await.unwrap_or_else(|_| Err(Failure::new(Reason::InternalError)))
}

/// Tells of a panic, without its text, which may quote anything.
fn panicked(call: &Call, metrics: &Metrics) {
    metrics.panic();
    tracing::error!(
        request.id = %call.request_id(),
        rpc.method = call.operation().map_or("unknown", Operation::name),
        "a call panicked; it was answered with INTERNAL_ERROR"
    );
}

/// Waits until going on is good for nothing: nobody waits, and nothing is under way at
/// the platform, or the process ends whatever is.
async fn moot(call: &Call, in_flight: Option<&InFlight>) {
    call.abandoned().await;
    let given_up = async {
        match in_flight {
            Some(in_flight) => in_flight.given_up().await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = call.at_rest() => {}
        () = given_up => {}
    }
}

/// How the call ended, from the caller's point of view: what it was answered, or that
/// it went away.
fn ending(call: &Call, failure: Option<&Failure>) -> Ending {
    if let Some((code, reason)) = call.answer() {
        return Ending { code, reason: Some(reason) };
    }
    match failure {
        _ if call.is_abandoned() => Ending {
            code: Code::Cancelled,
            reason: Some(match call.certainty() {
                Certainty::NotSent => "cancelled_before_send",
                Certainty::Refused | Certainty::Unknown | Certainty::Done => "cancelled",
            }),
        },
        Some(failure) => Ending { code: failure.code(call).into(), reason: Some(failure.reason().as_str()) },
        None => Ending { code: Code::Ok, reason: None },
    }
}

struct AbandonWhenDropped<'a>(&'a Call);

impl Drop for AbandonWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        call::Deadline,
        clock::{self, WallClock},
    };

    #[tokio::test]
    async fn a_panic_is_one_answer_one_record_and_one_count() {
        let folder = tempfile::tempdir().expect("a folder of the test's own");
        let file = folder.path().join("audit.jsonl");
        let metrics = Metrics::new();
        let settings = crate::audit::Settings {
            sink: crate::audit::Sink::File(file.clone()),
            hmac_key: None,
            fsync: false,
        };
        let audit = Audit::start(settings, &metrics, WallClock::system()).expect("the sink opens");
        let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(10)));
        call.set_operation(Operation::LoginWithOtt);
        let work = {
            let call = call.clone();
            async move {
                call.sending();
                call.attempt_ended(Certainty::Done);
                assert!(call.is_abandoned(), "CANARY");
                Ok(())
            }
        };
        let failure = run(&call, None, audit, metrics.clone(), work).await.expect_err("it panics");
        assert_eq!(failure.reason(), Reason::InternalError);
        let record = std::fs::read_to_string(file).expect("a record");
        assert_eq!(record.lines().count(), 1);
        assert!(record.contains("INTERNAL_ERROR") && record.contains("\"outcome\":\"done\""), "{record}");
        assert!(!record.contains("CANARY"));
        let shown = metrics.render();
        assert!(shown.contains("panics_total 1"), "{shown}");
    }
}

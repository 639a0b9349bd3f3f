//! The end of a call: ensures that only documented statuses are sent, and that every call has an
//! audit record.
//!
//! The ending of a call is decided once, and used by audit, metrics, trace and log. Calls that
//! reached their handler are recorded by the handler's side; only other calls are recorded here.

use futures_util::FutureExt;
use http::{HeaderValue, Response, StatusCode};
use tonic::{Code, Status};

use super::{call_log, refused_calls::RefusedCalls, response_body::ResponseBody};
use crate::{
    access::RefusedRehearsal,
    base::clock,
    domain::call::{BrokenBody, Call, Ending, RequestId},
    observe::{
        audit::{Audit, AuditUnavailable},
        telemetry::{
            metrics::Metrics,
            tracing::{CallEnd, CallSpan},
        },
    },
    status::{Failure, Reason},
};

/// Whether a call has an audit record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audited {
    /// The call is for the gateway's own service.
    Yes,
    /// The call is for another service.
    No,
}

/// The work at the end of one call, done even if the call is dropped.
#[derive(Debug)]
pub(super) struct Completion {
    call: Call,
    span: CallSpan,
    audited: Audited,
    audit: Audit,
    refused_calls: RefusedCalls,
    metrics: Metrics,
    /// Whether the call has its own record and log line although it is refused, once decided.
    has_own_record: Option<bool>,
    /// The ending of the call, once decided. A call that is dropped before was cancelled.
    ending: Option<Ending>,
    /// The rehearsal of a call that the rules refused before its message was read.
    rehearsal: Option<RefusedRehearsal>,
    finished: bool,
}

impl Completion {
    pub(super) fn of(
        call: Call,
        span: CallSpan,
        audited: Audited,
        audit: Audit,
        refused_calls: RefusedCalls,
        metrics: Metrics,
    ) -> Self {
        metrics.call_started(call.method().into());
        Self {
            call,
            span,
            audited,
            audit,
            refused_calls,
            metrics,
            has_own_record: None,
            ending: None,
            rehearsal: None,
            finished: false,
        }
    }

    /// Returns whether a refused call has its own audit record and log line. A call whose work has
    /// begun always has.
    pub(super) fn has_own_record(&mut self) -> bool {
        if self.call.has_work_begun() {
            return true;
        }
        *self.has_own_record.get_or_insert_with(|| self.refused_calls.has_own_record(&self.call))
    }

    /// Sets the ending of the call before the rest of its work. Nothing that the caller does from
    /// now on changes it.
    pub(super) fn decide(&mut self, ending: Ending) {
        self.ending = Some(ending);
    }

    /// Compares the call with the decision of the candidate rules once its message is decoded for
    /// its record.
    pub(super) fn rehearse(&mut self, rehearsal: RefusedRehearsal) {
        self.rehearsal = Some(rehearsal);
    }

    /// Writes the record of the call, and returns the response to send.
    pub(super) async fn finish(
        mut self,
        outcome: Result<Response<ResponseBody>, Failure>,
    ) -> Response<ResponseBody> {
        if self.ending.is_none()
            && let Some(why) = self.call.broken_body()
        {
            return self.finish_broken(why);
        }
        let outcome = outcome.and_then(|response| match undocumented(&response, &self.call) {
            Some(failure) => Err(failure),
            None => Ok(response),
        });
        let (mut response, mut ending) = match outcome {
            Ok(mut response) => {
                add_request_id(&mut response, &self.call);
                (response, ending_of_handler(&self.call))
            }
            Err(failure) => {
                let ending = failure.ending(&self.call);
                (answer(failure, &self.call), ending)
            }
        };
        self.ending = Some(ending);
        if let Err(AuditUnavailable) = self.record(ending).await {
            let failure = Failure::new(Reason::AuditUnavailable);
            ending = failure.ending(&self.call);
            response = answer(failure, &self.call);
        }
        if let Some(memory) = self.call.memory() {
            response.extensions_mut().insert(memory);
        }
        self.report(ending);
        self.finished = true;
        response
    }

    /// Returns whether a call with this ending is counted in a record of many refused calls.
    fn is_summarized(&mut self, ending: Ending) -> bool {
        ending != Ending::Succeeded && !self.has_own_record()
    }

    /// Ends a call whose request never arrived completely. The response is not sent, because the
    /// stream is closed.
    fn finish_broken(mut self, why: BrokenBody) -> Response<ResponseBody> {
        match why {
            BrokenBody::Cancelled => {
                // Dropped unfinished, as if the caller had disconnected later.
                drop(self);
                let mut response = Response::new(ResponseBody::default());
                response
                    .headers_mut()
                    .insert(Status::GRPC_STATUS, HeaderValue::from(i32::from(Code::Cancelled)));
                response
            }
            BrokenBody::Malformed => {
                let failure = Failure::malformed_body(why);
                self.ending = Some(failure.ending(&self.call));
                answer(failure, &self.call)
                // `self` is dropped here, which records the call without waiting: hyper drops the
                // call at the first wait.
            }
        }
    }

    /// Writes the record, unless it was claimed before.
    async fn record(&mut self, ending: Ending) -> Result<(), AuditUnavailable> {
        if self.is_summarized(ending) {
            if self.call.claim_record() {
                self.refused_calls.summarize(&self.call, ending);
            }
            return Ok(());
        }
        if self.audited == Audited::No || !self.call.claim_record() {
            return Ok(());
        }
        self.refused_calls.record(&self.call, ending);
        drop(self.rehearsal.take());
        let record = self.audit.record(&self.call, ending);
        if ending.reason() == Some(Reason::AuditUnavailable) {
            // Not awaited, because it is known to fail now. The audit writes the record once it
            // can.
            let _ = record.now_or_never();
            return Ok(());
        }
        record.await
    }

    /// Reports the ending in metrics, traces and the log.
    fn report(&mut self, ending: Ending) {
        let is_summarized = self.is_summarized(ending);
        let call = &self.call;
        let method = call.method().into();
        let took = clock::now().saturating_duration_since(call.arrived());
        self.metrics.call_handled(method, ending.code(), took);
        if let Some((caller, _)) = call.caller() {
            self.metrics.caller_call(caller, method, ending.code());
        }
        if let Some(reason) = ending.reason() {
            self.metrics.error(method, reason);
        }
        let api_client = call.api_client();
        self.span.finish(CallEnd {
            code: ending.code(),
            reason: ending.reason().map(Reason::as_str),
            cause: call.cause(),
            api_client: api_client.as_deref(),
            outcome: call.certainty(),
        });
        if !is_summarized {
            call_log::write(call, ending, took, &self.span);
        }
    }
}

impl Drop for Completion {
    /// Completes a call whose caller disconnected before it was answered.
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let ending = self.ending.unwrap_or(Ending::Cancelled);
        self.report(ending);
        if self.is_summarized(ending) {
            if self.call.claim_record() {
                self.refused_calls.summarize(&self.call, ending);
            }
            self.call.abandon();
            return;
        }
        let unrecorded = self.audited == Audited::Yes && self.call.claim_record();
        self.call.abandon();
        if !unrecorded {
            return;
        }
        self.refused_calls.record(&self.call, ending);
        drop(self.rehearsal.take());
        let (audit, call) = (self.audit.clone(), self.call.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // The audit itself reports records that cannot be written, and there is no caller
                // left to refuse.
                let _ = audit.record(&call, ending).await;
            });
        }
    }
}

/// Returns a failure as a gRPC response without a message.
pub(super) fn answer(failure: Failure, call: &Call) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::default());
    *response.headers_mut() = failure.into_headers(call);
    add_request_id(&mut response, call);
    response
}

fn add_request_id(response: &mut Response<ResponseBody>, call: &Call) {
    let mut id = call.request_id_header();
    // HPACK does not index sensitive fields. No other response has the same id, and each id would
    // displace headers from the table that are the same in all responses.
    id.set_sensitive(true);
    response.headers_mut().insert(RequestId::HEADER, id);
}

/// Returns the ending of a call that a handler has answered. The call contains its failure.
fn ending_of_handler(call: &Call) -> Ending {
    call.failure().map_or(Ending::Succeeded, |(code, reason)| Ending::Failed(code, reason))
}

/// Returns the documented failure for a status that the gRPC library created. Our own statuses are
/// documented, and the call contains their code and reason.
fn undocumented(response: &Response<ResponseBody>, call: &Call) -> Option<Failure> {
    if call.failure().is_some() {
        return None;
    }
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != Code::Ok => {
            Some(Failure::from_undocumented(status.code(), status.message()))
        }
        // The router answers unknown methods in plain HTTP.
        None if response.status() != StatusCode::OK => Some(Failure::new(Reason::MethodUnknown)),
        Some(_) | None => None,
    }
}

/// Replaces the router's response to an unknown method with the documented one, and keeps any other
/// response.
pub(super) fn with_documented_unknown_method(
    response: Response<ResponseBody>,
    call: &Call,
) -> Response<ResponseBody> {
    let unknown = |failure: &Failure| failure.reason() == Reason::MethodUnknown;
    match undocumented(&response, call).filter(unknown) {
        Some(failure) => answer(failure, call),
        None => response,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        base::clock::WallClock,
        domain::call::{Deadline, Method},
        observe::audit::{
            Fingerprints, Settings, Sink,
            for_test::{fill, pipe, read_available},
        },
        server::refused_calls::BucketSettings,
        service::RefusedRequests,
    };

    fn call() -> Call {
        let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(10)));
        call.set_method(Method::LoginWithOtt);
        call.work_begins();
        call
    }

    fn handled(metrics: &Metrics) -> Vec<String> {
        let text = metrics.render();
        let calls = text.lines().filter(|line| line.starts_with("grpc_server_handled_total"));
        let some = calls.filter(|line| !line.ends_with(" 0"));
        some.map(|line| line.split('"').nth(1).expect("a code").to_owned()).collect()
    }

    fn refused_calls(audit: &Audit, metrics: &Metrics) -> RefusedCalls {
        let settings = BucketSettings {
            interval: Duration::from_millis(10),
            burst: const { std::num::NonZeroU32::new(500).unwrap() },
        };
        let requests = RefusedRequests::default();
        RefusedCalls::new(settings, requests, audit.clone(), metrics.clone(), WallClock::system())
    }

    #[tokio::test]
    async fn call_dropped_while_its_record_is_written_ends_as_decided() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.pipe");
        let mut pipe = pipe(&path);
        let filled = fill(&mut pipe);
        let metrics = Metrics::new();
        let settings = Settings { sink: Sink::File(path), hmac_key: None, fsync: false };
        let audit =
            Audit::start(&settings, None, 16, &Fingerprints::default(), &metrics, WallClock::system())
                .unwrap();
        let refused = refused_calls(&audit, &metrics);
        let span = CallSpan::default();
        let completion = Completion::of(call(), span, Audited::Yes, audit.clone(), refused, metrics.clone());
        let mut finish = Box::pin(completion.finish(Err(Failure::new(Reason::CallerNotAllowed))));
        assert!(finish.as_mut().now_or_never().is_none(), "the record has not been written yet");
        drop(finish);
        assert_eq!(handled(&metrics), ["PermissionDenied"]);
        assert!(
            metrics
                .render()
                .contains(r#"ott_gateway_errors_total{method="LoginWithOtt",reason="CALLER_NOT_ALLOWED"} 1"#)
        );

        let mut text = read_available(&mut pipe).split_off(filled);
        audit.flush(Duration::from_secs(10)).await.unwrap();
        text.push_str(&read_available(&mut pipe));
        let mut records: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        records.retain(|record| record["event"] == "call");
        assert!(records.iter().all(|record| record["reason"] == "CALLER_NOT_ALLOWED"), "{text}");
        assert_eq!(records.last().unwrap()["late"], true, "the answer was not delivered");
    }

    #[tokio::test]
    async fn request_id_of_a_response_is_not_added_to_the_hpack_table() {
        let metrics = Metrics::new();
        for succeeds in [true, false] {
            let call = call();
            let refused = refused_calls(&Audit::off(), &metrics);
            let (span, audit) = (CallSpan::default(), Audit::off());
            let completion =
                Completion::of(call.clone(), span, Audited::Yes, audit, refused, metrics.clone());
            let outcome = if succeeds {
                Ok(Response::new(ResponseBody::default()))
            } else {
                Err(Failure::new(Reason::CallerNotAllowed))
            };
            let response = completion.finish(outcome).await;
            let id = &response.headers()[RequestId::HEADER];
            assert_eq!((id, id.is_sensitive()), (&call.request_id_header(), true));
        }
    }

    #[tokio::test]
    async fn failure_of_a_handler_is_read_from_its_call() {
        let metrics = Metrics::new();
        let call = call();
        let span = CallSpan::default();
        let refused = refused_calls(&Audit::off(), &metrics);
        let completion =
            Completion::of(call.clone(), span, Audited::Yes, Audit::off(), refused, metrics.clone());
        let response = Failure::new(Reason::OttRejected).into_status(&call).into_http();
        let response = completion.finish(Ok(response)).await;
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(!status.details().is_empty(), "the status of the handler is kept");
        assert_eq!(handled(&metrics), ["Unauthenticated"]);
    }
}

//! The end of a call: every answer is a documented one, and every call has its record.
//!
//! tonic answers what it cannot decode, or does not know, with bare statuses; they are
//! put right here. The outcome of a call that reached its handler is recorded by the
//! handler's side; here only the calls that did not come so far.

use futures_util::FutureExt;
use http::{HeaderValue, Response, StatusCode, header::HeaderName};
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt;

use super::call_log;
use crate::{
    audit::{Audit, AuditUnavailable, Ending},
    call::Call,
    clock,
    status::{Failure, Reason},
    telemetry::{
        metrics::Metrics,
        tracing::{CallEnd, CallSpan},
    },
};

/// The id of the call, in every answer.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The reason in the record of a call whose caller went away before anything was done.
const CANCELLED_BEFORE_SEND: &str = "cancelled_before_send";

/// Which calls have an audit record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audited {
    /// Those of the gateway's own service.
    Yes,
    /// All others.
    No,
}

/// What must happen at the end of one call, also if it is dropped before.
#[derive(Debug)]
pub(super) struct Completion {
    call: Call,
    span: CallSpan,
    audited: Audited,
    audit: Audit,
    metrics: Metrics,
    finished: bool,
}

impl Completion {
    pub(super) fn of(call: Call, span: CallSpan, audited: Audited, audit: Audit, metrics: Metrics) -> Self {
        metrics.call_started(call.operation().into());
        Self { call, span, audited, audit, metrics, finished: false }
    }

    /// The answer as it goes out.
    pub(super) async fn finish(mut self, outcome: Result<Response<Body>, Failure>) -> Response<Body> {
        let outcome = outcome.and_then(|response| match mend(&response) {
            Some(failure) => Err(failure),
            None => Ok(response),
        });
        let (mut response, mut reason) = match outcome {
            Ok(response) => {
                let reason = reason_told(&response);
                (response, reason)
            }
            Err(failure) => {
                let reason = failure.reason();
                (answer(failure, &self.call), Some(reason))
            }
        };
        if let Err(AuditUnavailable) = self.record(code(&response), reason).await {
            reason = Some(Reason::AuditUnavailable);
            response = answer(Failure::audit_unavailable(&self.call), &self.call);
        }
        tell_id(&mut response, &self.call);
        self.show(code(&response), reason);
        self.finished = true;
        response
    }

    /// Writes the record, unless somebody else has taken that over.
    async fn record(&self, code: Code, reason: Option<Reason>) -> Result<(), AuditUnavailable> {
        if self.audited == Audited::No || !self.call.claim_record() {
            return Ok(());
        }
        let record = self.audit.record(&self.call, Ending { code, reason: reason.map(Reason::as_str) });
        if reason == Some(Reason::AuditUnavailable) {
            // It is known that it cannot be written now: not worth a wait. The audit
            // writes it once it can.
            let _ = record.now_or_never();
            return Ok(());
        }
        record.await
    }

    /// Shows the end in metrics, traces and the log.
    fn show(&self, code: Code, reason: Option<Reason>) {
        let call = &self.call;
        let method = call.operation().into();
        let took = clock::now().saturating_duration_since(call.arrived());
        self.metrics.call_handled(method, code, took);
        if let Some((caller, _)) = call.caller() {
            self.metrics.caller_call(caller, method, code);
        }
        if let Some(reason) = reason {
            self.metrics.error(method, reason.as_str());
        }
        let api_client = call.api_client();
        self.span.finish(CallEnd {
            code,
            reason: reason.map(Reason::as_str),
            cause: call.cause(),
            api_client: api_client.as_deref(),
            outcome: call.certainty(),
        });
        call_log::write(call, code, reason, took, &self.span);
    }
}

impl Drop for Completion {
    /// The caller went away before it was answered.
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        self.show(Code::Cancelled, None);
        let unrecorded = self.audited == Audited::Yes && self.call.claim_record();
        self.call.abandon();
        if !unrecorded {
            return;
        }
        let (audit, call) = (self.audit.clone(), self.call.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let ending = Ending { code: Code::Cancelled, reason: Some(CANCELLED_BEFORE_SEND) };
                // Whether it could be written is the audit's own concern: there is
                // nobody left to tell.
                let _ = audit.record(&call, ending).await;
            });
        }
    }
}

/// A failure as a gRPC answer without a message.
pub(super) fn answer(failure: Failure, call: &Call) -> Response<Body> {
    let mut response = failure.into_status(call).into_http();
    tell_id(&mut response, call);
    response
}

fn tell_id(response: &mut Response<Body>, call: &Call) {
    if let Ok(id) = HeaderValue::from_str(call.request_id().as_str()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
}

/// The failure that an answer without details should have been.
fn mend(response: &Response<Body>) -> Option<Failure> {
    let Some(status) = Status::from_header_map(response.headers()) else {
        // Whatever the router answers in plain HTTP, there is no such method.
        return (response.status() != StatusCode::OK).then(|| Failure::new(Reason::MethodUnknown));
    };
    let undocumented = status.code() != Code::Ok && status.details().is_empty();
    undocumented.then(|| Failure::from_undocumented(status.code(), status.message()))
}

/// Whether a router, not a handler, answered: nothing is there by that path.
pub(super) fn knows_no_such_method(response: &Response<Body>) -> bool {
    mend(response).is_some_and(|failure| failure.reason() == Reason::MethodUnknown)
}

/// The reason that a handler's answer tells, if it is a failure.
fn reason_told(response: &Response<Body>) -> Option<Reason> {
    let told = response.extensions().get::<Status>()?.get_details_error_info()?.reason;
    Reason::ALL.iter().copied().find(|reason| reason.as_str() == told)
}

/// The code in the head of an answer; a head without one begins a good answer.
fn code(response: &Response<Body>) -> Code {
    response.headers().get(Status::GRPC_STATUS).map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

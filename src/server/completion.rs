//! The end of a call: every answer is a documented one, and every call has its record.
//!
//! tonic answers what it cannot decode, or does not know, with bare statuses; they are
//! put right here. The outcome of a call that reached its handler is recorded by the
//! handler's side; here only the calls that did not come so far.

use http::{HeaderValue, Response, StatusCode, header::HeaderName};
use tonic::{Code, Status, body::Body};

use crate::{
    audit::{Audit, AuditUnavailable, Ending},
    call::{Call, Operation},
    clock,
    status::{Failure, Reason},
    telemetry::metrics::Metrics,
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
    audited: Audited,
    audit: Audit,
    metrics: Metrics,
    finished: bool,
}

impl Completion {
    pub(super) fn of(call: Call, audited: Audited, audit: Audit, metrics: Metrics) -> Self {
        metrics.call_started(call.operation().into());
        Self { call, audited, audit, metrics, finished: false }
    }

    /// The answer as it goes out.
    pub(super) async fn finish(mut self, outcome: Result<Response<Body>, Failure>) -> Response<Body> {
        let outcome = outcome.and_then(|response| match mend(&response) {
            Some(failure) => Err(failure),
            None => Ok(response),
        });
        let mut reason = outcome.as_ref().err().map(Failure::reason);
        let mut response = outcome.unwrap_or_else(|failure| answer(failure, &self.call));
        if let Err(AuditUnavailable) = self.record(code(&response), reason.map(Reason::as_str)).await {
            response = answer(Failure::audit_unavailable(&self.call), &self.call);
            reason = Some(Reason::AuditUnavailable);
        }
        if let Ok(id) = HeaderValue::from_str(self.call.request_id().as_str()) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        self.finished = true;
        let code = code(&response);
        tracing::debug!(
            request.id = %self.call.request_id(),
            rpc.method = self.call.operation().map_or("unknown", Operation::name),
            rpc.code = ?code,
            reason = reason.map_or("", Reason::as_str),
            "a call was answered"
        );
        self.handled(code);
        if let Some(reason) = reason {
            self.metrics.error(self.call.operation().into(), reason.as_str());
        }
        response
    }

    /// Writes the record, unless somebody else has taken that over. In a task of its
    /// own: a caller that goes away now does not take its record along.
    async fn record(&self, code: Code, reason: Option<&'static str>) -> Result<(), AuditUnavailable> {
        if self.audited == Audited::No || !self.call.claim_record() {
            return Ok(());
        }
        let (audit, call) = (self.audit.clone(), self.call.clone());
        let written = tokio::spawn(async move { audit.record(&call, Ending { code, reason }).await });
        written.await.unwrap_or(Err(AuditUnavailable))
    }

    fn handled(&self, code: Code) {
        let method = self.call.operation().into();
        let took = clock::now().saturating_duration_since(self.call.arrived());
        self.metrics.call_handled(method, code, took);
        if let Some((caller, _)) = self.call.caller() {
            self.metrics.caller_call(caller, method, code);
        }
    }
}

impl Drop for Completion {
    /// The caller went away before it was answered.
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        self.handled(Code::Cancelled);
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
    failure.into_status(call).into_http()
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

/// The code in the head of an answer; a head without one begins a good answer.
fn code(response: &Response<Body>) -> Code {
    response.headers().get(Status::GRPC_STATUS).map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

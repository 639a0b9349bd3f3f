//! The one log line of a call that has ended.
//!
//! A failed call has one at the level of whoever must act (`docs/logging.md`), a good one
//! only at `debug`. No line names a user or shows a token; whom a call was about is in the
//! audit record of the same request id.

use std::time::Duration;

use tonic::Code;

use crate::{
    call::{Call, Operation},
    status::Reason,
    telemetry::{logging::CALL_TARGET, tracing::CallSpan},
};

/// Who has something to do about a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Concern {
    /// Nobody here: the caller is told what to do. Level `info`.
    Caller,
    /// Nobody, if it passes: the platform or this replica is in trouble. Level `warn`.
    Trouble,
    /// Whoever runs the gateway: it will not pass by itself. Level `error`.
    Operator,
}

impl Concern {
    const fn of(reason: Reason) -> Self {
        match reason {
            Reason::InvalidRequest
            | Reason::RequestTooLarge
            | Reason::MethodUnknown
            | Reason::ApiClientUnknown
            | Reason::CallerUnauthenticated
            | Reason::CallerNotAllowed
            | Reason::CallerQuotaExceeded
            | Reason::PlatformRejectedRequest
            | Reason::OttRejected
            | Reason::OttInUse
            | Reason::PlatformAccessDenied
            | Reason::UserNotFound
            | Reason::PlatformConflict
            | Reason::UserDisabled
            | Reason::TenantDisabled
            | Reason::TenantLocked
            | Reason::TenantNotFound
            | Reason::InvalidLogin
            | Reason::PlatformQuotaExceeded
            | Reason::PlatformPreconditionFailed => Self::Caller,
            Reason::Overloaded
            | Reason::Draining
            | Reason::AuditUnavailable
            | Reason::DeadlineExceeded
            | Reason::PlatformUnreachable
            | Reason::PlatformUnavailable
            | Reason::LoginOutcomeUnknown
            | Reason::PlatformRateLimited => Self::Trouble,
            Reason::PlatformCredentialRejected
            | Reason::PlatformBlocked
            | Reason::PlatformProtocolError
            | Reason::InternalError => Self::Operator,
        }
    }
}

/// Writes the line of a call that was answered with that code, so long after it arrived;
/// without a reason it succeeded, or its caller gave up.
pub(super) fn write(call: &Call, code: Code, reason: Option<Reason>, took: Duration, span: &CallSpan) {
    // The level of an event is fixed where it stands, so there is one for each.
    macro_rules! line {
        ($level:ident, $message:literal) => {
            tracing::$level!(
                target: CALL_TARGET,
                // First, because `tracing` cannot read a dotted name behind a target.
                reason = reason.map(Reason::as_str),
                cause = call.cause(),
                request.id = %call.request_id(),
                caller.name = call.caller().map(|(name, _)| &**name),
                rpc.method = call.operation().map_or("unknown", Operation::name),
                rpc.code = ?code,
                api_client.name = call.api_client().as_deref(),
                http.status = call.http_status(),
                outcome = call.certainty().as_str(),
                attempts = call.attempts(),
                duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                trace.id = span.trace_id(),
                $message
            )
        };
    }
    match reason.map(Concern::of) {
        None if code == Code::Cancelled => line!(info, "a caller gave up before its call was answered"),
        None => line!(debug, "a call succeeded"),
        Some(Concern::Caller) => line!(info, "a call failed"),
        Some(Concern::Trouble) => line!(warn, "a call failed"),
        Some(Concern::Operator) => line!(error, "a call failed"),
    }
}

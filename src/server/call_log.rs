//! The log line of a finished call.
//!
//! The level of a failed call depends on who has to act (`docs/logging.md`); a successful call is
//! logged at `debug`. No line contains a user or a token: the user is in the audit record with the
//! same request id.

use std::time::Duration;

use crate::{
    domain::call::{Call, Ending, Method},
    observe::telemetry::{logging::CALL_TARGET, tracing::CallSpan},
    status::{Reason, table::Concern},
};

/// Writes the line of a call that took `took`.
pub(super) fn write(call: &Call, ending: Ending, took: Duration, span: &CallSpan) {
    // `tracing` fixes the level of an event at compile time, so each level needs its own event.
    macro_rules! line {
        ($level:ident, $message:literal) => {
            tracing::$level!(
                target: CALL_TARGET,
                // First, because `tracing` cannot parse a dotted name after a target.
                reason = ending.reason().map(Reason::as_str),
                cause = call.cause(),
                request.id = %call.request_id(),
                caller.name = call.caller().map(|(name, _)| &**name),
                rpc.method = call.method().map_or("unknown", Method::name),
                rpc.code = ?ending.code(),
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
    match ending {
        Ending::Succeeded => line!(debug, "call succeeded"),
        Ending::Cancelled => line!(info, "call cancelled by caller"),
        Ending::Failed(_, reason) => match reason.entry().concern {
            Concern::Caller => line!(info, "call failed"),
            Concern::Trouble => line!(warn, "call failed"),
            Concern::Operator => line!(error, "call failed"),
        },
    }
}

//! Failures of calls that the gateway itself refuses: malformed requests, callers that it
//! cannot identify, calls that its rules do not allow, quotas that are used up.
//!
//! Which rule refused, and why a credential is not valid, goes to the log only.

use std::time::Duration;

use super::{Failure, FailureCode, Reason};
use crate::{
    access::{Denied, ExceededQuota, Refused},
    call::BrokenBody,
    caller::CallerError,
};

/// Retry delay while the issuer's keys are not available yet.
const KEYS_RETRY_AFTER: Duration = Duration::from_secs(2);

impl Failure {
    /// Creates the failure of a request whose body violates HTTP/2, so that it has no message.
    #[must_use]
    pub fn malformed_body(broken: BrokenBody) -> Self {
        Self::new(Reason::InvalidRequest).because(&broken)
    }

    /// Creates the failure of a call whose body is not exactly one gRPC message.
    #[must_use]
    pub fn not_one_message() -> Self {
        Self::new(Reason::InvalidRequest)
            .with_meaning("The body of the call is not exactly one complete gRPC message.")
    }

    /// Creates the failure of a request whose message is compressed, with the code that gRPC
    /// requires.
    #[must_use]
    pub fn unsupported_compression() -> Self {
        Self::new(Reason::InvalidRequest).with_code(FailureCode::Unimplemented)
    }

    /// Creates the failure of a request that is not gRPC over HTTP/2. `spoken` is what the port
    /// speaks instead.
    #[must_use]
    pub fn not_grpc(spoken: &'static str) -> Self {
        Self::new(Reason::InvalidRequest).with_meaning(spoken)
    }

    /// Creates the failure of a request whose message did not arrive within `limit`, although
    /// the deadline of the call has not passed.
    #[must_use]
    pub fn slow_body(limit: Duration) -> Self {
        let cause = format_args!("request body did not arrive within {limit:?}");
        Self::new(Reason::DeadlineExceeded)
            .with_meaning("The request's message did not arrive in time after its headers; nothing was sent.")
            .because(&cause)
    }

    /// Creates the failure of a call that exceeds a limit of this replica.
    #[must_use]
    pub fn overloaded(limit: &'static str) -> Self {
        Self::new(Reason::Overloaded).because(&format_args!("limit reached: {limit}"))
    }
}

impl From<CallerError> for Failure {
    /// UNAVAILABLE while the issuer's keys are missing: that is temporary, and another replica
    /// may have them. Any other problem is in the caller's credential.
    fn from(error: CallerError) -> Self {
        let failure = Self::new(Reason::CallerUnauthenticated).because(&error);
        if error.is_temporary() {
            failure
                .with_code(FailureCode::Unavailable)
                .with_meaning("The JWT issuer's keys are not available to this replica; retry with backoff.")
                .retry_after(KEYS_RETRY_AFTER)
        } else {
            failure
        }
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        Self::new(Reason::CallerNotAllowed).because(&denied)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotAllowed(denied) => denied.into(),
            Refused::QuotaExceeded { quota, retry_after } => {
                let cause = format_args!("the quota {quota} is used up");
                let subject = match quota {
                    ExceededQuota::Caller => "calls of this caller",
                    ExceededQuota::User => "calls of this caller for this user",
                };
                Self::new(Reason::CallerQuotaExceeded)
                    .because(&cause)
                    .retry_after(retry_after)
                    .quota(subject, "the rate that the gateway's access rules allow")
            }
        }
    }
}

//! What the gateway itself refuses: requests that arrive broken, callers that it cannot
//! identify, calls that its rules do not allow, quotas that are used up.
//!
//! Which rule refused, and how far a proof failed, is for the log. The caller is told no
//! more than that it was refused.

use std::time::Duration;

use super::{Failure, FailureCode, Reason};
use crate::{
    access::{Denied, ExceededQuota, Refused},
    call::BrokenBody,
    caller::CallerError,
};

/// When the issuer's keys may have been fetched.
const KEYS_RETRY_AFTER: Duration = Duration::from_secs(2);

impl Failure {
    /// The request's body violates HTTP/2, so there is no message to look at.
    #[must_use]
    pub fn malformed_body(broken: BrokenBody) -> Self {
        Self::new(Reason::InvalidRequest).because(&broken)
    }
}

impl From<CallerError> for Failure {
    /// A caller can mend what is wrong with its credential, but not that the gateway has
    /// no keys yet to look at it with: that passes, and another replica may have them.
    fn from(error: CallerError) -> Self {
        let failure = Self::new(Reason::CallerUnauthenticated).because(&error);
        if error.is_temporary() {
            failure.with_code(FailureCode::Unavailable).retry_after(KEYS_RETRY_AFTER)
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

//! What the gateway itself refuses: callers that it cannot identify, calls that its
//! rules do not allow, quotas that are used up.
//!
//! Which rule refused, and how far a proof failed, is for logs and records. The caller
//! is told no more than that.

use super::{Failure, Reason};
use crate::{
    access::{Denied, ExceededQuota, Refused},
    caller::CallerError,
};

impl From<CallerError> for Failure {
    fn from(_: CallerError) -> Self {
        Self::new(Reason::CallerUnauthenticated)
    }
}

impl From<Denied> for Failure {
    fn from(_: Denied) -> Self {
        Self::new(Reason::CallerNotAllowed)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotAllowed(denied) => denied.into(),
            Refused::QuotaExceeded { quota, retry_after } => {
                let subject = match quota {
                    ExceededQuota::Caller => "calls of this caller",
                    ExceededQuota::User => "calls of this caller for this user",
                };
                Self::new(Reason::CallerQuotaExceeded)
                    .retry_after(retry_after)
                    .quota(subject, "the rate that the gateway's access rules allow")
            }
        }
    }
}

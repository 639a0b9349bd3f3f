//! Maps every failure to exactly one gRPC status.
//!
//! The only place that builds a `tonic::Status`. Retries happen in `platform`, before a failure is
//! created.
//!
//! ```
//! use std::time::Duration;
//!
//! use ott_gateway::{
//!     base::clock,
//!     domain::call::{Call, Certainty, Deadline, Method},
//!     status::{Failure, Reason},
//! };
//! use tonic::Code;
//!
//! let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(10)));
//! call.set_method(Method::LoginWithOtt);
//! let unavailable = || Failure::new(Reason::PlatformUnavailable).retry_after(Duration::from_secs(1));
//! assert_eq!(unavailable().into_status(&call).code(), Code::Unavailable);
//!
//! // The token may be spent: no client may repeat the call by itself.
//! call.attempt_ended(Certainty::Unknown);
//! assert_eq!(unavailable().into_status(&call).code(), Code::Aborted);
//! ```

mod case;
mod details;
mod message;
mod platform;
mod refusal;
pub mod table;
mod undocumented;

use std::{fmt, sync::Arc, time::Duration};

use http::HeaderMap;

pub use self::case::{Advice, Case, Placeholder};
pub use crate::domain::reason::{FailureCode, Reason};
use crate::{
    domain::call::{Call, Certainty, Ending, Method},
    platform::error::{ErrorBody, ErrorResponse},
};

/// One failed call, before it becomes a status.
#[derive(Debug)]
pub struct Failure {
    case: Case,
    code: FailureCode,
    retry_after: Option<Duration>,
    violations: Vec<Violation>,
    http_status: Option<u16>,
    // Boxed, being rare: a result that may be a failure stays small.
    quota: Option<Box<QuotaExceeded>>,
    platform: Option<Box<ErrorBody>>,
    cause: Option<Box<str>>,
    /// `None` if the caller may know the call's API client.
    known_api_client: Option<Box<Option<Arc<str>>>>,
}

/// One field of the request that violates a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field's name in the contract.
    pub field: &'static str,
    /// The rule. Never contains the value.
    pub description: String,
}

/// The exceeded quota.
#[derive(Debug)]
struct QuotaExceeded {
    subject: String,
    description: String,
}

impl Failure {
    /// Creates a failure of the general case of a reason, with its usual code.
    #[must_use]
    pub fn new(reason: Reason) -> Self {
        Self::of(Case::general(reason))
    }

    /// Creates a failure with the usual code of the case's reason.
    #[must_use]
    pub fn of(case: Case) -> Self {
        Self {
            case,
            code: case.reason().code(),
            retry_after: None,
            violations: Vec::new(),
            http_status: None,
            quota: None,
            platform: None,
            cause: None,
            known_api_client: None,
        }
    }

    /// Creates the failure of a call that a drain interrupts: `DRAINING`, or
    /// `LOGIN_OUTCOME_UNKNOWN` for a login that may have been sent.
    #[must_use]
    pub fn draining(call: &Call) -> Self {
        Self::of(if may_be_spent(call) { Case::LoginCutOff } else { Case::Draining })
    }

    /// Sets the delay after which a retry can succeed (`RetryInfo`; at most an hour).
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Adds a field that violates a rule (`BadRequest`, and the message). The description is the rule,
    /// such as "must not be empty".
    #[must_use]
    pub fn violation(mut self, field: &'static str, description: impl Into<String>) -> Self {
        self.violations.push(Violation { field, description: description.into() });
        self
    }

    /// Sets the exceeded quota (`QuotaFailure`): its subject and its limit.
    #[must_use]
    pub fn quota(mut self, subject: impl Into<String>, description: impl Into<String>) -> Self {
        let exceeded = QuotaExceeded { subject: subject.into(), description: description.into() };
        self.quota = Some(Box::new(exceeded));
        self
    }

    /// Sets the cause for the log. The caller does not receive it.
    #[must_use]
    pub(crate) fn because(mut self, cause: &impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string().into());
        self
    }

    /// Sets the API client in the details, in place of the call's: the caller does not know that one,
    /// because it is in a sealed token.
    #[must_use]
    pub(crate) fn known_api_client(mut self, name: Option<Arc<str>>) -> Self {
        self.known_api_client = Some(Box::new(name));
        self
    }

    /// Returns the reason.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.case.reason()
    }

    /// Returns the case of the reason.
    #[must_use]
    pub const fn case(&self) -> Case {
        self.case
    }

    /// Returns the fields that violate a rule.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Returns the code of the status.
    ///
    /// Proxies retry UNAVAILABLE by themselves. If the token of a login may be spent, ABORTED replaces
    /// UNAVAILABLE, regardless of the reason.
    #[must_use]
    pub fn code(&self, call: &Call) -> FailureCode {
        if self.code == FailureCode::Unavailable && may_be_spent(call) {
            FailureCode::Aborted
        } else {
            self.code
        }
    }

    /// Returns the status, with `ErrorInfo`, `RequestInfo` and all other details that apply: at most
    /// 4 KiB on the wire.
    #[must_use]
    pub fn into_status(self, call: &Call) -> tonic::Status {
        self.settle(call);
        details::status(self, call)
    }

    /// Returns the same status as the headers of a response without a body.
    #[must_use]
    pub fn into_headers(self, call: &Call) -> HeaderMap {
        self.settle(call);
        details::headers(self, call)
    }

    /// Records the failure in the call, where log, metrics, trace and audit read code, reason and
    /// cause. Only the first failure takes effect.
    pub fn settle(&self, call: &Call) {
        call.set_failure(self.code(call), self.reason());
        if let Some(cause) = self.cause.clone() {
            call.set_cause(cause);
        }
    }

    /// Returns the outcome of a call with this failure.
    #[must_use]
    pub fn ending(&self, call: &Call) -> Ending {
        Ending::Failed(self.code(call), self.reason())
    }

    fn with_code(mut self, code: FailureCode) -> Self {
        self.code = code;
        self
    }

    fn with_http_status(mut self, status: u16) -> Self {
        self.http_status = Some(status);
        self
    }

    fn with_answer(mut self, answer: &ErrorResponse) -> Self {
        self.platform = answer.body.clone().map(Box::new);
        self.with_http_status(answer.status)
    }
}

/// Returns whether the call may have spent a token.
fn may_be_spent(call: &Call) -> bool {
    call.method() == Some(Method::LoginWithOtt)
        && matches!(call.certainty(), Certainty::Unknown | Certainty::Done)
}

#[cfg(test)]
mod tests;

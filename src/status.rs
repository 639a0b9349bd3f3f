//! Every failure, as exactly one gRPC status.
//!
//! The only place that builds a `tonic::Status`.

use std::time::Duration;

use crate::call::{Call, Certainty};

/// The catalogue of reasons (design section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// `INVALID_REQUEST`.
    InvalidRequest,
    /// `REQUEST_TOO_LARGE`.
    RequestTooLarge,
    /// `METHOD_UNKNOWN`.
    MethodUnknown,
    /// `API_CLIENT_UNKNOWN`.
    ApiClientUnknown,
    /// `CALLER_UNAUTHENTICATED`.
    CallerUnauthenticated,
    /// `CALLER_NOT_ALLOWED`.
    CallerNotAllowed,
    /// `CALLER_QUOTA_EXCEEDED`.
    CallerQuotaExceeded,
    /// `OVERLOADED`.
    Overloaded,
    /// `DRAINING`.
    Draining,
    /// `AUDIT_UNAVAILABLE`.
    AuditUnavailable,
    /// `DEADLINE_EXCEEDED`.
    DeadlineExceeded,
    /// `PLATFORM_UNREACHABLE`.
    PlatformUnreachable,
    /// `PLATFORM_UNAVAILABLE`.
    PlatformUnavailable,
    /// `LOGIN_OUTCOME_UNKNOWN`.
    LoginOutcomeUnknown,
    /// `PLATFORM_REJECTED_REQUEST`.
    PlatformRejectedRequest,
    /// `PLATFORM_CREDENTIAL_REJECTED`.
    PlatformCredentialRejected,
    /// `OTT_REJECTED`.
    OttRejected,
    /// `OTT_IN_USE`.
    OttInUse,
    /// `PLATFORM_ACCESS_DENIED`.
    PlatformAccessDenied,
    /// `PLATFORM_BLOCKED`.
    PlatformBlocked,
    /// `USER_NOT_FOUND`.
    UserNotFound,
    /// `PLATFORM_PROTOCOL_ERROR`.
    PlatformProtocolError,
    /// `PLATFORM_CONFLICT`.
    PlatformConflict,
    /// `PLATFORM_RATE_LIMITED`.
    PlatformRateLimited,
    /// `USER_DISABLED`.
    UserDisabled,
    /// `TENANT_DISABLED`.
    TenantDisabled,
    /// `TENANT_LOCKED`.
    TenantLocked,
    /// `TENANT_NOT_FOUND`.
    TenantNotFound,
    /// `INVALID_LOGIN`.
    InvalidLogin,
    /// `PLATFORM_QUOTA_EXCEEDED`.
    PlatformQuotaExceeded,
    /// `PLATFORM_PRECONDITION_FAILED`.
    PlatformPreconditionFailed,
    /// `INTERNAL_ERROR`.
    InternalError,
}

impl Reason {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::RequestTooLarge => "REQUEST_TOO_LARGE",
            Self::MethodUnknown => "METHOD_UNKNOWN",
            Self::ApiClientUnknown => "API_CLIENT_UNKNOWN",
            Self::CallerUnauthenticated => "CALLER_UNAUTHENTICATED",
            Self::CallerNotAllowed => "CALLER_NOT_ALLOWED",
            Self::CallerQuotaExceeded => "CALLER_QUOTA_EXCEEDED",
            Self::Overloaded => "OVERLOADED",
            Self::Draining => "DRAINING",
            Self::AuditUnavailable => "AUDIT_UNAVAILABLE",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::PlatformUnreachable => "PLATFORM_UNREACHABLE",
            Self::PlatformUnavailable => "PLATFORM_UNAVAILABLE",
            Self::LoginOutcomeUnknown => "LOGIN_OUTCOME_UNKNOWN",
            Self::PlatformRejectedRequest => "PLATFORM_REJECTED_REQUEST",
            Self::PlatformCredentialRejected => "PLATFORM_CREDENTIAL_REJECTED",
            Self::OttRejected => "OTT_REJECTED",
            Self::OttInUse => "OTT_IN_USE",
            Self::PlatformAccessDenied => "PLATFORM_ACCESS_DENIED",
            Self::PlatformBlocked => "PLATFORM_BLOCKED",
            Self::UserNotFound => "USER_NOT_FOUND",
            Self::PlatformProtocolError => "PLATFORM_PROTOCOL_ERROR",
            Self::PlatformConflict => "PLATFORM_CONFLICT",
            Self::PlatformRateLimited => "PLATFORM_RATE_LIMITED",
            Self::UserDisabled => "USER_DISABLED",
            Self::TenantDisabled => "TENANT_DISABLED",
            Self::TenantLocked => "TENANT_LOCKED",
            Self::TenantNotFound => "TENANT_NOT_FOUND",
            Self::InvalidLogin => "INVALID_LOGIN",
            Self::PlatformQuotaExceeded => "PLATFORM_QUOTA_EXCEEDED",
            Self::PlatformPreconditionFailed => "PLATFORM_PRECONDITION_FAILED",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }
}

/// One failed call, before it becomes a status.
#[derive(Debug)]
pub struct Failure {
    reason: Reason,
    outcome: Option<Certainty>,
    retry_after: Option<Duration>,
    violations: Vec<Violation>,
}

/// One field of the request that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field's name in the contract.
    pub field: &'static str,
    /// The rule, never the value.
    pub description: String,
}

impl Failure {
    /// A failure for that reason, with the reason's usual code.
    #[must_use]
    pub fn new(reason: Reason) -> Self {
        Self { reason, outcome: None, retry_after: None, violations: Vec::new() }
    }

    /// Says when a retry is worth it (`RetryInfo`).
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Says how sure we are of what the platform did.
    #[must_use]
    pub fn outcome(mut self, outcome: Certainty) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// Names a field that breaks a rule (`BadRequest`).
    #[must_use]
    pub fn violation(mut self, field: &'static str, description: impl Into<String>) -> Self {
        self.violations.push(Violation { field, description: description.into() });
        self
    }

    /// The reason.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// The status, with `ErrorInfo`, `RequestInfo` and everything else that applies.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that builds a status")]
    pub fn into_status(self, _call: &Call) -> tonic::Status {
        tonic::Status::internal(self.reason.as_str())
    }
}

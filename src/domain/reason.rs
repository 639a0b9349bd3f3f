//! Reasons of failed calls (the contract's `ErrorReason`) and their gRPC codes.
//!
//! All stages may use these names. [`status::table`](crate::status::table) describes each reason
//! and its remedy; [`status`](crate::status) assigns reasons to failures.
//!
//! ```
//! use ott_gateway::domain::reason::{FailureCode, Reason};
//!
//! let reason = Reason::ALL.iter().find(|reason| reason.as_str() == "OTT_REJECTED");
//! assert_eq!(reason, Some(&Reason::OttRejected));
//! assert_eq!(Reason::OttRejected.code(), FailureCode::Unauthenticated);
//! ```

mod code;

pub use code::FailureCode;

macro_rules! reasons {
    ($($variant:ident = $word:literal, $code:ident;)*) => {
        /// The catalogue of reasons (`docs/errors.md`): the contract's `ErrorReason`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = concat!("`", $word, "`.")] $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of the contract.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Returns the name on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            /// Returns the usual code. A few reasons have another code for a login, or if the
            /// platform's response is more specific: see
            /// [`Failure::code`](crate::status::Failure::code).
            #[must_use]
            pub const fn code(self) -> FailureCode {
                match self {
                    $(Self::$variant => FailureCode::$code,)*
                }
            }
        }
    };
}

reasons! {
    InvalidRequest = "INVALID_REQUEST", InvalidArgument;
    RequestTooLarge = "REQUEST_TOO_LARGE", ResourceExhausted;
    MethodUnknown = "METHOD_UNKNOWN", Unimplemented;
    ApiClientUnknown = "API_CLIENT_UNKNOWN", InvalidArgument;
    CallerUnauthenticated = "CALLER_UNAUTHENTICATED", Unauthenticated;
    CallerNotAllowed = "CALLER_NOT_ALLOWED", PermissionDenied;
    CallerQuotaExceeded = "CALLER_QUOTA_EXCEEDED", ResourceExhausted;
    Overloaded = "OVERLOADED", Unavailable;
    Draining = "DRAINING", Unavailable;
    AuditUnavailable = "AUDIT_UNAVAILABLE", Unavailable;
    DeadlineExceeded = "DEADLINE_EXCEEDED", DeadlineExceeded;
    PlatformUnreachable = "PLATFORM_UNREACHABLE", Unavailable;
    PlatformUnavailable = "PLATFORM_UNAVAILABLE", Unavailable;
    LoginOutcomeUnknown = "LOGIN_OUTCOME_UNKNOWN", Aborted;
    PlatformRejectedRequest = "PLATFORM_REJECTED_REQUEST", InvalidArgument;
    PlatformCredentialRejected = "PLATFORM_CREDENTIAL_REJECTED", Internal;
    OttRejected = "OTT_REJECTED", Unauthenticated;
    OttInUse = "OTT_IN_USE", Aborted;
    PlatformAccessDenied = "PLATFORM_ACCESS_DENIED", PermissionDenied;
    PlatformBlocked = "PLATFORM_BLOCKED", Unavailable;
    UserNotFound = "USER_NOT_FOUND", NotFound;
    PlatformProtocolError = "PLATFORM_PROTOCOL_ERROR", Internal;
    PlatformConflict = "PLATFORM_CONFLICT", Aborted;
    PlatformRateLimited = "PLATFORM_RATE_LIMITED", ResourceExhausted;
    UserDisabled = "USER_DISABLED", FailedPrecondition;
    TenantDisabled = "TENANT_DISABLED", FailedPrecondition;
    TenantLocked = "TENANT_LOCKED", FailedPrecondition;
    TenantNotFound = "TENANT_NOT_FOUND", NotFound;
    InvalidLogin = "INVALID_LOGIN", InvalidArgument;
    PlatformQuotaExceeded = "PLATFORM_QUOTA_EXCEEDED", ResourceExhausted;
    PlatformPreconditionFailed = "PLATFORM_PRECONDITION_FAILED", FailedPrecondition;
    InternalError = "INTERNAL_ERROR", Internal;
    AccountMismatch = "ACCOUNT_MISMATCH", Aborted;
    GatewayExhausted = "GATEWAY_EXHAUSTED", Unavailable;
    AccountNotAllowed = "ACCOUNT_NOT_ALLOWED", PermissionDenied;
}

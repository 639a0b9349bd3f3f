//! Table of the faults that produce each reason of the gateway (`docs/errors.md`), per method.
//!
//! Most are responses of the simulated platform that the gateway maps to the reason by itself. The
//! others concern the gateway or its caller, and the gateway injects them
//! (`crate::fault_injection`). A reason without an entry does not compile.

use axum::http::StatusCode;

use super::faults::Fault;
use crate::domain::reason::{FailureCode, Reason};

/// A method of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// `IssueOtt`, for `fault+KIND@sandbox`.
    Issue,
    /// `LoginWithOtt`, for a token of `login-fault+KIND@sandbox`.
    Login,
}

/// Fault that produces a reason, with its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The simulated platform fails this way.
    Platform(FailureCode, Fault),
    /// The gateway fails the call.
    Gateway(FailureCode),
}

use FailureCode::{
    Aborted, AlreadyExists, DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument, NotFound,
    PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable, Unimplemented,
};
use Origin::{Gateway, Platform};

impl Origin {
    pub(super) const fn code(self) -> FailureCode {
        match self {
            Platform(code, _) | Gateway(code) => code,
        }
    }
}

impl Method {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Issue => "IssueOtt",
            Self::Login => "LoginWithOtt",
        }
    }

    /// Returns the faults that produce a reason, the default first; empty if the method never returns
    /// it.
    pub(super) const fn origins(self, reason: Reason) -> &'static [Origin] {
        let (issue, login) = origins(reason);
        match self {
            Self::Issue => issue,
            Self::Login => login,
        }
    }
}

/// Returns an error object of the platform with this status and API code.
const fn answer(status: StatusCode, api_code: u32) -> Fault {
    Fault::Status(status, api_code)
}

/// Returns an error object whose API code is the status.
const fn plain(status: StatusCode) -> Fault {
    Fault::Status(status, status.as_u16() as u32)
}

const NONE: &[Origin] = &[];

/// Returns the faults for `IssueOtt` and for `LoginWithOtt`.
///
/// At login, the platform also answers 400, 401, 404 and 410 to an invalid token, so codes that are
/// not about the account need another status.
const fn origins(reason: Reason) -> (&'static [Origin], &'static [Origin]) {
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    const UNPROCESSABLE: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;
    const CONFLICT: StatusCode = StatusCode::CONFLICT;
    const FORBIDDEN: StatusCode = StatusCode::FORBIDDEN;
    match reason {
        Reason::InvalidRequest => both(const { &[Gateway(InvalidArgument), Gateway(Unimplemented)] }),
        Reason::RequestTooLarge | Reason::CallerQuotaExceeded => {
            both(const { &[Gateway(ResourceExhausted)] })
        }
        Reason::MethodUnknown => both(const { &[Gateway(Unimplemented)] }),
        Reason::ApiClientUnknown => both(const { &[Gateway(InvalidArgument)] }),
        Reason::CallerUnauthenticated => both(const { &[Gateway(Unauthenticated), Gateway(Unavailable)] }),
        Reason::CallerNotAllowed => both(const { &[Gateway(PermissionDenied)] }),
        Reason::Overloaded | Reason::Draining | Reason::PlatformUnreachable | Reason::GatewayExhausted => {
            both(const { &[Gateway(Unavailable)] })
        }
        Reason::AuditUnavailable => {
            (const { &[Gateway(Unavailable)] }, const { &[Gateway(Unavailable), Gateway(Aborted)] })
        }
        Reason::DeadlineExceeded => both(const { &[Gateway(DeadlineExceeded)] }),
        Reason::PlatformUnavailable => (
            const { &[Platform(Unavailable, plain(StatusCode::SERVICE_UNAVAILABLE))] },
            const { &[Gateway(Unavailable), Platform(Aborted, answer(CONFLICT, 1000))] },
        ),
        Reason::LoginOutcomeUnknown => {
            (NONE, const { &[Platform(Aborted, plain(StatusCode::SERVICE_UNAVAILABLE))] })
        }
        Reason::PlatformRejectedRequest => (const { &[Platform(InvalidArgument, plain(BAD))] }, NONE),
        Reason::PlatformCredentialRejected => (const { &[Gateway(Internal)] }, NONE),
        Reason::OttRejected => {
            (NONE, const { &[Platform(Unauthenticated, plain(StatusCode::UNAUTHORIZED))] })
        }
        Reason::OttInUse => (NONE, const { &[Gateway(Aborted)] }),
        Reason::PlatformAccessDenied => {
            both(const { &[Platform(PermissionDenied, answer(FORBIDDEN, 1002))] })
        }
        Reason::PlatformBlocked => (
            const { &[Platform(Unavailable, Fault::Blocked)] },
            const { &[Gateway(Unavailable), Platform(Aborted, Fault::Blocked)] },
        ),
        Reason::UserNotFound => (const { &[Platform(NotFound, plain(StatusCode::NOT_FOUND))] }, NONE),
        Reason::PlatformProtocolError => both(const { &[Platform(Internal, Fault::Malformed)] }),
        Reason::PlatformConflict => both(
            const { &[Platform(Aborted, plain(CONFLICT)), Platform(AlreadyExists, answer(CONFLICT, 1004))] },
        ),
        Reason::PlatformRateLimited => {
            both(const { &[Platform(ResourceExhausted, plain(StatusCode::TOO_MANY_REQUESTS))] })
        }
        Reason::UserDisabled => both(const { &[Platform(FailedPrecondition, answer(BAD, 1018))] }),
        Reason::TenantDisabled => both(const { &[Platform(FailedPrecondition, answer(BAD, 1003))] }),
        Reason::TenantLocked => both(const { &[Platform(FailedPrecondition, answer(BAD, 1012))] }),
        Reason::TenantNotFound => (
            const { &[Platform(NotFound, answer(StatusCode::NOT_FOUND, 1005))] },
            const { &[Platform(NotFound, answer(UNPROCESSABLE, 1005))] },
        ),
        Reason::InvalidLogin => (
            const { &[Platform(InvalidArgument, answer(BAD, 1033))] },
            const { &[Platform(InvalidArgument, answer(UNPROCESSABLE, 1033))] },
        ),
        Reason::PlatformQuotaExceeded => {
            both(const { &[Platform(ResourceExhausted, answer(UNPROCESSABLE, 1022))] })
        }
        Reason::PlatformPreconditionFailed => {
            both(const { &[Platform(FailedPrecondition, answer(UNPROCESSABLE, 1027))] })
        }
        Reason::InternalError => both(const { &[Gateway(Internal)] }),
        Reason::AccountMismatch => (NONE, const { &[Platform(Aborted, Fault::OtherAccount)] }),
        Reason::AccountNotAllowed => (NONE, const { &[Gateway(PermissionDenied)] }),
    }
}

const fn both(origins: &'static [Origin]) -> (&'static [Origin], &'static [Origin]) {
    (origins, origins)
}

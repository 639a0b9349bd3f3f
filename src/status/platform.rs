//! Maps failures of the platform to failures of the call (`docs/errors.md`).
//!
//! Only for final failures: retries happen in `platform`.

use std::time::Duration;

use super::{Case, Failure, FailureCode, Reason};
use crate::{
    base::backoff::jittered,
    credential::{CredentialError, CredentialErrorKind},
    domain::call::Method,
    platform::error::{ErrorResponse, PlatformError, PlatformErrorCode as Api},
};

/// Minimum retry delay if the platform requests none.
const MIN_RETRY_DELAY: Duration = Duration::from_secs(1);

impl Failure {
    /// Returns the failure of an operation because of `error`. The text of the error becomes the
    /// cause in the operator's log.
    #[must_use]
    pub fn from_platform(method: Method, error: &PlatformError) -> Self {
        let failure = match error {
            PlatformError::Unreachable(_) => Self::of(Case::PlatformUnreachable),
            PlatformError::CertificateInvalid(_) => Self::of(Case::PlatformCertificateInvalid),
            PlatformError::NameLookup(_) => Self::of(Case::PlatformNameUnresolved),
            PlatformError::Exhausted(_) => Self::of(Case::GatewayExhausted),
            PlatformError::Queued => Self::of(Case::NoFreeStream),
            PlatformError::MemoryInUse => Self::of(Case::NoFreeMemory),
            PlatformError::BreakerOpen { retry_after } => {
                Self::of(Case::BreakerOpen).retry_after(*retry_after)
            }
            PlatformError::Interrupted(_) => Self::of(match method {
                Method::IssueOtt => Case::ResponseInterrupted,
                Method::LoginWithOtt => Case::LoginInterrupted,
            }),
            PlatformError::Response(answer) => from_answer(method, answer),
            PlatformError::Malformed(_) => Self::of(Case::UnusableResponse),
            PlatformError::Credential(error) => from_credential(error),
            PlatformError::DeadlinePassed => Self::new(Reason::DeadlineExceeded),
        };
        failure.because(error)
    }
}

fn from_credential(error: &CredentialError) -> Failure {
    match error.kind() {
        // Only the operator can fix these two.
        CredentialErrorKind::Rejected => Failure::of(Case::CredentialRejected),
        CredentialErrorKind::SecretUnreadable => Failure::of(Case::CredentialUnreadable),
        CredentialErrorKind::Unreachable => Failure::of(Case::PlatformUnreachable),
        CredentialErrorKind::CertificateInvalid => Failure::of(Case::PlatformCertificateInvalid),
        CredentialErrorKind::Exhausted => Failure::of(Case::GatewayExhausted),
        CredentialErrorKind::Failing => waits(Case::NoAccessToken, error),
        CredentialErrorKind::NotAcceptedYet => waits(Case::AccessTokenNotAcceptedYet, error),
        CredentialErrorKind::RefreshLimited => waits(Case::AccessTokenRefused, error),
        CredentialErrorKind::Blocked => Failure::of(Case::TokenRequestBlocked),
        CredentialErrorKind::Protocol { status } => {
            Failure::of(Case::TokenEndpointProtocolError).with_http_status(status)
        }
        CredentialErrorKind::DeadlinePassed => Failure::new(Reason::DeadlineExceeded),
    }
}

fn waits(case: Case, error: &CredentialError) -> Failure {
    Failure::of(case).retry_after(error.retry_after().unwrap_or_default())
}

fn from_answer(method: Method, answer: &ErrorResponse) -> Failure {
    let code = answer.body.as_ref().and_then(|body| body.code);
    let (reason, grpc) = decide(method, answer.status, answer.body.is_some(), code);
    if reason == Reason::OttRejected {
        // Bare, so that unknown, used and expired tokens cannot be distinguished.
        return Failure::new(reason);
    }
    let failure = Failure::of(case_of(reason, code)).with_code(grpc).with_answer(answer);
    let wish = answer.retry_after.filter(|_| {
        matches!(reason, Reason::PlatformRateLimited | Reason::PlatformUnavailable | Reason::PlatformBlocked)
    });
    match wish {
        // Without jitter, all callers would retry at the same time.
        Some(wish) if wish < MIN_RETRY_DELAY => failure.retry_after(jittered(MIN_RETRY_DELAY, 1.0, 2.0)),
        Some(wish) => failure.retry_after(wish),
        None => failure,
    }
}

/// Returns the case for a reason and an API code.
const fn case_of(reason: Reason, code: Option<Api>) -> Case {
    match (reason, code) {
        // `from_credential` handles responses of the token endpoint.
        (Reason::PlatformCredentialRejected, _) => Case::AccessTokenRejected,
        (Reason::PlatformAccessDenied, Some(Api::AddressForbidden)) => Case::GatewayAddressForbidden,
        (Reason::PlatformAccessDenied, Some(Api::MachineRegistration)) => Case::PlatformOperationDenied,
        (Reason::PlatformConflict, Some(Api::VersionMismatch)) => Case::ConflictingChange,
        (
            Reason::PlatformConflict,
            Some(
                Api::TenantNameConflict
                | Api::SyncShareEmailConflict
                | Api::InfrastructureConflict
                | Api::GuestUserExists
                | Api::LocationConflict,
            ),
        ) => Case::ConflictingObject,
        (reason, _) => Case::general(reason),
    }
}

/// Maps a response other than 2xx.
fn decide(method: Method, status: u16, json: bool, code: Option<Api>) -> (Reason, FailureCode) {
    if (400..500).contains(&status)
        && let Some(code) = code
        && let Some(decided) = decided_by_code(method, status, code)
    {
        return decided;
    }
    let reason = decided_by_status(method, status, json);
    (reason, reason.code())
}

/// Maps the API code of a 4xx response; `None` if the HTTP status decides.
pub(super) fn decided_by_code(method: Method, status: u16, code: Api) -> Option<(Reason, FailureCode)> {
    // Proxies send these, so no code shows the outcome of a login.
    if method == Method::LoginWithOtt && matches!(status, 408 | 425 | 499) {
        return None;
    }
    // The platform answers an invalid token with these four. Only a code about the account shows that
    // the token was valid. Any other code could distinguish an unknown token from a used one.
    let about_the_token = method == Method::LoginWithOtt && matches!(status, 400 | 401 | 404 | 410);
    if about_the_token && !is_about_the_account(code) {
        return None;
    }
    let (reason, grpc) = from_code(code)?;
    // After "internal system error", the login may have happened.
    if method == Method::LoginWithOtt && reason == Reason::PlatformUnavailable {
        return Some((reason, FailureCode::Aborted));
    }
    Some((reason, grpc))
}

/// Returns whether a code is about the account, so that the token must have been valid.
const fn is_about_the_account(code: Api) -> bool {
    matches!(code, Api::AccessDenied | Api::ParentTenantDisabled | Api::TenantLocked | Api::UserDisabled)
}

/// Maps an API code; `None` if it is unknown.
pub(super) const fn from_code(code: Api) -> Option<(Reason, FailureCode)> {
    let reason = match code {
        Api::UserDisabled => Reason::UserDisabled,
        Api::ParentTenantDisabled => Reason::TenantDisabled,
        Api::TenantLocked => Reason::TenantLocked,
        Api::AccessDenied | Api::MachineRegistration | Api::AddressForbidden => Reason::PlatformAccessDenied,
        Api::TenantNotFound => Reason::TenantNotFound,
        Api::InvalidLogin => Reason::InvalidLogin,
        Api::TenantNameConflict
        | Api::SyncShareEmailConflict
        | Api::InfrastructureConflict
        | Api::GuestUserExists
        | Api::LocationConflict => return Some((Reason::PlatformConflict, FailureCode::AlreadyExists)),
        Api::VersionMismatch => Reason::PlatformConflict,
        Api::HardQuotaExceeded | Api::SyncShareQuotaExceeded => Reason::PlatformQuotaExceeded,
        Api::InternalSystemError | Api::BackupServiceUnavailable => Reason::PlatformUnavailable,
        Api::DeleteEnabledTenant
        | Api::MoveUnderChild
        | Api::MoveWithinCustomer
        | Api::RemoveStorageInUse
        | Api::DeprovisioningInProgress
        | Api::MoveUnderDisabledTenant
        | Api::MoveOfferingItemsUnavailable
        | Api::StorageHasChild
        | Api::DefaultStorage
        | Api::OfferingItemUnavailable
        | Api::OfferingItemDependency
        | Api::SmtpSettings
        | Api::CannotEnableService
        | Api::BusinessRules
        | Api::StorageDeprovisioning
        | Api::NoLockingTenant
        | Api::LegalDocumentUnpublished
        | Api::LegallyBlockedOfferingItems => Reason::PlatformPreconditionFailed,
        Api::Unknown(_) => return None,
    };
    Some((reason, reason.code()))
}

/// Maps an HTTP status. `json`: the body is the platform's error object, so that the platform and
/// not a proxy answered.
fn decided_by_status(method: Method, status: u16, json: bool) -> Reason {
    use Method::{IssueOtt, LoginWithOtt};
    match (status, json, method) {
        (408 | 425 | 499 | 500.., _, IssueOtt) => Reason::PlatformUnavailable,
        (300..=399 | 408 | 425 | 499 | 500.., _, LoginWithOtt) | (401 | 410 | 429, false, LoginWithOtt) => {
            Reason::LoginOutcomeUnknown
        }
        (400, true, IssueOtt) => Reason::PlatformRejectedRequest,
        (401, _, IssueOtt) => Reason::PlatformCredentialRejected,
        (404, true, IssueOtt) => Reason::UserNotFound,
        (400 | 401 | 404 | 410, true, LoginWithOtt) => Reason::OttRejected,
        (403, true, _) => Reason::PlatformAccessDenied,
        (403, false, _) => Reason::PlatformBlocked,
        (409, _, _) => Reason::PlatformConflict,
        (429, _, _) => Reason::PlatformRateLimited,
        _ => Reason::PlatformProtocolError,
    }
}

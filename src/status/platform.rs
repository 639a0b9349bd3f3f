//! What went wrong between us and the platform, as a failure of the call
//! (`docs/errors.md`).
//!
//! Nothing is retried here: this is the last word, after `platform` has given up.

use super::{Failure, FailureCode, Reason};
use crate::{
    call::{Certainty, Operation},
    credential::CredentialError,
    platform::error::{ErrorAnswer, ErrorKind, PlatformError, PlatformErrorCode as Api},
};

impl Failure {
    /// The failure that an operation ends in because of `error`.
    #[must_use]
    pub fn of_platform(operation: Operation, error: &PlatformError) -> Self {
        let failure = match &error.kind {
            ErrorKind::Unreachable | ErrorKind::CertificateInvalid => Self::new(Reason::PlatformUnreachable),
            ErrorKind::BreakerOpen { retry_after } => {
                Self::new(Reason::PlatformUnavailable).retry_after(*retry_after)
            }
            ErrorKind::Interrupted => unavailable(operation),
            ErrorKind::Answer(answer) => return of_answer(operation, answer, error.certainty),
            // The answer was complete, so the platform did what it was asked for.
            ErrorKind::Malformed(_) if operation == Operation::LoginWithOtt => {
                return Self::new(Reason::PlatformProtocolError).outcome(Certainty::Done);
            }
            ErrorKind::Malformed(_) => Self::new(Reason::PlatformProtocolError),
            ErrorKind::Credential(error) => of_credential(error),
            ErrorKind::DeadlinePassed => Self::new(Reason::DeadlineExceeded),
        };
        failure.outcome(error.certainty)
    }
}

/// The platform is failing: for a login, nobody knows what it did.
fn unavailable(operation: Operation) -> Failure {
    match operation {
        Operation::IssueOtt => Failure::new(Reason::PlatformUnavailable),
        Operation::LoginWithOtt => Failure::new(Reason::LoginOutcomeUnknown),
    }
}

fn of_credential(error: &CredentialError) -> Failure {
    match error {
        CredentialError::Rejected => Failure::new(Reason::PlatformCredentialRejected),
        CredentialError::Unreachable | CredentialError::CertificateInvalid => {
            Failure::new(Reason::PlatformUnreachable)
        }
        CredentialError::Failing { retry_after } => {
            Failure::new(Reason::PlatformUnavailable).retry_after(*retry_after)
        }
        CredentialError::Blocked => Failure::new(Reason::PlatformBlocked),
        CredentialError::Protocol { status } => {
            Failure::new(Reason::PlatformProtocolError).with_http_status(*status)
        }
        CredentialError::SecretUnreadable => Failure::new(Reason::InternalError),
        CredentialError::WaitingRoomFull => Failure::new(Reason::Overloaded),
        CredentialError::DeadlinePassed => Failure::new(Reason::DeadlineExceeded),
    }
}

fn of_answer(operation: Operation, answer: &ErrorAnswer, certainty: Certainty) -> Failure {
    let code = answer.body.as_ref().and_then(|body| body.code);
    let (reason, grpc) = decide(operation, answer.status, answer.body.is_some(), code);
    if reason == Reason::OttRejected {
        // Bare, so that unknown, used and expired tokens are told apart by nothing.
        return Failure::new(reason).outcome(Certainty::Refused);
    }
    let mut failure = Failure::new(reason).with_code(grpc).with_answer(answer);
    failure.retry_after = answer.retry_after.filter(|_| {
        matches!(reason, Reason::PlatformRateLimited | Reason::PlatformUnavailable | Reason::PlatformBlocked)
    });
    let is_login = operation == Operation::LoginWithOtt;
    failure.outcome(match reason {
        Reason::LoginOutcomeUnknown => certainty.and(Certainty::Unknown),
        // "Internal system error" says of a login no more than a 5xx does.
        Reason::PlatformUnavailable if is_login => certainty.and(Certainty::Unknown),
        _ => certainty,
    })
}

/// What an answer other than 2xx means.
fn decide(operation: Operation, status: u16, json: bool, code: Option<Api>) -> (Reason, FailureCode) {
    if (400..500).contains(&status)
        && let Some(code) = code
        && let Some(decided) = decided_by_code(operation, status, code)
    {
        return decided;
    }
    let reason = decided_by_status(operation, status, json);
    (reason, reason.code())
}

/// What the API code of a 4xx answer decides, if it does.
pub(super) fn decided_by_code(operation: Operation, status: u16, code: Api) -> Option<(Reason, FailureCode)> {
    // The platform answers with these four to a token that is not valid. Only a code
    // that tells of the account says that the token was; any other would tell an
    // unknown token from a used one.
    let about_the_token = operation == Operation::LoginWithOtt && matches!(status, 400 | 401 | 404 | 410);
    if about_the_token && !tells_of_the_account(code) {
        return None;
    }
    let (reason, grpc) = of_code(code)?;
    // A login that met "internal system error" may have happened.
    if operation == Operation::LoginWithOtt && reason == Reason::PlatformUnavailable {
        return Some((reason, FailureCode::Aborted));
    }
    Some((reason, grpc))
}

/// Whether a code tells of the account, so that the token must have been good.
const fn tells_of_the_account(code: Api) -> bool {
    matches!(code, Api::AccessDenied | Api::ParentTenantDisabled | Api::TenantLocked | Api::UserDisabled)
}

/// What each of the platform's codes means; none for an unknown one.
pub(super) const fn of_code(code: Api) -> Option<(Reason, FailureCode)> {
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

/// What the HTTP status decides. `json`: whether the body was the platform's error
/// object, so that it was the platform that spoke.
fn decided_by_status(operation: Operation, status: u16, json: bool) -> Reason {
    use Operation::{IssueOtt, LoginWithOtt};
    match (status, json, operation) {
        (500.., _, IssueOtt) => Reason::PlatformUnavailable,
        (500.., _, LoginWithOtt) => Reason::LoginOutcomeUnknown,
        (400, true, IssueOtt) => Reason::PlatformRejectedRequest,
        (401, _, IssueOtt) => Reason::PlatformCredentialRejected,
        (404, true, IssueOtt) => Reason::UserNotFound,
        (400 | 404, true, LoginWithOtt) | (401 | 410, _, LoginWithOtt) => Reason::OttRejected,
        (403, true, _) => Reason::PlatformAccessDenied,
        (403, false, _) => Reason::PlatformBlocked,
        (409, _, _) => Reason::PlatformConflict,
        (429, _, _) => Reason::PlatformRateLimited,
        _ => Reason::PlatformProtocolError,
    }
}

//! The error catalogue: meaning, action, codes and retry safety of every reason.
//!
//! Source of `docs/errors.md` and of the comments in the contract. Messages on the wire are those of
//! the cases ([`Case`]); a reason with several cases has a text here that covers all of them.

mod render;

#[cfg(test)]
pub(crate) use render::comment;
pub use render::render;

use super::{Case, FailureCode, Reason};
use crate::domain::call::Method;

/// The catalogue's entry for one reason.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Meaning of the reason, for all its cases: one sentence.
    pub meaning: &'static str,
    /// Action for the caller: one sentence.
    pub action: &'static str,
    /// Who has to act on it. Sets the level of the call's log line.
    pub concern: Concern,
    /// Codes and retries of `IssueOtt`; `None` if it never returns this reason.
    pub issue: Option<Answers>,
    /// Codes and retries of `LoginWithOtt`; `None` if it never returns this reason.
    pub login: Option<Answers>,
}

/// Who has to act on a failed call (`docs/logging.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// The caller; the response contains the action. Logged at `info`.
    Caller,
    /// No one, unless it persists: the platform or this replica is failing. Logged at `warn`.
    Trouble,
    /// The gateway's operator: it persists until fixed. Logged at `error`.
    Operator,
}

/// Codes and retry safety of a reason at one method.
#[derive(Clone, Copy, Debug)]
pub struct Answers {
    /// The codes.
    pub codes: &'static [FailureCode],
    /// Whether the same request may be sent again.
    pub retry: Retry,
}

/// Whether the same request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Safe and useful, with backoff.
    WithBackoff,
    /// Safe unless the token may be spent; the outcome decides.
    IfUnspent,
    /// Safe and useful with UNAVAILABLE, with backoff; with other codes it would fail again.
    IfUnavailable,
    /// Harmless, but would fail again.
    Useless,
    /// Would spend a token twice: it is or may be spent already.
    Never,
}

impl Retry {
    /// Returns whether to retry after this code while no token has been spent.
    #[must_use]
    pub const fn is_advised(self, code: FailureCode) -> bool {
        match self {
            Self::WithBackoff | Self::IfUnspent => true,
            Self::IfUnavailable => matches!(code, FailureCode::Unavailable),
            Self::Useless | Self::Never => false,
        }
    }
}

/// Meaning and action.
type Text = (&'static str, &'static str);

/// The text of a reason with one case.
const fn text(case: Case) -> Text {
    (case.meaning(), case.advice().text())
}

impl Entry {
    /// Returns the answers of a method. If the method is unknown, nothing was sent, and those of either
    /// method apply.
    #[must_use]
    pub fn answers(&self, method: Option<Method>) -> Option<Answers> {
        match method {
            Some(Method::IssueOtt) => self.issue,
            Some(Method::LoginWithOtt) => self.login,
            None => self.issue.or(self.login),
        }
    }

    const fn both(concern: Concern, (meaning, action): Text, answers: Answers) -> Self {
        Self { meaning, action, concern, issue: Some(answers), login: Some(answers) }
    }

    const fn each(concern: Concern, (meaning, action): Text, issue: Answers, login: Answers) -> Self {
        Self { meaning, action, concern, issue: Some(issue), login: Some(login) }
    }

    const fn issue(concern: Concern, (meaning, action): Text, answers: Answers) -> Self {
        Self { meaning, action, concern, issue: Some(answers), login: None }
    }

    const fn login(concern: Concern, (meaning, action): Text, answers: Answers) -> Self {
        Self { meaning, action, concern, issue: None, login: Some(answers) }
    }
}

const fn with_backoff(codes: &'static [FailureCode]) -> Answers {
    Answers { codes, retry: Retry::WithBackoff }
}

const fn if_unspent(codes: &'static [FailureCode]) -> Answers {
    Answers { codes, retry: Retry::IfUnspent }
}

const fn if_unavailable(codes: &'static [FailureCode]) -> Answers {
    Answers { codes, retry: Retry::IfUnavailable }
}

const fn useless(codes: &'static [FailureCode]) -> Answers {
    Answers { codes, retry: Retry::Useless }
}

const fn never(codes: &'static [FailureCode]) -> Answers {
    Answers { codes, retry: Retry::Never }
}

impl Reason {
    /// Returns the catalogue's entry for the reason.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "a table")]
    pub const fn entry(self) -> Entry {
        use Concern::{Caller, Operator, Trouble};
        use FailureCode::{
            Aborted, AlreadyExists, DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument,
            NotFound, PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable, Unimplemented,
        };
        match self {
            Self::InvalidRequest => Entry::both(
                Caller,
                (
                    "The request does not follow the contract, or is not a gRPC request that the gateway accepts.",
                    "Correct the request; the message and BadRequest contain each invalid field.",
                ),
                useless(&[InvalidArgument, Unimplemented]),
            ),
            Self::RequestTooLarge => {
                Entry::both(Caller, text(Case::RequestTooLarge), useless(&[ResourceExhausted]))
            }
            Self::MethodUnknown => Entry::both(Caller, text(Case::MethodUnknown), useless(&[Unimplemented])),
            Self::ApiClientUnknown => Entry::both(
                Caller,
                (
                    "The gateway's configuration has no API client with this name, or no default one.",
                    "Set api_client to the name of a configured API client.",
                ),
                useless(&[InvalidArgument]),
            ),
            Self::CallerUnauthenticated => Entry::both(
                Caller,
                (
                    "The gateway cannot identify the caller by its credential; with UNAVAILABLE, the JWT issuer's keys are not available yet.",
                    "Send one valid credential of a kind that the gateway accepts; after UNAVAILABLE, retry with backoff.",
                ),
                if_unavailable(&[Unauthenticated, Unavailable]),
            ),
            Self::CallerNotAllowed => Entry::both(
                Caller,
                (
                    "The gateway's access rules do not allow this call to this caller.",
                    "Ask the gateway's operator for a rule that allows it.",
                ),
                useless(&[PermissionDenied]),
            ),
            Self::CallerQuotaExceeded => Entry::both(
                Caller,
                (
                    "The caller has used up its quota, or its quota for this user.",
                    "Wait for the time in RetryInfo, then retry.",
                ),
                with_backoff(&[ResourceExhausted]),
            ),
            Self::Overloaded => Entry::both(
                Trouble,
                ("This replica is overloaded; the request was not sent.", "Retry with backoff."),
                with_backoff(&[Unavailable]),
            ),
            Self::Draining => Entry::both(Trouble, text(Case::Draining), with_backoff(&[Unavailable])),
            Self::AuditUnavailable => Entry::each(
                Trouble,
                (
                    "The gateway cannot write its audit record, so it returns no result.",
                    "Retry with backoff.",
                ),
                with_backoff(&[Unavailable]),
                if_unspent(&[Unavailable, Aborted]),
            ),
            Self::DeadlineExceeded => Entry::each(
                Trouble,
                (
                    "The deadline passed before the call was complete.",
                    "Retry, with a longer deadline if this repeats.",
                ),
                with_backoff(&[DeadlineExceeded]),
                if_unspent(&[DeadlineExceeded]),
            ),
            Self::PlatformUnreachable => Entry::both(
                Trouble,
                ("The platform cannot be reached, or its certificate is not valid.", "Retry with backoff."),
                with_backoff(&[Unavailable]),
            ),
            Self::PlatformUnavailable => Entry::each(
                Trouble,
                ("The platform is failing.", "Retry with backoff."),
                with_backoff(&[Unavailable]),
                if_unspent(&[Unavailable, Aborted]),
            ),
            Self::LoginOutcomeUnknown => Entry::login(
                Trouble,
                (
                    "It is unknown whether the login happened.",
                    "Issue a new token and log in with that; never send the same token again.",
                ),
                never(&[Aborted]),
            ),
            Self::PlatformRejectedRequest => Entry::issue(
                Caller,
                ("The platform refused the request as malformed.", "Check the user's login or id."),
                useless(&[InvalidArgument]),
            ),
            Self::PlatformCredentialRejected => Entry::issue(
                Operator,
                (
                    "The platform refuses the gateway's own credential, or the gateway cannot read it.",
                    "Contact the gateway's operator; the caller cannot fix this.",
                ),
                useless(&[Internal]),
            ),
            Self::OttRejected => Entry::login(Caller, text(Case::OttRejected), never(&[Unauthenticated])),
            Self::OttInUse => Entry::login(Caller, text(Case::OttInUse), never(&[Aborted])),
            Self::PlatformAccessDenied => Entry::both(
                Caller,
                (
                    "The platform denies the gateway access to this user or tenant.",
                    "Check that the user is below the API client's tenant and that support access is on.",
                ),
                useless(&[PermissionDenied]),
            ),
            Self::PlatformBlocked => Entry::each(
                Operator,
                (
                    "A firewall in front of the platform refused the request.",
                    "Retry with long backoff; contact the gateway's operator if this persists.",
                ),
                with_backoff(&[Unavailable]),
                if_unspent(&[Unavailable, Aborted]),
            ),
            Self::UserNotFound => Entry::issue(
                Caller,
                ("The platform has no such user.", "Check the user's login or id."),
                useless(&[NotFound]),
            ),
            Self::PlatformProtocolError => Entry::each(
                Operator,
                (
                    "The platform returned an undocumented response.",
                    "Contact the gateway's operator and quote the request id.",
                ),
                useless(&[Internal]),
                never(&[Internal]),
            ),
            Self::AccountMismatch => Entry::login(Operator, text(Case::AccountMismatch), never(&[Aborted])),
            Self::AccountNotAllowed => Entry::login(
                Caller,
                (
                    "The access rules do not allow the account of the token to this caller; its session was closed.",
                    "Ask the gateway's operator for a rule that allows it, then issue a new token.",
                ),
                never(&[PermissionDenied]),
            ),
            Self::PlatformConflict => Entry::both(
                Caller,
                (
                    "The platform reports a conflict with another object or change.",
                    "Check the user and the tenant before you try again.",
                ),
                useless(&[Aborted, AlreadyExists]),
            ),
            Self::PlatformRateLimited => {
                Entry::both(Trouble, text(Case::PlatformRateLimited), with_backoff(&[ResourceExhausted]))
            }
            Self::UserDisabled => {
                Entry::both(Caller, text(Case::UserDisabled), useless(&[FailedPrecondition]))
            }
            Self::TenantDisabled => {
                Entry::both(Caller, text(Case::TenantDisabled), useless(&[FailedPrecondition]))
            }
            Self::TenantLocked => {
                Entry::both(Caller, text(Case::TenantLocked), useless(&[FailedPrecondition]))
            }
            Self::TenantNotFound => Entry::both(Caller, text(Case::TenantNotFound), useless(&[NotFound])),
            Self::InvalidLogin => Entry::both(
                Caller,
                ("The platform does not accept the login name.", "Correct the login name."),
                useless(&[InvalidArgument]),
            ),
            Self::PlatformQuotaExceeded => {
                Entry::both(Caller, text(Case::PlatformQuotaExceeded), useless(&[ResourceExhausted]))
            }
            Self::PlatformPreconditionFailed => {
                Entry::both(Caller, text(Case::PlatformPreconditionFailed), useless(&[FailedPrecondition]))
            }
            Self::GatewayExhausted => {
                Entry::both(Trouble, text(Case::GatewayExhausted), with_backoff(&[Unavailable]))
            }
            Self::InternalError => {
                Entry::each(Operator, text(Case::InternalError), useless(&[Internal]), never(&[Internal]))
            }
        }
    }
}

//! The catalogue as data: for every reason what it means, what to do, with which
//! codes it comes and whether a retry is safe.
//!
//! The messages on the wire, `docs/errors.md` and the comments in the contract all
//! follow from here.

mod render;

#[cfg(test)]
pub(crate) use render::comment;
pub use render::render;

use super::{FailureCode, Reason};
use crate::call::Operation;

/// The catalogue's entry for one reason.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// What is the matter: one sentence.
    pub meaning: &'static str,
    /// What a caller does about it: one sentence.
    pub action: &'static str,
    /// Who has to act on it: the level of the call's log line.
    pub concern: Concern,
    /// How `IssueOtt` answers with it; none if it never does.
    pub issue: Option<Answers>,
    /// How `LoginWithOtt` answers with it; none if it never does.
    pub login: Option<Answers>,
}

/// Who has to act on a failed call (`docs/logging.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// The caller, whose response contains what to do. Logged at `info`.
    Caller,
    /// No one, unless it lasts: the platform or this replica is in trouble. Logged at
    /// `warn`.
    Trouble,
    /// The gateway's operator: it does not pass by itself. Logged at `error`.
    Operator,
}

/// How one operation answers with a reason.
#[derive(Clone, Copy, Debug)]
pub struct Answers {
    /// With which codes.
    pub codes: &'static [FailureCode],
    /// Whether the same request may be sent again.
    pub retry: Retry,
}

/// Whether the same request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It is safe and may help, with backoff.
    WithBackoff,
    /// It is safe unless the token may have been spent: decided by the outcome.
    IfUnspent,
    /// It is safe and may help, with backoff, where the code is UNAVAILABLE; it would
    /// fail again where it is another.
    IfUnavailable,
    /// It would do no harm, and fail again.
    Useless,
    /// It is wrong: the token is worth nothing any more, or may be.
    Never,
}

impl Retry {
    /// Whether to retry an answer with that code while no token has been spent.
    #[must_use]
    pub const fn is_advised(self, code: FailureCode) -> bool {
        match self {
            Self::WithBackoff | Self::IfUnspent => true,
            Self::IfUnavailable => matches!(code, FailureCode::Unavailable),
            Self::Useless | Self::Never => false,
        }
    }
}

impl Entry {
    /// How that operation answers; where it is not known yet, nothing was sent, and
    /// either way of answering will do.
    #[must_use]
    pub fn answers(&self, operation: Option<Operation>) -> Option<Answers> {
        match operation {
            Some(Operation::IssueOtt) => self.issue,
            Some(Operation::LoginWithOtt) => self.login,
            None => self.issue.or(self.login),
        }
    }

    const fn both(concern: Concern, meaning: &'static str, action: &'static str, answers: Answers) -> Self {
        Self { meaning, action, concern, issue: Some(answers), login: Some(answers) }
    }

    const fn each(
        concern: Concern,
        meaning: &'static str,
        action: &'static str,
        issue: Answers,
        login: Answers,
    ) -> Self {
        Self { meaning, action, concern, issue: Some(issue), login: Some(login) }
    }

    const fn issue(concern: Concern, meaning: &'static str, action: &'static str, answers: Answers) -> Self {
        Self { meaning, action, concern, issue: Some(answers), login: None }
    }

    const fn login(concern: Concern, meaning: &'static str, action: &'static str, answers: Answers) -> Self {
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
    #[expect(clippy::too_many_lines, reason = "a table, one entry after the other")]
    pub const fn entry(self) -> Entry {
        use Concern::{Caller, Operator, Trouble};
        use FailureCode::{
            Aborted, AlreadyExists, DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument,
            NotFound, PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable, Unimplemented,
        };
        match self {
            Self::InvalidRequest => Entry::both(
                Caller,
                "The request breaks a rule of the contract, cannot be decoded, or is compressed.",
                "Correct the request. BadRequest names the fields that are not valid.",
                useless(&[InvalidArgument, Unimplemented]),
            ),
            Self::RequestTooLarge => Entry::both(
                Caller,
                "The request is longer than the gateway accepts (16 KiB).",
                "Send a shorter one.",
                useless(&[ResourceExhausted]),
            ),
            Self::MethodUnknown => Entry::both(
                Caller,
                "The gateway has no such method.",
                "Call a method of ott.v1.OttService.",
                useless(&[Unimplemented]),
            ),
            Self::ApiClientUnknown => Entry::both(
                Caller,
                "The gateway's configuration has no API client of that name.",
                "Name a configured one, or leave api_client empty for the default one.",
                useless(&[InvalidArgument]),
            ),
            Self::CallerUnauthenticated => Entry::both(
                Caller,
                "The caller's credential is missing or not valid; UNAVAILABLE: the JWT issuer's keys are missing.",
                "Show a valid credential, once, of a kind that the gateway is configured for.",
                if_unavailable(&[Unauthenticated, Unavailable]),
            ),
            Self::CallerNotAllowed => Entry::both(
                Caller,
                "The gateway's access rules do not allow this call to this caller.",
                "Ask the gateway's operator for a rule that allows it.",
                useless(&[PermissionDenied]),
            ),
            Self::CallerQuotaExceeded => Entry::both(
                Caller,
                "The caller has used up its quota.",
                "Wait for the time in RetryInfo, then retry.",
                with_backoff(&[ResourceExhausted]),
            ),
            Self::Overloaded => Entry::both(
                Trouble,
                "This replica is overloaded; the request was not sent.",
                "Retry with backoff.",
                with_backoff(&[Unavailable]),
            ),
            Self::Draining => Entry::both(
                Trouble,
                "This replica is shutting down, and has not spent the token of a login.",
                "Retry; another replica will answer.",
                with_backoff(&[Unavailable]),
            ),
            Self::AuditUnavailable => Entry::each(
                Trouble,
                "The gateway cannot write its audit record, so it hands out nothing.",
                "Retry with backoff.",
                with_backoff(&[Unavailable]),
                if_unspent(&[Unavailable, Aborted]),
            ),
            Self::DeadlineExceeded => Entry::each(
                Trouble,
                "The deadline passed before there was an answer.",
                "Retry, with a longer deadline if this repeats.",
                with_backoff(&[DeadlineExceeded]),
                if_unspent(&[DeadlineExceeded]),
            ),
            Self::PlatformUnreachable => Entry::both(
                Trouble,
                "The platform cannot be reached, or its certificate is not valid.",
                "Retry with backoff.",
                with_backoff(&[Unavailable]),
            ),
            Self::PlatformUnavailable => Entry::each(
                Trouble,
                "The platform is failing.",
                "Retry with backoff.",
                with_backoff(&[Unavailable]),
                if_unspent(&[Unavailable, Aborted]),
            ),
            Self::LoginOutcomeUnknown => Entry::login(
                Trouble,
                "The login may or may not have happened.",
                "Issue a new token and log in with that; never send the same token again.",
                never(&[Aborted]),
            ),
            Self::PlatformRejectedRequest => Entry::issue(
                Caller,
                "The platform refused the request as malformed.",
                "Check the user's login or id.",
                useless(&[InvalidArgument]),
            ),
            Self::PlatformCredentialRejected => Entry::issue(
                Operator,
                "The platform refuses the gateway's own credential, or the gateway cannot read it.",
                "Contact the gateway's operator; the caller cannot fix this.",
                useless(&[Internal]),
            ),
            Self::OttRejected => Entry::login(
                Caller,
                "The one-time token is not valid: unknown, used or expired.",
                "Issue a new token and log in with that.",
                never(&[Unauthenticated]),
            ),
            Self::OttInUse => Entry::login(
                Caller,
                "The same one-time token is being spent by another call.",
                "Await that call, or issue a new token and log in with that.",
                never(&[Aborted]),
            ),
            Self::PlatformAccessDenied => Entry::both(
                Caller,
                "The platform denies the gateway access to this user or tenant.",
                "Check that the user is below the API client's tenant and that support access is on.",
                useless(&[PermissionDenied]),
            ),
            Self::PlatformBlocked => Entry::each(
                Operator,
                "A firewall in front of the platform refused the request.",
                "Retry later, with long backoff; contact the gateway's operator if it persists.",
                with_backoff(&[Unavailable]),
                if_unspent(&[Unavailable, Aborted]),
            ),
            Self::UserNotFound => Entry::issue(
                Caller,
                "The platform has no such user.",
                "Check the user's login or id.",
                useless(&[NotFound]),
            ),
            Self::PlatformProtocolError => Entry::each(
                Operator,
                "The platform returned an undocumented response.",
                "Contact the gateway's operator and quote the request id.",
                useless(&[Internal]),
                never(&[Internal]),
            ),
            Self::AccountMismatch => Entry::login(
                Operator,
                "The platform's response was for another user and was discarded.",
                "Issue a new token and log in with that; contact the gateway's operator if it persists.",
                never(&[Aborted]),
            ),
            Self::AccountNotAllowed => Entry::login(
                Caller,
                "The access rules do not allow this account to this caller; its session was ended.",
                "Log in users of this caller's rules only, or ask the gateway's operator for a rule.",
                never(&[PermissionDenied]),
            ),
            Self::PlatformConflict => Entry::both(
                Caller,
                "The platform reports a conflict with another object or change.",
                "Check the user and the tenant before trying again.",
                useless(&[Aborted, AlreadyExists]),
            ),
            Self::PlatformRateLimited => Entry::both(
                Trouble,
                "The platform limits the rate of requests, and did nothing.",
                "Wait for the time in RetryInfo, then retry; a token is valid for 30 seconds only.",
                with_backoff(&[ResourceExhausted]),
            ),
            Self::UserDisabled => Entry::both(
                Caller,
                "The user is disabled.",
                "Have the user enabled.",
                useless(&[FailedPrecondition]),
            ),
            Self::TenantDisabled => Entry::both(
                Caller,
                "The user's tenant, or one above it, is disabled.",
                "Have the tenant enabled.",
                useless(&[FailedPrecondition]),
            ),
            Self::TenantLocked => Entry::both(
                Caller,
                "The user's tenant is locked.",
                "Have the tenant unlocked.",
                useless(&[FailedPrecondition]),
            ),
            Self::TenantNotFound => Entry::both(
                Caller,
                "The platform has no such tenant.",
                "Check which tenant the user belongs to.",
                useless(&[NotFound]),
            ),
            Self::InvalidLogin => Entry::both(
                Caller,
                "The platform does not accept this login name.",
                "Correct the login name.",
                useless(&[InvalidArgument]),
            ),
            Self::PlatformQuotaExceeded => Entry::both(
                Caller,
                "A quota of the platform is used up.",
                "Have the tenant's quota raised.",
                useless(&[ResourceExhausted]),
            ),
            Self::PlatformPreconditionFailed => Entry::both(
                Caller,
                "The platform's rules forbid this in the present state of the user or tenant.",
                "Fix the user's or tenant's state first; `apiCode` identifies the problem.",
                useless(&[FailedPrecondition]),
            ),
            Self::GatewayExhausted => Entry::both(
                Trouble,
                "This replica lacks descriptors, ports or memory for a connection; the request was not sent.",
                "Retry with backoff; contact the gateway's operator if it persists.",
                with_backoff(&[Unavailable]),
            ),
            Self::InternalError => Entry::each(
                Operator,
                "The gateway itself failed.",
                "Contact the gateway's operator and quote the request id.",
                useless(&[Internal]),
                never(&[Internal]),
            ),
        }
    }
}

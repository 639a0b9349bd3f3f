//! Failures of calls that the gateway itself refuses: malformed requests, unidentified callers,
//! calls that no rule allows, exceeded quotas.
//!
//! The name of the rule, and the reason why a credential is invalid, are only logged.

use std::time::Duration;

use super::{Case, Failure, FailureCode};
use crate::{
    access::{Denied, ExceededQuota, Refused},
    caller::{CallerError, Unread},
    domain::call::{BrokenBody, Exhausted},
};

/// Retry delay while the issuer's keys are not available yet.
const KEYS_RETRY_AFTER: Duration = Duration::from_secs(2);

impl Failure {
    /// Creates the failure of a request whose body violates HTTP/2.
    #[must_use]
    pub fn malformed_body(broken: BrokenBody) -> Self {
        Self::of(Case::MalformedBody).because(&broken)
    }

    /// Creates the failure of a call whose body is not exactly one gRPC message.
    #[must_use]
    pub fn not_one_message() -> Self {
        Self::of(Case::NotOneMessage)
    }

    /// Creates the failure of a request whose message is compressed, with the code that gRPC
    /// requires.
    #[must_use]
    pub fn unsupported_compression() -> Self {
        Self::of(Case::CompressedMessage).with_code(FailureCode::Unimplemented)
    }

    /// Creates the failure of a request whose message cannot be decoded. The error contains names of
    /// messages and fields, and no data of the request.
    #[must_use]
    pub fn undecodable(error: &prost::DecodeError) -> Self {
        Self::of(Case::UndecodableMessage).because(error)
    }

    /// Creates the failure of a request whose message did not arrive within `limit`, although
    /// the deadline of the call has not passed.
    #[must_use]
    pub fn slow_body(limit: Duration) -> Self {
        let cause = format_args!("request body did not arrive within {limit:?}");
        Self::of(Case::SlowMessage).because(&cause)
    }

    /// Creates the failure of a call that exceeds a limit of this replica, or the share of its
    /// caller. `limit` is the name of the limit in metrics.
    #[must_use]
    pub fn overloaded(exhausted: Exhausted, limit: &'static str) -> Self {
        let case = match exhausted {
            Exhausted::Total => Case::ReplicaOverloaded,
            Exhausted::Share => Case::CallerOverloads,
        };
        Self::of(case).because(&format_args!("limit reached: {limit}"))
    }
}

impl From<CallerError> for Failure {
    /// UNAVAILABLE while the issuer's keys are missing: this is temporary, and another replica may
    /// have them. Any other error is caused by the caller's credential.
    fn from(error: CallerError) -> Self {
        let case = match error {
            _ if error.is_temporary() => {
                let failure = Self::of(Case::IssuerKeysMissing).because(&error);
                return failure.with_code(FailureCode::Unavailable).retry_after(KEYS_RETRY_AFTER);
            }
            CallerError::DuplicateIdentity => Case::RepeatedCredential,
            // The invalid part of a credential is only logged.
            CallerError::InvalidCredential | CallerError::InvalidJwt(_) => Case::InvalidCredential,
            CallerError::InvalidCertificate(_) => Case::CertificateWithoutName,
            CallerError::Unread(Unread::Authorization) => Case::UnacceptedCredential,
            CallerError::Unread(Unread::Forwarded) => Case::UntrustedIdentityHeader,
            CallerError::InvalidForwarded(_) => Case::ProxyIdentityInvalid,
        };
        Self::of(case).because(&error)
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        Self::of(Case::CallerNotAllowed).because(&denied)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotAllowed(denied) => denied.into(),
            Refused::QuotaExceeded { quota, limit, rule, retry_after } => {
                let (case, subject) = match quota {
                    ExceededQuota::Caller => (Case::CallerQuota, "calls of this caller"),
                    ExceededQuota::User => (Case::UserQuota, "calls of this caller for this user"),
                };
                Self::of(case)
                    .because(&format_args!("the quota {quota} of access rule {rule} is used up ({limit})"))
                    .retry_after(retry_after)
                    .quota(subject, limit.to_string())
            }
        }
    }
}

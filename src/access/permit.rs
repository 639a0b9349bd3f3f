//! Proofs of decisions, and the reasons of refusals.

use std::{fmt, sync::Arc, time::Duration};

use serde_json::value::RawValue;

use super::{
    Policy,
    answer::RuleId,
    partial_decision::{KnownClaims, KnownIssuer, KnownParts, KnownUser},
    quota::Limit,
    rule_set::RuleSet,
    rules::Rule,
};
use crate::{
    caller::Caller,
    domain::{
        call::{Call, Method},
        ott::Subject,
    },
    observe::telemetry::metrics::{AccessDenial, QuotaBucket},
};

/// Proof that a caller may use a method, for some user and some API client. Keeps the version of
/// the rules that allowed it.
#[must_use = "an admission is only useful to request a permit"]
#[derive(Debug)]
pub struct Admission {
    pub(super) policy: Arc<Policy>,
    pub(super) caller: Caller,
    pub(super) method: Method,
    /// The rules that allow the method to the caller.
    pub(super) rules: RuleSet,
    /// The call, if there are candidate rules.
    pub(super) rehearsed: Option<Call>,
}

/// Proof that a caller may have a token issued for this user by this API client.
#[must_use = "a permit has used the caller's quota"]
#[derive(Debug)]
pub struct IssuePermit {
    pub(super) caller: Caller,
    pub(super) api_client: Arc<str>,
    pub(super) subject: Subject,
    pub(super) claims: Option<Box<RawValue>>,
}

/// Proof that a caller may use a token with this API client. [`check_account`](super::Access::check_account) checks the
/// user once the platform has named the account.
#[must_use = "a permit has used the caller's quota"]
#[derive(Debug)]
pub struct LoginPermit {
    pub(super) caller: Caller,
    pub(super) api_client: Arc<str>,
    pub(super) claims: Option<Box<RawValue>>,
    pub(super) policy: Arc<Policy>,
    /// The rules that allow the login, for some user.
    pub(super) rules: RuleSet,
    /// The call, if there are candidate rules.
    pub(super) rehearsed: Option<Call>,
}

/// No rule allows a call. Contains the first part of the call that the closest rule does not allow,
/// for logs and records; the caller only receives that it is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no access rule allows this call: {}", self.0.as_str())]
pub struct Denied(pub(super) AccessDenial);

/// Reason that a call gets no permit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No rule allows the call.
    #[error(transparent)]
    NotAllowed(#[from] Denied),
    /// The call exceeds a quota.
    #[error("the quota {quota} of access rule {rule} is used up for {retry_after:?}")]
    QuotaExceeded {
        /// The exceeded quota.
        quota: ExceededQuota,
        /// The rate and burst of the quota.
        limit: Limit,
        /// The quota's rule. For operators.
        rule: RuleId,
        /// Time until such a call is within the quota.
        retry_after: Duration,
    },
}

/// The two quotas of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExceededQuota {
    /// All calls of one caller.
    Caller,
    /// The calls of one caller for one user.
    User,
}

impl Admission {
    /// Returns the admitted caller.
    #[must_use]
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Returns the maximum number of calls in flight of the caller, if the first admitting rule
    /// sets it.
    #[must_use]
    pub fn max_in_flight(&self) -> Option<usize> {
        self.policy.rules.first(&self.rules).and_then(Rule::max_in_flight)
    }

    /// Returns what is known of a call with this API client before its message has been read.
    pub(super) fn known<'a>(&'a self, api_client: &'a str) -> KnownParts<'a> {
        let caller = self.caller.principal();
        KnownParts {
            caller: caller.name,
            claims: KnownClaims::All(caller.claims),
            method: self.method,
            api_client: Some(api_client),
            issuer: KnownIssuer::Unknown,
            login_url: None,
            user: KnownUser::Unknown,
        }
    }

    /// Returns whether any rule allows the caller this API client, regardless of the other parts of the
    /// call. For texts that the caller receives; a decision is also counted and rehearsed.
    #[must_use]
    pub fn may_use(&self, api_client: &str) -> bool {
        self.policy.rules.for_api_client(&self.rules, api_client).is_ok()
    }

    /// Returns the claims of the first of these rules, for the audit record.
    pub(super) fn deciding_claims(&self, rules: &RuleSet) -> Option<Box<RawValue>> {
        self.policy.rules.deciding_claims(rules, self.caller.principal().claims)
    }
}

impl IssuePermit {
    /// Returns the caller.
    #[must_use]
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Returns the API client to use.
    #[must_use]
    pub const fn api_client(&self) -> &Arc<str> {
        &self.api_client
    }

    /// Takes the claims that the deciding rule requires, for the audit record.
    pub fn take_claims(&mut self) -> Option<Box<RawValue>> {
        self.claims.take()
    }

    /// Returns the user of the token.
    #[must_use]
    pub const fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Creates a permit without a check, for tests of later stages.
    #[cfg(test)]
    pub(crate) fn for_test(api_client: &str, subject: Subject) -> Self {
        Self { caller: Caller::anonymous(), api_client: Arc::from(api_client), subject, claims: None }
    }
}

impl LoginPermit {
    /// Returns the caller.
    #[must_use]
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Returns the API client to use.
    #[must_use]
    pub const fn api_client(&self) -> &Arc<str> {
        &self.api_client
    }

    /// Takes the claims that the deciding rule requires, for the audit record.
    pub fn take_claims(&mut self) -> Option<Box<RawValue>> {
        self.claims.take()
    }

    /// Creates a permit without a check, for tests of later stages.
    #[cfg(test)]
    pub(crate) fn for_test(api_client: &str) -> Self {
        let policy = Arc::new(Policy::closed());
        let rules = RuleSet::none(0);
        let (caller, api_client) = (Caller::anonymous(), Arc::from(api_client));
        Self { caller, api_client, claims: None, policy, rules, rehearsed: None }
    }
}

impl Denied {
    /// Returns whether a rule is for the caller, who has its claims, although none allows the call.
    #[must_use]
    pub const fn names_caller(&self) -> bool {
        !matches!(self.0, AccessDenial::Caller | AccessDenial::Claims)
    }

    /// Returns the first part of the call that no rule allows.
    #[must_use]
    pub const fn reason(self) -> AccessDenial {
        self.0
    }
}

impl ExceededQuota {
    pub(super) const fn bucket(self) -> QuotaBucket {
        match self {
            Self::Caller => QuotaBucket::Caller,
            Self::User => QuotaBucket::User,
        }
    }

    /// Returns the label for `QuotaFailure`, logs and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "calls_per_caller",
            Self::User => "calls_per_caller_and_user",
        }
    }
}

impl fmt::Display for ExceededQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

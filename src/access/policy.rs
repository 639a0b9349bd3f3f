//! The policy: rules, candidate rules, bearer tokens and claims of one version of the configuration.

use std::{ops::Deref, sync::Arc};

use arc_swap::Guard;

use super::{
    pattern, quota,
    rules::{RuleSettings, Rules},
};
use crate::caller::{BearerTokens, CallerPolicy, RequestedClaims};

/// Treatment of calls that exceed a quota. Rules have no dry run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quotas {
    /// The call is refused.
    Enforced,
    /// The call is counted, logged and accepted.
    DryRun,
}

/// Settings of access control (`[access]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `[[access.rules]]`, in the order of the file: at least one.
    pub rules: Vec<RuleSettings>,
    /// `[[access.candidate_rules]]`, in the order of the file: rules that are rehearsed and have no
    /// effect.
    pub candidate_rules: Vec<RuleSettings>,
    /// `quota_dry_run`: treatment of calls that exceed a quota.
    pub quotas: Quotas,
    /// `max_quota_users`: maximum number of users that quotas remember: this many of callers that
    /// rules name literally, and as many of all other callers; 262,144, from 1,024 to 16,777,216.
    pub max_quota_users: usize,
}

impl Settings {
    /// Returns settings with these rules and enforced quotas.
    #[must_use]
    pub const fn new(rules: Vec<RuleSettings>) -> Self {
        Self {
            rules,
            candidate_rules: Vec::new(),
            quotas: Quotas::Enforced,
            max_quota_users: quota::DEFAULT_MAX_USERS,
        }
    }

    /// Returns the callers that the rules name literally, in their order. Only these have metrics
    /// of their own.
    pub fn literal_callers(&self) -> impl Iterator<Item = &str> {
        let names = self.rules.iter().flat_map(|rule| rule.callers.iter().map(String::as_str));
        names.filter(|name| pattern::is_literal(name))
    }
}
/// One version of the state that a reload replaces.
#[derive(Debug)]
pub struct Policy {
    /// The rules.
    pub rules: Rules,
    /// The candidate rules, which are rehearsed; `None` if there are none.
    pub candidates: Option<Rules>,
    /// Treatment of calls that exceed a quota.
    pub quotas: Quotas,
    /// Maximum number of users that quotas remember: this many of callers that rules name
    /// literally, and as many of all other callers.
    pub max_quota_users: usize,
    /// The bearer tokens that identify callers.
    pub tokens: BearerTokens,
    /// The claims that the rules require. Others are not read from JWTs, and no rule can match them.
    pub claims: RequestedClaims,
}

/// The version of the policy that was in force when it was read. Reading it writes no memory that
/// another thread reads.
#[derive(Debug)]
pub struct PolicyInForce(pub(super) Guard<Arc<Policy>>);

impl Policy {
    /// Returns a policy without rules and tokens, which allows no calls.
    #[must_use]
    pub fn closed() -> Self {
        Self {
            rules: Rules::none(),
            candidates: None,
            quotas: Quotas::Enforced,
            max_quota_users: quota::DEFAULT_MAX_USERS,
            tokens: BearerTokens::default(),
            claims: RequestedClaims::default(),
        }
    }

    /// Returns the part that identifies callers.
    #[must_use]
    pub const fn for_callers(&self) -> CallerPolicy<'_> {
        CallerPolicy { tokens: &self.tokens, claims: &self.claims }
    }
}

impl PolicyInForce {
    /// Returns the policy in a form that can be kept and cloned.
    #[must_use]
    pub fn into_shared(self) -> Arc<Policy> {
        Guard::into_inner(self.0)
    }
}

impl Deref for PolicyInForce {
    type Target = Policy;

    fn deref(&self) -> &Policy {
        &self.0
    }
}

//! Builds the access policy.

use super::StartError;
use crate::{
    access::{self, Policy, Rules},
    caller::{BearerTokens, RequestedClaims, TokenHashes},
};

/// Builds the policy from rules and bearer tokens, at start and at each reload.
pub(super) fn policy(access: &access::Settings, tokens: &TokenHashes) -> Result<Policy, StartError> {
    Ok(Policy {
        rules: Rules::try_new(access.rules.clone())?,
        quotas: access.quotas,
        max_quota_users: access.max_quota_users,
        tokens: BearerTokens::try_new(tokens)?,
        claims: RequestedClaims::new(access.rules.iter().flat_map(|rule| &rule.claims)),
    })
}

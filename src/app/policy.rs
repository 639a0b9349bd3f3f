//! Builds the access policy.

use super::StartError;
use crate::{
    access::{self, Policy, RuleSettings, Rules},
    caller::{BearerTokens, ClaimRequirement, RequestedClaims, TokenHashes},
};

/// Builds the policy from rules and bearer tokens, at start and at each reload.
pub(super) fn policy(access: &access::Settings, tokens: &TokenHashes) -> Result<Policy, StartError> {
    Ok(Policy {
        rules: Rules::try_new(access.rules.clone())?,
        candidates: candidates(&access.candidate_rules)?,
        quotas: access.quotas,
        max_quota_users: access.max_quota_users,
        tokens: BearerTokens::try_new(tokens)?,
        claims: requested_claims(access),
    })
}

/// Returns the claims of the rules in force and of the candidate rules.
fn requested_claims(access: &access::Settings) -> RequestedClaims {
    let required = |rules: &'_ [RuleSettings]| -> Vec<ClaimRequirement> {
        rules.iter().flat_map(|rule| &rule.claims).cloned().collect()
    };
    let in_force = required(&access.rules);
    RequestedClaims::with_candidates(&in_force, &required(&access.candidate_rules))
}

/// Builds the candidate rules, if there are any.
fn candidates(rules: &[RuleSettings]) -> Result<Option<Rules>, StartError> {
    if rules.is_empty() {
        return Ok(None);
    }
    Ok(Some(Rules::try_new(rules.to_vec())?))
}

//! Finds the rules whose required claims a caller has, without checking each rule.
//!
//! The rules that a claim allows are those that do not require it and those that accept one of its
//! values. The intersection over all required claims is the result, so that a decision costs about
//! the same with any number of rules and accepted values.

use std::collections::{BTreeMap, HashMap};

use super::{
    RuleSettings,
    rule_set::{RuleList, RuleSet},
};
use crate::caller::{ClaimPath, ClaimValue, Claims};

/// The index of rules by the claims that they require.
#[derive(Debug, Default)]
pub(super) struct ClaimIndex {
    /// Each required claim.
    required: Vec<RequiredClaim>,
    /// The rules that require no claims. `None` if no rule requires any.
    without_claims: Option<RuleSet>,
}

#[derive(Debug)]
struct RequiredClaim {
    path: ClaimPath,
    /// The rules that do not require it.
    others: RuleSet,
    /// The rules that accept each value.
    accepted: HashMap<ClaimValue, RuleList>,
}

impl ClaimIndex {
    pub(super) fn new(rules: &[RuleSettings]) -> Self {
        let mut required: BTreeMap<&ClaimPath, HashMap<ClaimValue, RuleList>> = BTreeMap::new();
        for (position, rule) in rules.iter().enumerate() {
            for claim in &rule.claims {
                let accepted = required.entry(&claim.path).or_default();
                for value in &claim.values {
                    accepted.entry(value.clone()).or_default().push(position);
                }
            }
        }
        let without_claims = (!required.is_empty())
            .then(|| RuleSet::from_flags(rules.iter().map(|rule| rule.claims.is_empty())));
        let required = required
            .into_iter()
            .map(|(path, accepted)| {
                let does_not_require =
                    |rule: &RuleSettings| rule.claims.iter().all(|claim| claim.path != *path);
                let others = RuleSet::from_flags(rules.iter().map(does_not_require));
                RequiredClaim { path: path.clone(), others, accepted }
            })
            .collect();
        Self { required, without_claims }
    }

    /// Keeps only the rules whose required claims the caller has.
    pub(super) fn narrow(&self, rules: &mut RuleSet, claims: &Claims) {
        let Some(without_claims) = &self.without_claims else { return };
        if claims.is_empty() {
            rules.retain(without_claims);
            return;
        }
        let mut allowed = without_claims.clone();
        for claim in &self.required {
            allowed.clone_from(&claim.others);
            for value in claims.values_of(&claim.path) {
                if let Some(accepting) = claim.accepted.get(value) {
                    allowed.add(accepting);
                }
            }
            rules.retain(&allowed);
        }
    }
}

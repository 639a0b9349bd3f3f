//! Replays recorded calls under old and new rules: which callers the new ones would have refused.
//!
//! Nothing is guessed. A call is only counted as refused or newly allowed if its record contains
//! everything on which the decision of the new rules depends. All other calls are counted by the
//! reason. Calls that were decided under other rules than the old ones are counted separately.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    partial_decision::{KnownClaims, KnownIssuer, KnownParts, KnownUser, PartialDecision, UnknownPart},
    rules::Rules,
};
use crate::{
    caller::{JWT_PREFIX, TOKEN_PREFIX},
    domain::call::Method,
    observe::telemetry::metrics::AccessDenial,
};

/// Maximum number of callers and rules that are counted separately, of each kind of change. Callers
/// of records can be chosen by strangers, and files may be large.
const MAX_ROWS: usize = 10_000;

/// Rules, and the names that exist beside them. All other callers exist in any case.
#[derive(Clone, Copy, Debug)]
pub struct NamedRules<'a> {
    /// The rules.
    pub rules: &'a Rules,
    /// The names of bearer tokens.
    pub tokens: &'a BTreeSet<&'a str>,
    /// The names of JWT issuers. `None` if the issuer has no name.
    pub jwt_issuers: Option<&'a BTreeSet<&'a str>>,
    /// The names of API clients.
    pub api_clients: &'a BTreeSet<&'a str>,
    /// The API client of calls that do not name one.
    pub default_api_client: Option<&'a str>,
}

/// A call in an audit record.
#[derive(Clone, Copy, Debug)]
pub struct RecordedCall<'a> {
    /// The name of the caller.
    pub caller: &'a str,
    /// The issuer of the caller's JWT.
    pub issuer: RecordedIssuer<'a>,
    /// The claims of the caller's JWT.
    pub claims: KnownClaims<'a>,
    /// The method.
    pub method: Method,
    /// The name of the API client. `None` if it is not recorded.
    pub api_client: Option<&'a str>,
    /// Whether an `IssueOtt` requested a login URL. `None` if it is not recorded.
    pub login_url: Option<bool>,
    /// The caller that the token of a `LoginWithOtt` was issued to.
    pub token_issuer: KnownIssuer<'a>,
    /// The user. Only known for a login with a sealed token.
    pub user: KnownUser<'a>,
    /// The decision of the rules that were in force.
    pub decision: RecordedDecision,
    /// The rules that were in force.
    pub decided_by: DecidedBy,
    /// `request_id`.
    pub request_id: &'a str,
}

/// The issuer of a caller's JWT in an audit record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordedIssuer<'a> {
    /// There is no JWT, or its issuer is not recorded.
    None,
    /// The only issuer, which has no name.
    Unnamed,
    /// The issuer of this name.
    Named(&'a str),
}

/// The decision of the rules that were in force, on the whole call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordedDecision {
    /// A rule allowed the call.
    Allowed,
    /// No rule allowed the call.
    Denied,
}

/// The rules that decided a recorded call, by their fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecidedBy {
    /// The old rules.
    OldRules,
    /// Other rules.
    OtherRules,
    /// The records do not identify them.
    NotRecorded,
}

/// The result of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Calls that were decided under the old rules, and calls of which the rules are not recorded, if
    /// the old rules decide as recorded.
    pub by_old_rules: ReplayedDecisions,
    /// Calls that were decided under other rules: by the records, or because the old rules decide
    /// differently from what is recorded.
    pub by_other_rules: ReplayedDecisions,
    /// Number of calls in `by_old_rules` of which the rules are not recorded.
    pub not_identified: u64,
}

/// Recorded decisions, compared with those of the new rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayedDecisions {
    /// Number of calls on which the new rules decide as recorded.
    pub unchanged: u64,
    /// Calls that were allowed, and that the new rules do not allow.
    pub refused: ReplayedCalls<Refusal>,
    /// Calls that were not allowed, and that the new rules allow.
    pub allowed: ReplayedCalls<Allowance>,
    /// Number of calls whose record does not contain the part on which the decision of the new rules
    /// depends.
    pub undecided: BTreeMap<UnknownPart, u64>,
}

/// A caller that the new rules would have refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The name of the caller.
    pub caller: Box<str>,
    /// The old rule that allows the calls, by number from 1. `None` if it depends on a part of the
    /// call that is not recorded, and for calls of other rules.
    pub old_rule: Option<usize>,
    /// The first part of the calls that no new rule allows.
    pub denied: AccessDenial,
}

/// A caller that the new rules would have allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allowance {
    /// The name of the caller.
    pub caller: Box<str>,
    /// The new rule that allows the calls, by number from 1.
    pub new_rule: usize,
}

/// Calls that are counted by caller and rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayedCalls<K> {
    rows: BTreeMap<K, (u64, Box<str>)>,
    others: u64,
}

impl<K> Default for ReplayedCalls<K> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), others: 0 }
    }
}

impl<K: Ord> ReplayedCalls<K> {
    fn add(&mut self, key: K, request_id: &str) {
        if let Some((count, _)) = self.rows.get_mut(&key) {
            *count += 1;
        } else if self.rows.len() < MAX_ROWS {
            self.rows.insert(key, (1, request_id.into()));
        } else {
            self.others += 1;
        }
    }

    /// Returns each caller and rule with the number of calls and the request id of the first one,
    /// most calls first.
    #[must_use]
    pub fn rows(&self) -> Vec<(&K, u64, &str)> {
        let mut rows: Vec<_> =
            self.rows.iter().map(|(key, (count, example))| (key, *count, &**example)).collect();
        // Stable, so that callers with as many calls are in alphabetical order.
        rows.sort_by_key(|(_, count, _)| std::cmp::Reverse(*count));
        rows
    }

    /// Returns the number of calls of further callers and rules, beyond those counted separately.
    #[must_use]
    pub const fn others(&self) -> u64 {
        self.others
    }

    /// Returns the number of calls.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.others + self.rows.values().map(|(count, _)| count).sum::<u64>()
    }
}

impl ReplayedDecisions {
    /// Returns the number of calls.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.unchanged + self.refused.count() + self.allowed.count() + self.undecided.values().sum::<u64>()
    }
}

impl Replay {
    /// Adds a call.
    pub fn add(&mut self, old: &NamedRules<'_>, new: &NamedRules<'_>, call: &RecordedCall<'_>) {
        let known = KnownParts {
            caller: call.caller,
            claims: call.claims,
            method: call.method,
            api_client: call.api_client,
            issuer: call.token_issuer,
            login_url: call.login_url,
            user: call.user,
        };
        let is_allowed = call.decision == RecordedDecision::Allowed;
        // A sealed token contains its API client.
        let is_sealed = is_allowed && matches!(call.token_issuer, KnownIssuer::Named(_));
        let recorded_default = old.default_api_client.filter(|_| !is_sealed);
        let by_old = old.decision(&known, call.issuer, recorded_default);
        let is_consistent = match by_old {
            Decision::Allowed(_) => is_allowed,
            Decision::Denied(_) => !is_allowed,
            // The record contains the decision.
            Decision::Undecided(_) => true,
        };
        let is_by_old = is_consistent && call.decided_by != DecidedBy::OtherRules;
        self.not_identified += u64::from(is_by_old && call.decided_by == DecidedBy::NotRecorded);
        let decisions = if is_by_old { &mut self.by_old_rules } else { &mut self.by_other_rules };
        match (is_allowed, new.decision(&known, call.issuer, recorded_default)) {
            (true, Decision::Allowed(_)) | (false, Decision::Denied(_)) => decisions.unchanged += 1,
            (true, Decision::Denied(denied)) => {
                let old_rule = match by_old {
                    Decision::Allowed(rule) if is_by_old && is_deciding(old.rules, rule, &known) => {
                        Some(rule)
                    }
                    _ => None,
                };
                let refusal = Refusal { caller: call.caller.into(), old_rule, denied };
                decisions.refused.add(refusal, call.request_id);
            }
            (false, Decision::Allowed(new_rule)) => {
                let allowance = Allowance { caller: call.caller.into(), new_rule };
                decisions.allowed.add(allowance, call.request_id);
            }
            (_, Decision::Undecided(part)) => *decisions.undecided.entry(part).or_default() += 1,
        }
    }
}

/// The decision of a file on a recorded call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// This rule, by number from 1, or an earlier one.
    Allowed(usize),
    /// The first part that no rule allows.
    Denied(AccessDenial),
    /// Depends on this part.
    Undecided(UnknownPart),
}

impl NamedRules<'_> {
    /// Decides a call. `recorded_default` is the API client that was recorded for calls that did not
    /// name one. `None` if the call certainly does not depend on the default.
    fn decision(
        &self,
        known: &KnownParts<'_>,
        issuer: RecordedIssuer<'_>,
        recorded_default: Option<&str>,
    ) -> Decision {
        if let Some(decision) = self.decision_by_caller(known.caller, issuer) {
            return decision;
        }
        let as_recorded = self.decision_of_rules(known);
        let may_be_other = known.api_client.is_some()
            && known.api_client == recorded_default
            && recorded_default != self.default_api_client;
        if !may_be_other {
            return as_recorded;
        }
        // The request may have named no API client, and would use this one, or be invalid.
        let by_default = match self.default_api_client {
            Some(name) => self.decision_of_rules(&KnownParts { api_client: Some(name), ..*known }),
            None => Decision::Denied(AccessDenial::ApiClient),
        };
        match (as_recorded, by_default) {
            (Decision::Allowed(_), Decision::Allowed(_)) | (Decision::Denied(_), Decision::Denied(_)) => {
                as_recorded
            }
            (Decision::Undecided(part), _) | (_, Decision::Undecided(part)) => Decision::Undecided(part),
            _ => Decision::Undecided(UnknownPart::ApiClient),
        }
    }

    /// Returns the decision on callers that do not exist beside these rules, or have another name.
    fn decision_by_caller(&self, caller: &str, issuer: RecordedIssuer<'_>) -> Option<Decision> {
        if let Some(token) = caller.strip_prefix(TOKEN_PREFIX) {
            return (!self.tokens.contains(token)).then_some(Decision::Denied(AccessDenial::Caller));
        }
        if !caller.starts_with(JWT_PREFIX) {
            return None;
        }
        match (self.jwt_issuers, issuer) {
            (_, RecordedIssuer::None) | (None, RecordedIssuer::Unnamed) => None,
            (Some(names), RecordedIssuer::Named(name)) => {
                (!names.contains(name)).then_some(Decision::Denied(AccessDenial::Caller))
            }
            (Some(_), RecordedIssuer::Unnamed) | (None, RecordedIssuer::Named(_)) => {
                Some(Decision::Undecided(UnknownPart::Caller))
            }
        }
    }

    fn decision_of_rules(&self, known: &KnownParts<'_>) -> Decision {
        if known.api_client.is_some_and(|name| !self.api_clients.contains(name)) {
            return Decision::Denied(AccessDenial::ApiClient);
        }
        match self.rules.partial_decision(known) {
            PartialDecision::Allowed(rule) => Decision::Allowed(rule),
            PartialDecision::Denied(part) => Decision::Denied(part),
            PartialDecision::Undecided(rule) => {
                Decision::Undecided(self.rules.unknown_part(rule, known).unwrap_or(UnknownPart::User))
            }
        }
    }
}

/// Returns whether no earlier rule may decide the call instead of this one, which allows it.
fn is_deciding(rules: &Rules, rule: usize, known: &KnownParts<'_>) -> bool {
    rules.first_possible(known) == Some(rule)
}

#[cfg(test)]
mod tests;

//! Replays recorded calls under old and new rules: which callers the new ones would have refused.
//!
//! Nothing is guessed. A call is only counted as refused or newly allowed if its record contains
//! everything on which the decision of the new rules depends, and if the old rules decide as the
//! rules did that were in force. All other calls are counted by the reason.

use std::collections::BTreeMap;

use super::{
    partial_decision::{KnownClaims, KnownParts, KnownUser, PartialDecision, UnknownPart},
    rules::Rules,
};
use crate::{domain::call::Method, observe::telemetry::metrics::AccessDenial};

/// Maximum number of callers and rules that are counted separately, of each kind of change. Callers
/// of records can be chosen by strangers, and files may be large.
const MAX_ROWS: usize = 10_000;

/// A call in an audit record.
#[derive(Clone, Copy, Debug)]
pub struct RecordedCall<'a> {
    /// The name of the caller.
    pub caller: &'a str,
    /// The claims of the caller's JWT.
    pub claims: KnownClaims<'a>,
    /// The method.
    pub method: Method,
    /// The name of the API client. `None` if it is not recorded.
    pub api_client: Option<&'a str>,
    /// The user. Not known for a login.
    pub user: KnownUser<'a>,
    /// The decision of the rules that were in force.
    pub decision: RecordedDecision,
    /// `request_id`.
    pub request_id: &'a str,
}

/// The decision of the rules that were in force, on the whole call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordedDecision {
    /// A rule allowed the call.
    Allowed,
    /// No rule allowed the call.
    Denied,
}

/// The result of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Number of calls on which both rules decide the same.
    pub unchanged: u64,
    /// Calls that the old rules allow and the new ones do not.
    pub refused: ReplayedCalls<Refusal>,
    /// Calls that the old rules do not allow and the new ones do.
    pub allowed: ReplayedCalls<Allowance>,
    /// Number of calls whose record does not contain the part on which a decision depends.
    pub undecided: BTreeMap<UnknownPart, u64>,
    /// Number of calls that the rules in force decided differently from the old rules: those were
    /// not in force, or the record does not show the name as it was sent.
    pub other_rules: u64,
}

/// A caller that the new rules would have refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The name of the caller.
    pub caller: Box<str>,
    /// The old rule that allows the calls, by number from 1. `None` if it depends on a part of the
    /// call that is not recorded.
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

impl Replay {
    /// Adds a call.
    pub fn add(&mut self, old_rules: &Rules, new_rules: &Rules, call: &RecordedCall<'_>) {
        let known = KnownParts {
            caller: call.caller,
            claims: call.claims,
            method: call.method,
            api_client: call.api_client,
            user: call.user,
        };
        let old = old_rules.partial_decision(&known);
        let is_allowed = call.decision == RecordedDecision::Allowed;
        let is_consistent = match old {
            PartialDecision::Allowed(_) => is_allowed,
            PartialDecision::Denied(_) => !is_allowed,
            // The record contains the decision.
            PartialDecision::Undecided(_) => true,
        };
        if !is_consistent {
            self.other_rules += 1;
            return;
        }
        match (is_allowed, new_rules.partial_decision(&known)) {
            (true, PartialDecision::Allowed(_)) | (false, PartialDecision::Denied(_)) => self.unchanged += 1,
            (true, PartialDecision::Denied(denied)) => {
                let old_rule = match old {
                    PartialDecision::Allowed(rule) if is_deciding(old_rules, rule, &known) => Some(rule),
                    _ => None,
                };
                let refusal = Refusal { caller: call.caller.into(), old_rule, denied };
                self.refused.add(refusal, call.request_id);
            }
            (false, PartialDecision::Allowed(new_rule)) => {
                let allowance = Allowance { caller: call.caller.into(), new_rule };
                self.allowed.add(allowance, call.request_id);
            }
            (_, PartialDecision::Undecided(rule)) => {
                let part = new_rules.unknown_part(rule, &known).unwrap_or(UnknownPart::User);
                *self.undecided.entry(part).or_default() += 1;
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

//! Differences between two versions in log lines: numbers and names, never values.

use std::sync::Arc;

use super::super::rules_change::ChangedTokens;
use crate::{
    access::{RuleId, RuleSettings},
    caller::TokenHashes,
    observe::audit::RulesDifferences,
};

/// The numbers of an audit record of a change, as fields of a log line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LoggedCounts {
    pub(super) opened: Option<usize>,
    pub(super) closed: Option<usize>,
    pub(super) quotas_changed: Option<usize>,
    pub(super) settings_changed: Option<usize>,
    /// The reason that there are no numbers.
    pub(super) not_compared: Option<&'static str>,
}

impl LoggedCounts {
    pub(super) fn of(differences: RulesDifferences) -> Self {
        match differences {
            RulesDifferences::Counted { opened, closed, quotas_changed, settings_changed } => Self {
                opened: Some(opened),
                closed: Some(closed),
                quotas_changed: Some(quotas_changed),
                settings_changed: Some(settings_changed),
                not_compared: None,
            },
            RulesDifferences::NotCounted { not_compared } => {
                Self { not_compared: Some(not_compared.as_str()), ..Self::default() }
            }
        }
    }
}

/// Changes in a new version; `None` if there are none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) added: Option<String>,
    pub(super) removed: Option<String>,
    /// Entries with the same name and a different value.
    pub(super) replaced: Option<String>,
}

impl Difference {
    /// Returns the differences of rules, by number and name: added ones as counted in the new
    /// configuration, removed ones as in the old one. An edited rule is both.
    pub(super) fn between_rules(old: &[RuleSettings], new: &[RuleSettings]) -> Self {
        let missing = |from: &[RuleSettings], those: &[RuleSettings]| {
            let numbered = (1..).zip(those).filter(|(_, rule)| !from.contains(rule));
            listed(numbered.map(|(number, rule)| RuleId { number, name: rule.name.clone() }.to_string()))
        };
        Self { added: missing(old, new), removed: missing(new, old), replaced: None }
    }

    pub(super) fn between_tokens(old: &TokenHashes, new: &TokenHashes) -> Self {
        let ChangedTokens { added, removed, replaced } = ChangedTokens::between(old, new);
        let listed = |names: Vec<&Arc<str>>| listed(names.into_iter().map(ToString::to_string));
        Self { added: listed(added), removed: listed(removed), replaced: listed(replaced) }
    }
}

fn listed(names: impl Iterator<Item = String>) -> Option<String> {
    Some(names.collect::<Vec<_>>().join(", ")).filter(|list| !list.is_empty())
}

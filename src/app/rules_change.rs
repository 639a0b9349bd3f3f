//! The audit record of a change of the access rules.

use crate::{
    access::Settings,
    observe::audit::{RulesChange, RulesSummary},
};

/// Returns the record of a change. `None` if the rules are the same.
pub(super) fn rules_change(old: &Settings, new: &Settings) -> Option<RulesChange> {
    let (old_rules, new_rules) = (old.fingerprint(), new.fingerprint());
    (old_rules != new_rules).then(|| RulesChange { old_rules, new_rules, summary: summary(old, new) })
}

/// Returns what the change does, in short.
fn summary(old: &Settings, new: &Settings) -> RulesSummary {
    RulesSummary { rules_before: old.rules.len(), rules_after: new.rules.len() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{access::RuleSettings, domain::ott::Users};

    #[test]
    fn only_a_change_of_the_rules_is_recorded() {
        let rule = |caller: &str| RuleSettings::new(vec![caller.to_owned()], Users::All);
        let old = Settings::new(vec![rule("token:a")]);
        let same = Settings { max_quota_users: old.max_quota_users + 1, ..old.clone() };
        assert_eq!(rules_change(&old, &same), None);
        let new = Settings::new(vec![rule("token:a"), rule("token:b")]);
        let change = rules_change(&old, &new).expect("a change");
        assert_eq!((change.old_rules, change.new_rules), (old.fingerprint(), new.fingerprint()));
        assert_eq!(change.summary, RulesSummary { rules_before: 1, rules_after: 2 });
    }
}

//! Changed quotas of calls that both files allow.
//!
//! The first rule that allows a call sets its quotas. For a login, the first rule for caller, API
//! client and method does, because its user is not known yet; and the maximum number of calls in
//! flight comes from the first rule for caller and method.

use std::rc::Rc;

use super::{
    CompiledRule, File, METHODS, Tables, TooComplex,
    bits::Bits,
    region::Scope,
    report::{Change, QuotaChange},
    search::Exhausted,
};
use crate::{
    access::{Quotas, RuleSettings, Settings},
    domain::call::Method,
};

/// A group of quotas that one rule sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    Calls,
    InFlight,
}

/// Returns the value of a key as it is written.
type Value<'a> = &'a dyn Fn(&RuleSettings) -> String;

/// Returns the changed keys of `[access]`.
pub(super) fn changed_settings(old: &Settings, new: &Settings) -> Vec<Change> {
    let is_dry_run = |access: &Settings| (access.quotas == Quotas::DryRun).to_string();
    [
        ("quota_dry_run", is_dry_run(old), is_dry_run(new)),
        ("max_quota_users", old.max_quota_users.to_string(), new.max_quota_users.to_string()),
    ]
    .into_iter()
    .filter(|(_, old, new)| old != new)
    .map(|(key, old, new)| Change { key, old, new })
    .collect()
}

impl Tables<'_> {
    pub(super) fn changed_quotas(
        &mut self,
        old: &[CompiledRule<'_>],
        new: &[CompiledRule<'_>],
    ) -> Result<Vec<QuotaChange>, TooComplex> {
        let mut changes = Vec::new();
        for group in [Group::Calls, Group::InFlight] {
            for method in METHODS {
                let old = self.scopes(old, group, method);
                let new = self.scopes(new, group, method);
                for (position, (rule, scope)) in new.iter().enumerate() {
                    let earlier: Vec<&Scope> = new[..position].iter().map(|(_, scope)| scope).collect();
                    let found = self.changes_by((rule, scope), &earlier, &old, group, method);
                    changes.extend(found.map_err(|Exhausted| rule.too_complex(File::New))?);
                }
            }
        }
        Ok(changes)
    }

    /// Returns the changes of the calls that one rule of the new file decides.
    fn changes_by(
        &mut self,
        (rule, scope): (&CompiledRule<'_>, &Scope),
        earlier: &[&Scope],
        old: &[(&CompiledRule<'_>, Scope)],
        group: Group,
        method: Method,
    ) -> Result<Vec<QuotaChange>, Exhausted> {
        let mut found = Vec::new();
        let is_changed =
            |other: &CompiledRule<'_>| !differences(other.settings, rule.settings, group, method).is_empty();
        if !old.iter().any(|(other, _)| is_changed(other)) {
            return Ok(found);
        }
        let has_user = group == Group::Calls && method == Method::IssueOtt;
        // The calls that this rule decides, and that no rule of the old file considered so far does.
        let mut undecided = self.world.rest(scope, earlier, &mut Vec::new())?;
        for (other, other_scope) in old {
            if undecided.is_empty() {
                break;
            }
            if !self.world.may_meet(scope, other_scope)? {
                continue;
            }
            if is_changed(other) {
                let mut regions = Vec::new();
                for region in &undecided {
                    regions.extend(self.world.common(region, other_scope)?);
                }
                for region in self.describable(regions)? {
                    found.push(QuotaChange {
                        calls: self.calls(&region, method)?,
                        old_rule: other.name(),
                        new_rule: rule.name(),
                        changes: differences(other.settings, rule.settings, group, method),
                        example: self.example(&region, has_user)?,
                    });
                }
            }
            undecided = self.world.without(undecided, &[other_scope], &mut Vec::new())?;
        }
        Ok(found)
    }

    /// Returns the rules for a method with the calls whose quotas they set.
    fn scopes<'a, 'b>(
        &mut self,
        rules: &'a [CompiledRule<'b>],
        group: Group,
        method: Method,
    ) -> Vec<(&'a CompiledRule<'b>, Scope)> {
        let all_users: Rc<[_]> = [self.world.users.atoms.add_all_users()].into();
        let all_api_clients: Bits = (0..self.api_clients.len()).collect();
        let scope = |rule: &CompiledRule<'_>| match (group, method) {
            (Group::Calls, Method::IssueOtt) => rule.scope.clone(),
            (Group::Calls, Method::LoginWithOtt) => {
                Scope { users: Rc::clone(&all_users), ..rule.scope.clone() }
            }
            (Group::InFlight, _) => Scope {
                users: Rc::clone(&all_users),
                api_clients: all_api_clients.clone(),
                ..rule.scope.clone()
            },
        };
        rules.iter().filter(|rule| rule.is_for(method)).map(|rule| (rule, scope(rule))).collect()
    }
}

/// Returns the quotas that differ between two rules.
fn differences(old: &RuleSettings, new: &RuleSettings, group: Group, method: Method) -> Vec<Change> {
    let in_flight = |rule: &RuleSettings| {
        rule.max_in_flight.map_or_else(|| "default".to_owned(), |calls| calls.to_string())
    };
    let all: [(&'static str, bool, Value<'_>); 5] = [
        ("rate", group == Group::Calls, &|rule| rule.rate.to_string()),
        ("burst", group == Group::Calls, &|rule| rule.burst.to_string()),
        ("user_rate", group == Group::Calls && method == Method::IssueOtt, &|rule| {
            rule.user_rate.to_string()
        }),
        ("user_burst", group == Group::Calls && method == Method::IssueOtt, &|rule| {
            rule.user_burst.to_string()
        }),
        ("max_in_flight", group == Group::InFlight, &in_flight),
    ];
    let applying = all.iter().filter(|(_, applies, _)| *applies);
    let values = applying.map(|(key, _, value)| Change { key, old: value(old), new: value(new) });
    values.filter(|change| change.old != change.new).collect()
}

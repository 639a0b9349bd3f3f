//! Changed quotas of calls that both files allow.
//!
//! The first rule that allows a call sets its quotas. For a login with a token that is not sealed, the
//! first rule for caller, API client and method does, because its user is not known yet; and the maximum
//! number of calls in flight comes from the first rule for caller and method.

use std::{collections::HashSet, rc::Rc};

use super::{
    CallKind, CompiledRule, File, Tables, TooComplex,
    bits::Bits,
    catalog::{Catalog, Scope, ScopeId},
    merging::merged,
    region::{Others, Wanted},
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

/// The rules that set the quotas of a group, each with its number in a catalog of scopes.
type Deciding<'a, 'b> = [(&'a CompiledRule<'b>, ScopeId)];

/// Returns the value of a key as it is written.
type Value = fn(&RuleSettings) -> String;

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
            for kind in self.kinds_of(group) {
                let (old, new) = (setting(old, group, kind), setting(new, group, kind));
                let values: HashSet<Vec<String>> =
                    old.iter().chain(&new).map(|rule| values(rule.settings, group, kind)).collect();
                if values.len() < 2 {
                    continue;
                }
                let scopes = self.scopes(old.iter().chain(&new).copied(), group, kind);
                let (catalog, ids) = self.catalog(scopes.into_iter());
                let deciding = |rules: &[&CompiledRule<'_>], ids: &[ScopeId]| {
                    // A second rule with the same scope decides nothing.
                    let mut seen = Bits::default();
                    let mut all = Vec::new();
                    for (position, &id) in ids.iter().enumerate().take(rules.len()) {
                        if !seen.contains(id) {
                            all.push((position, id));
                        }
                        seen.insert(id);
                    }
                    all
                };
                let (old_ids, new_ids) = ids.split_at(old.len());
                let old: Vec<_> = deciding(&old, old_ids).into_iter().map(|(at, id)| (old[at], id)).collect();
                let mut earlier = Bits::default();
                for (position, id) in deciding(&new, new_ids) {
                    let rule = new[position];
                    let found = self.changes_by((rule, id), &earlier, &old, &catalog, group, kind);
                    changes.extend(found.map_err(|Exhausted| rule.too_complex(File::New))?);
                    earlier.insert(id);
                }
            }
        }
        Ok(merged(
            changes,
            |change| &mut change.calls,
            |change| (change.old_rule.number, change.new_rule.number, change.changes.clone()),
        ))
    }

    fn kinds_of(&self, group: Group) -> Vec<CallKind> {
        match group {
            Group::Calls => self.kinds.of_quotas.clone(),
            Group::InFlight => vec![CallKind::Issue, CallKind::Login],
        }
    }

    /// Returns the changes of the calls that one rule of the new file decides.
    fn changes_by(
        &self,
        (rule, id): (&CompiledRule<'_>, ScopeId),
        earlier: &Bits,
        old: &Deciding<'_, '_>,
        catalog: &Catalog,
        group: Group,
        kind: CallKind,
    ) -> Result<Vec<QuotaChange>, Exhausted> {
        let mut found = Vec::new();
        let own = values(rule.settings, group, kind);
        let has_user = group == Group::Calls && has_user(kind);
        let Some(whole) = self.world.whole(catalog.get(id))? else { return Ok(found) };
        let meeting = self.world.meeting(&whole, catalog)?;
        // The rules that decide before both rules.
        let mut before = earlier.clone();
        for (other, other_id) in old {
            self.world.budget.spend(1)?;
            // Of its calls, this rule decides none.
            if before.contains(*other_id) {
                continue;
            }
            if meeting.contains(*other_id) && values(other.settings, group, kind) != own {
                let others = Others { catalog, scopes: &before };
                let regions = match self.world.common(&whole, catalog.get(*other_id))? {
                    Some(region) => self.world.without(region, others, Wanted::All)?.regions,
                    None => Vec::new(),
                };
                for region in self.describable(regions)? {
                    found.push(QuotaChange {
                        calls: self.calls(&region, kind)?,
                        old_rule: other.name(),
                        new_rule: rule.name(),
                        changes: differences(other.settings, rule.settings, group, kind),
                        example: self.example(&region, has_user)?,
                    });
                }
            }
            before.insert(*other_id);
            if *other_id == id {
                break;
            }
        }
        Ok(found)
    }

    /// Returns the calls whose quotas the rules set.
    fn scopes<'a>(
        &mut self,
        rules: impl Iterator<Item = &'a CompiledRule<'a>>,
        group: Group,
        kind: CallKind,
    ) -> Vec<Scope> {
        let all_users: Rc<[_]> = [self.world.users.atoms.add_all_users()].into();
        let all_api_clients: Bits = (0..self.api_clients.len()).collect();
        let scope = |rule: &CompiledRule<'_>| match group {
            Group::Calls if has_user(kind) => rule.scope_of(kind),
            Group::Calls => Scope { users: Rc::clone(&all_users), ..rule.scope_of(kind) },
            Group::InFlight => Scope {
                users: Rc::clone(&all_users),
                api_clients: all_api_clients.clone(),
                ..rule.scope.clone()
            },
        };
        rules.map(scope).collect()
    }
}

/// Returns the rules that set the quotas of a group.
fn setting<'a, 'b>(rules: &'a [CompiledRule<'b>], group: Group, kind: CallKind) -> Vec<&'a CompiledRule<'b>> {
    let sets = |rule: &&CompiledRule<'_>| match group {
        Group::Calls => rule.is_for(kind),
        // Before the message is read.
        Group::InFlight => rule.settings.methods.as_ref().is_none_or(|all| all.contains(&kind.method())),
    };
    rules.iter().filter(sets).collect()
}

/// Returns whether the user of a call is known when it takes from a quota.
const fn has_user(kind: CallKind) -> bool {
    matches!(kind.method(), Method::IssueOtt) || matches!(kind, CallKind::LoginSealed)
}

/// Returns the quotas of a group, as they are written.
fn values(rule: &RuleSettings, group: Group, kind: CallKind) -> Vec<String> {
    keys(group, kind.method()).map(|(_, value)| value(rule)).collect()
}

/// Returns the quotas that differ between two rules.
fn differences(old: &RuleSettings, new: &RuleSettings, group: Group, kind: CallKind) -> Vec<Change> {
    let values =
        keys(group, kind.method()).map(|(key, value)| Change { key, old: value(old), new: value(new) });
    values.filter(|change| change.old != change.new).collect()
}

/// Returns the keys of a group.
fn keys(group: Group, method: Method) -> impl Iterator<Item = (&'static str, Value)> {
    let all: [(&'static str, bool, Value); 5] = [
        ("rate", group == Group::Calls, |rule| rule.rate.to_string()),
        ("burst", group == Group::Calls, |rule| rule.burst.to_string()),
        ("user_rate", group == Group::Calls && method == Method::IssueOtt, |rule| rule.user_rate.to_string()),
        ("user_burst", group == Group::Calls && method == Method::IssueOtt, |rule| {
            rule.user_burst.to_string()
        }),
        ("max_in_flight", group == Group::InFlight, |rule| {
            rule.max_in_flight.map_or_else(|| "default".to_owned(), |calls| calls.to_string())
        }),
    ];
    all.into_iter().filter(|(_, applies, _)| *applies).map(|(key, _, value)| (key, value))
}

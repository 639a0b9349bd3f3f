//! Finds the rules that apply to a part of a call, without checking each rule.
//!
//! Each part of a call has a set of rules that apply to it, and the intersection of these sets
//! allows the call. `rules` makes the decision.

use super::{RuleSettings, glob_index::GlobIndex, rule_set::RuleSet};
use crate::{
    caller::ANONYMOUS,
    domain::{
        call::Method,
        ott::{Subject, SubjectForm, Users},
    },
};

/// The index of a set of rules, by the parts of a call.
#[derive(Debug)]
pub(super) struct RuleIndex {
    /// The number of rules.
    rules: usize,
    callers: GlobIndex,
    issue: RuleSet,
    login: RuleSet,
    api_clients: GlobIndex,
    any_api_client: RuleSet,
    users: Vec<(SubjectForm, GlobIndex)>,
    all_users: RuleSet,
}

impl RuleIndex {
    pub(super) fn new(rules: &[RuleSettings]) -> Self {
        let globs_of = |of: &dyn Fn(&RuleSettings) -> &[String]| {
            let globs = (0..)
                .zip(rules)
                .flat_map(|(rule, settings)| of(settings).iter().map(move |glob| (&**glob, rule)));
            GlobIndex::new(&globs.collect::<Vec<_>>())
        };
        let is_for = |method| {
            let is_for =
                move |rule: &RuleSettings| rule.methods.as_ref().is_none_or(|named| named.contains(&method));
            RuleSet::from_flags(rules.iter().map(is_for))
        };
        let patterns = (0..).zip(rules).flat_map(|(rule, settings)| {
            let listed = match &settings.users {
                Users::All => &[][..],
                Users::Listed(patterns) => patterns,
            };
            listed.iter().map(move |pattern| (pattern, rule))
        });
        let patterns: Vec<_> = patterns.collect();
        let users = |form| {
            let globs = patterns.iter().flat_map(|(pattern, rule)| {
                pattern.globs().filter(move |(other, _)| *other == form).map(move |(_, glob)| (glob, *rule))
            });
            (form, GlobIndex::new(&globs.collect::<Vec<_>>()))
        };
        Self {
            rules: rules.len(),
            callers: globs_of(&|rule| &rule.callers),
            issue: is_for(Method::IssueOtt),
            login: is_for(Method::LoginWithOtt),
            api_clients: globs_of(&|rule| rule.api_clients.as_deref().unwrap_or_default()),
            any_api_client: RuleSet::from_flags(rules.iter().map(is_for_any_api_client)),
            users: SubjectForm::ALL.into_iter().map(users).collect(),
            all_users: RuleSet::from_flags(rules.iter().map(|rule| rule.users == Users::All)),
        }
    }

    /// Returns the rules that name a caller. `anonymous` must be named literally; no glob matches
    /// it.
    pub(super) fn for_caller(&self, caller: &str) -> RuleSet {
        let mut found = RuleSet::none(self.rules);
        if caller == ANONYMOUS {
            self.callers.find_literal(caller, &mut found);
        } else {
            self.callers.find(caller, &mut found);
        }
        found
    }

    /// Returns the rules that apply to a method.
    pub(super) const fn for_method(&self, method: Method) -> &RuleSet {
        match method {
            Method::IssueOtt => &self.issue,
            Method::LoginWithOtt => &self.login,
        }
    }

    /// Returns the rules that apply to an API client of this name.
    pub(super) fn for_api_client(&self, name: &str) -> RuleSet {
        let mut found = self.any_api_client.clone();
        self.api_clients.find(name, &mut found);
        found
    }

    /// Returns the rules that apply to all API clients.
    pub(super) const fn for_any_api_client(&self) -> &RuleSet {
        &self.any_api_client
    }

    /// Returns the rules that apply to a user.
    pub(super) fn for_user(&self, user: &Subject) -> RuleSet {
        let mut found = self.all_users.clone();
        let form = user.form();
        if let Some((_, patterns)) = self.users.iter().find(|(other, _)| form == Some(*other)) {
            patterns.find(user.canonical(), &mut found);
        }
        found
    }

    /// Returns the rules that apply to all users.
    pub(super) const fn for_all_users(&self) -> &RuleSet {
        &self.all_users
    }
}

fn is_for_any_api_client(rule: &RuleSettings) -> bool {
    rule.api_clients.as_ref().is_none_or(|globs| globs.iter().any(|glob| glob == "*"))
}

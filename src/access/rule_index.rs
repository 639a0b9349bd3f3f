//! Finds the rules that apply to a part of a call, without checking each rule.
//!
//! Each part of a call has a set of rules that apply to it, and the intersection of these sets
//! allows the call. `rules` makes the decision.

use std::borrow::Cow;

use super::{RuleSettings, TokenUse, glob_index::GlobIndex, rule_set::RuleSet};
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
    /// `None` if no rule limits the issuers of tokens.
    issuers: Option<Issuers>,
    /// The rules that allow login URLs. `None` if all do.
    login_urls: Option<RuleSet>,
    users: Vec<(SubjectForm, GlobIndex)>,
    all_users: RuleSet,
}

/// The rules by the callers that tokens were issued to.
#[derive(Debug)]
struct Issuers {
    callers: GlobIndex,
    /// The rules for any token, sealed or not.
    any_token: RuleSet,
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
            issuers: rules.iter().any(|rule| rule.issued_by.is_some()).then(|| Issuers {
                callers: globs_of(&|rule| rule.issued_by.as_deref().unwrap_or_default()),
                any_token: RuleSet::from_flags(rules.iter().map(|rule| rule.issued_by.is_none())),
            }),
            login_urls: rules
                .iter()
                .any(|rule| !rule.login_urls)
                .then(|| RuleSet::from_flags(rules.iter().map(|rule| rule.login_urls))),
            users: SubjectForm::ALL.into_iter().map(users).collect(),
            all_users: RuleSet::from_flags(rules.iter().map(|rule| rule.users == Users::All)),
        }
    }

    /// Returns the rules that name a caller. `anonymous` must be named literally; no glob matches
    /// it.
    pub(super) fn for_caller(&self, caller: &str) -> RuleSet {
        let mut found = RuleSet::none(self.rules);
        find_caller(&self.callers, caller, &mut found);
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

    /// Returns the rules that apply to a use of a token, regardless of the method. `None` if all do.
    pub(super) fn for_token_use(&self, token_use: TokenUse<'_>) -> Option<Cow<'_, RuleSet>> {
        match token_use {
            TokenUse::Issue { login_url: false } => None,
            TokenUse::Issue { login_url: true } => self.login_urls.as_ref().map(Cow::Borrowed),
            TokenUse::Login { issued_by: None } => Some(Cow::Borrowed(&self.issuers.as_ref()?.any_token)),
            TokenUse::Login { issued_by: Some(issuer) } => {
                let Issuers { callers, any_token } = self.issuers.as_ref()?;
                let mut found = any_token.clone();
                find_caller(callers, issuer, &mut found);
                Some(Cow::Owned(found))
            }
        }
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

/// Adds the rules with an entry that matches a caller. No glob matches `anonymous`.
fn find_caller(entries: &GlobIndex, caller: &str, found: &mut RuleSet) {
    if caller == ANONYMOUS {
        entries.find_literal(caller, found);
    } else {
        entries.find(caller, found);
    }
}

fn is_for_any_api_client(rule: &RuleSettings) -> bool {
    rule.api_clients.as_ref().is_none_or(|globs| globs.iter().any(|glob| glob == "*"))
}

//! Compares access rules exactly: which calls one set of rules allows and another does not.
//!
//! A call is a caller with its claims, a method, an API client and a user. A rule is a box of calls:
//! a product of one set for each part. What is left of one rule when others are subtracted is again
//! a list of boxes, in the words of the rules (`region`). A box is only kept if a possible call is in
//! it, which an automaton over the globs decides (`search`); that call is the box's example. No calls
//! are sampled. `catalog` finds the few rules that concern a box.
//!
//! * **Callers** are the names that `check-config --explain` accepts: of any kind of proof, and for
//!   tokens, those that the file configures. A token, a JWT issuer with a name or an API client that only
//!   one file has is only allowed by that file. Changes of `[callers.jwt]` and of certificates are not compared.
//! * **Claims** can be in any combination, because a claim can have several values. A box can
//!   therefore contain only tokens that no issuer signs.
//! * **Users** are compared in canonical form. Each name of an account counts as a user of its own,
//!   as in quotas. The names are exactly those that have this form: `combining` excludes sequences of
//!   combining marks that no folded login contains. Whether the platform has such a user is unknown.
//! * **Logins** are compared by the accounts whose session the caller may receive, although the
//!   request does not contain the user.
//!
//! Nothing is read or printed here. The result depends on nothing but the arguments, and work and
//! memory are bounded, in steps and not in time: [`compare`] and [`compare_quickly`] fail for rules
//! that combine in too many ways. The number of boxes can be exponential in the number of rules that
//! overlap a rule in several parts without containing it.
//!
//! An automaton per set of rules (one of all globs) is deliberately not built: each glob with a
//! leading `*` multiplies its states. `search` builds the few states that a question needs.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    access::{RuleSettings, Settings},
    caller::{ANONYMOUS, TOKEN_PREFIX, names_prefix},
    domain::{
        call::Method,
        ott::{SubjectForm, SubjectPattern, Users},
    },
};

mod atoms;
mod bits;
mod catalog;
mod claim_set;
mod combining;
mod covered;
mod ends_index;
mod glob;
mod name_set;
mod names;
mod quotas;
mod region;
mod report;
mod search;

use atoms::Atoms;
use bits::Bits;
use catalog::{Catalog, ScopeId};
use claim_set::ClaimsId;
pub use covered::{CoveredRule, covered_rules};
use region::{Others, Rest, Scope, Wanted, World};
pub use report::{Calls, Change, Comparison, Example, Names, Opening, QuotaChange, Respelling, RuleName};
use search::{Budget, Exhausted};

/// Maximum work of one comparison, in steps of at most ten nanoseconds in a release build: two seconds.
const MAX_STEPS: u64 = 200_000_000;
/// Maximum work of the search for rules that never decide, which every start does, and of the
/// comparison at a reload.
const MAX_QUICK_STEPS: u64 = 5_000_000;

/// The part of a configuration that decides calls.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// `[access]`.
    pub access: &'a Settings,
    /// The names in `[callers.tokens]`.
    pub tokens: &'a [&'a str],
    /// The names of the issuers in `[[callers.jwt]]`. `None` if the issuer has no name.
    pub jwt_issuers: Option<&'a [&'a str]>,
    /// The names in `[api_clients]`.
    pub api_clients: &'a [&'a str],
    /// The API client of calls that do not name one.
    pub default_api_client: Option<&'a str>,
}

/// One of the two files of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// The file before the change.
    Old,
    /// The file after the change.
    New,
}

/// The rules cannot be compared within the limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the rules combine in too many ways to compare them exactly; the comparison stopped at rule {rule} of the {} \
     file ({}): use fewer `*` and `?` in its globs, fewer required claims, or fewer rules that overlap it",
    match .file { File::Old => "old", File::New => "new" },
    .entries.join(", ")
)]
pub struct TooComplex {
    /// The file of the rule.
    pub file: File,
    /// The number of the rule, from 1.
    pub rule: usize,
    /// The entries of the rule with the most wildcards.
    pub entries: Vec<String>,
}

/// The rules cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotComparable {
    /// Not within the limits.
    #[error(transparent)]
    TooComplex(#[from] TooComplex),
    /// A rule limits the use of tokens, which is not compared.
    #[error(
        "rule {rule} of the {} file contains `{key}`, which cannot be compared: nothing is known about the change; \
         test the rules with [[access.tests]], or rehearse them as candidate rules",
        match .file { File::Old => "old", File::New => "new" },
    )]
    TokenLimit {
        /// The file of the rule.
        file: File,
        /// The number of the rule, from 1.
        rule: usize,
        /// The key.
        key: &'static str,
    },
}

/// A rule with the sets of names that it applies to.
#[derive(Debug)]
struct CompiledRule<'a> {
    number: usize,
    settings: &'a RuleSettings,
    scope: Scope,
}

/// The rules of one file, each with its number in a catalog of scopes.
type Numbered<'a, 'b> = [(&'a CompiledRule<'b>, ScopeId)];

/// The names of both files.
#[derive(Debug)]
struct Tables<'a> {
    world: World,
    api_clients: Vec<&'a str>,
    defaults: [Option<&'a str>; 2],
    /// Texts of what rules require, by their number.
    described_claims: RefCell<HashMap<ClaimsId, Arc<[String]>>>,
}

/// Compares the rules of two configurations.
///
/// # Errors
///
/// The comparison would take more than about two seconds, its report would be too large, or a rule limits
/// the use of tokens.
pub fn compare(old: Side<'_>, new: Side<'_>) -> Result<Comparison, NotComparable> {
    check_token_limits(old, new)?;
    Ok(compare_within(Budget::new(MAX_STEPS), old, new)?)
}

/// Like [`compare`], with the limit for work that delays a reload.
///
/// # Errors
///
/// The comparison would take more than about 50 milliseconds, or a rule limits the use of tokens.
pub fn compare_quickly(old: Side<'_>, new: Side<'_>) -> Result<Comparison, NotComparable> {
    check_token_limits(old, new)?;
    Ok(compare_within(Budget::new(MAX_QUICK_STEPS), old, new)?)
}

/// Refuses rules that limit the use of tokens. Without these limits, the result would be wrong.
fn check_token_limits(old: Side<'_>, new: Side<'_>) -> Result<(), NotComparable> {
    for (file, side) in [(File::Old, old), (File::New, new)] {
        for (rule, settings) in (1..).zip(&side.access.rules) {
            let limits = [("issued_by", settings.issued_by.is_some()), ("login_urls", !settings.login_urls)];
            if let Some((key, _)) = limits.into_iter().find(|(_, is_limit)| *is_limit) {
                return Err(NotComparable::TokenLimit { file, rule, key });
            }
        }
    }
    Ok(())
}

fn compare_within(budget: Budget, old: Side<'_>, new: Side<'_>) -> Result<Comparison, TooComplex> {
    let mut tables = Tables::new(&[old, new], budget);
    let (old_rules, new_rules) = (tables.compile(old), tables.compile(new));
    let (catalog, ids) = tables.catalog(old_rules.iter().chain(&new_rules).map(|rule| rule.scope.clone()));
    let (old_ids, new_ids) = ids.split_at(old_rules.len());
    let numbered =
        |rules, ids: &[ScopeId]| -> Vec<_> { std::iter::zip(rules, ids.iter().copied()).collect() };
    let (old_numbered, new_numbered) = (numbered(&old_rules, old_ids), numbered(&new_rules, new_ids));
    let opened = tables.allowed_only_by(&new_numbered, &old_numbered, &catalog, File::New)?;
    let closed = tables.allowed_only_by(&old_numbered, &new_numbered, &catalog, File::Old)?;
    let quotas = tables.changed_quotas(&old_rules, &new_rules)?;
    let respelled = [(File::Old, old), (File::New, new)];
    let respelled = respelled.into_iter().flat_map(|(file, side)| respelled_in(file, side.access)).collect();
    Ok(Comparison {
        opened,
        closed,
        quotas,
        settings: quotas::changed_settings(old.access, new.access),
        respelled,
    })
}

impl<'a> Tables<'a> {
    fn new(sides: &[Side<'a>], budget: Budget) -> Self {
        let tokens: BTreeSet<&str> = sides.iter().flat_map(|side| side.tokens).copied().collect();
        let tokens = tokens.into_iter().map(|name| format!("{TOKEN_PREFIX}{name}"));
        let clients: BTreeSet<&str> = sides.iter().flat_map(|side| side.api_clients).copied().collect();
        let default_of = |side: &Side<'a>| side.default_api_client;
        Self {
            world: World::new(std::iter::once(ANONYMOUS.to_owned()).chain(tokens).collect(), budget),
            api_clients: clients.into_iter().collect(),
            defaults: [sides.first().and_then(default_of), sides.last().and_then(default_of)],
            described_claims: RefCell::default(),
        }
    }

    fn catalog(&self, scopes: impl Iterator<Item = Scope>) -> (Catalog, Vec<ScopeId>) {
        let atoms: [&Atoms; 2] = [&self.world.callers.atoms, &self.world.users.atoms];
        Catalog::new(scopes, atoms)
    }

    fn compile(&mut self, side: Side<'a>) -> Vec<CompiledRule<'a>> {
        let tokens: HashSet<&str> = side.tokens.iter().copied().collect();
        let is_known =
            |name: &str| name.strip_prefix(TOKEN_PREFIX).is_none_or(|token| tokens.contains(token));
        let listed = self.world.callers.listed.iter().cloned().enumerate();
        let listed: Vec<(usize, String)> = listed.filter(|(_, name)| is_known(name)).collect();
        let clients: HashSet<&str> = side.api_clients.iter().copied().collect();
        let clients: Vec<(usize, &str)> =
            self.api_clients.iter().copied().enumerate().filter(|(_, name)| clients.contains(name)).collect();
        let jwt_prefixes = match side.jwt_issuers {
            Some(names) => names.iter().map(|name| names_prefix(Some(name))).collect(),
            None => vec![names_prefix(None)],
        };
        let rules = (1..).zip(&side.access.rules);
        rules
            .map(|(number, settings)| {
                let scope = self.scope(settings, &listed, &jwt_prefixes, &clients);
                CompiledRule { number, settings, scope }
            })
            .collect()
    }

    fn scope(
        &mut self,
        rule: &RuleSettings,
        listed: &[(usize, String)],
        jwt_prefixes: &[String],
        clients: &[(usize, &str)],
    ) -> Scope {
        let callers = &mut self.world.callers.atoms;
        let entries = rule.callers.iter();
        let mut callers: Vec<_> = if rule.claims.is_empty() {
            entries.flat_map(|entry| callers.add_caller(entry, listed, jwt_prefixes)).collect()
        } else {
            entries.flat_map(|entry| callers.add_jwt_callers(entry, jwt_prefixes)).collect()
        };
        let users = &mut self.world.users.atoms;
        let mut users: Vec<_> = match &rule.users {
            Users::All => vec![users.add_all_users()],
            Users::Listed(patterns) => patterns.iter().map(|pattern| users.add_users(pattern)).collect(),
        };
        for atoms in [&mut callers, &mut users] {
            atoms.sort_unstable();
            atoms.dedup();
        }
        let globs = rule.api_clients.as_ref();
        let globs: Option<Vec<glob::Glob>> =
            globs.map(|globs| globs.iter().map(|text| glob::Glob::new(text)).collect());
        let is_in =
            |name: &str| globs.as_ref().is_none_or(|globs| globs.iter().any(|glob| glob.matches(name)));
        let api_clients: Bits = clients.iter().filter(|(_, name)| is_in(name)).map(|(at, _)| *at).collect();
        Scope {
            callers: callers.into(),
            api_clients,
            users: users.into(),
            claims: self.world.claims.add(&rule.claims),
        }
    }

    /// Returns the calls that the rules of one file allow and those of the other do not, by the rule
    /// that allows them.
    fn allowed_only_by(
        &self,
        rules: &Numbered<'_, '_>,
        others: &Numbered<'_, '_>,
        catalog: &Catalog,
        file: File,
    ) -> Result<Vec<Opening>, TooComplex> {
        let mut openings: Vec<Opening> = Vec::new();
        // The rules that decide before the next one, by method.
        let mut before = METHODS.map(|method| {
            let others = others.iter().filter(|(rule, _)| rule.is_for(method));
            others.map(|(_, id)| *id).collect::<Bits>()
        });
        for (rule, id) in rules {
            let found = self.openings_of(rule, *id, &before, catalog);
            openings.extend(found.map_err(|Exhausted| rule.too_complex(file))?);
            for (method, before) in METHODS.into_iter().zip(&mut before) {
                if rule.is_for(method) {
                    before.insert(*id);
                }
            }
        }
        Ok(openings)
    }

    /// Returns the calls that one rule allows and those before it do not.
    fn openings_of(
        &self,
        rule: &CompiledRule<'_>,
        id: ScopeId,
        before: &[Bits; 2],
        catalog: &Catalog,
    ) -> Result<Vec<Opening>, Exhausted> {
        let mut openings: Vec<Opening> = Vec::new();
        let methods: Vec<usize> = (0..METHODS.len()).filter(|at| rule.is_for(METHODS[*at])).collect();
        for (position, &at) in methods.iter().enumerate() {
            let (method, scopes) = (METHODS[at], &before[at]);
            if scopes.contains(id) {
                continue;
            }
            if methods[..position].iter().any(|&first| before[first] == *scopes) {
                // Most rules are for all methods.
                for opening in openings.clone() {
                    let calls = Calls { method, ..opening.calls };
                    openings.push(Opening { calls, ..opening });
                }
                continue;
            }
            let Rest { regions, .. } = self.world.rest(id, Others { catalog, scopes }, Wanted::All)?;
            openings.extend(self.openings(regions, method, rule)?);
        }
        Ok(openings)
    }
}

const METHODS: [Method; 2] = [Method::IssueOtt, Method::LoginWithOtt];

impl CompiledRule<'_> {
    fn is_for(&self, method: Method) -> bool {
        self.settings.methods.as_ref().is_none_or(|methods| methods.contains(&method))
    }

    /// Returns whether the rule allows the method without a limit on the use of tokens. A rule that
    /// does not covers no other.
    fn is_for_all_tokens(&self, method: Method) -> bool {
        self.is_for(method)
            && match method {
                Method::IssueOtt => self.settings.login_urls,
                Method::LoginWithOtt => self.settings.issued_by.is_none(),
            }
    }

    fn too_complex(&self, file: File) -> TooComplex {
        const MAX_SHOWN: usize = 3;
        let users = match &self.settings.users {
            Users::All => &[][..],
            Users::Listed(patterns) => patterns,
        };
        let users = users.iter().map(|pattern| format!("{}:{}", pattern.kind().field(), pattern.text()));
        let mut entries: Vec<String> = self.settings.callers.iter().cloned().chain(users).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.matches(['*', '?']).count()));
        entries.truncate(MAX_SHOWN);
        TooComplex { file, rule: self.number, entries }
    }
}

/// Returns the patterns of a file that are compared in another spelling.
fn respelled_in(file: File, access: &Settings) -> Vec<Respelling> {
    let mut found = Vec::new();
    for (number, rule) in (1..).zip(&access.rules) {
        let Users::Listed(patterns) = &rule.users else { continue };
        for pattern in patterns {
            found.extend(compared_as(pattern).map(|compared| Respelling {
                file,
                rule: number,
                written: format!("{}:{}", pattern.kind().field(), pattern.text()),
                compared: format!("{}:{compared}", pattern.kind().field()),
            }));
        }
    }
    found
}

/// Returns the spelling in which a pattern is compared, if it is another one than the written one.
fn compared_as(pattern: &SubjectPattern) -> Option<&str> {
    let mut compared = None;
    for (form, glob) in pattern.globs().filter(|(_, glob)| *glob != pattern.text()) {
        // Of a pattern of user ids, the spelling for UUIDs.
        if compared.is_none() || form == SubjectForm::Uuid {
            compared = Some(glob);
        }
    }
    compared
}

#[cfg(test)]
mod tests;

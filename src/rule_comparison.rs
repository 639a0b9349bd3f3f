//! Compares access rules exactly: which calls one set of rules allows and another does not.
//!
//! A call is a caller with its claims, a method, an API client, a user, and what the call does with the
//! token (`kind`). A rule is a box of calls of each kind:
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
//! * **Issuers** of sealed tokens are all names that a caller can have: another gateway with the same
//!   keys may have issued the token.
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
    rc::Rc,
    sync::Arc,
};

use crate::{
    access::{RuleSettings, Settings},
    caller::{ANONYMOUS, TOKEN_PREFIX, names_prefix},
    domain::ott::{SubjectForm, SubjectPattern, Users},
};

mod atoms;
mod bits;
mod catalog;
mod claim_set;
mod combining;
mod covered;
mod ends_index;
mod glob;
mod kind;
mod merging;
mod name_set;
mod names;
mod quotas;
mod region;
mod report;
mod search;

use atoms::{AtomId, Atoms};
use bits::Bits;
use catalog::{Catalog, Scope, ScopeId};
use claim_set::ClaimsId;
pub use covered::{CoveredRule, covered_rules};
pub use kind::CallKind;
use kind::Kinds;
use merging::merged;
use region::{Others, Wanted, World};
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
    /// Whether there is a `[token_binding]`, without which no token can be sealed or opened.
    pub has_token_binding: bool,
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

/// A rule with the sets of names that it applies to.
#[derive(Debug)]
struct CompiledRule<'a> {
    number: usize,
    settings: &'a RuleSettings,
    /// Of all kinds of calls but sealed logins.
    scope: Scope,
    /// The callers that sealed tokens are issued to; `None` if sealed tokens are no kind of their own.
    issuers: Option<Rc<[AtomId]>>,
}

/// The numbers of a rule's scopes in a catalog: of sealed logins, and of all other kinds of calls.
#[derive(Clone, Copy, Debug)]
struct ScopeIds {
    sealed: ScopeId,
    other: ScopeId,
}

/// The rules of one file, each with its numbers in a catalog of scopes.
type Numbered<'a, 'b> = [(&'a CompiledRule<'b>, ScopeIds)];

/// The names of both files.
#[derive(Debug)]
struct Tables<'a> {
    world: World,
    kinds: Kinds,
    api_clients: Vec<&'a str>,
    defaults: [Option<&'a str>; 2],
    /// Texts of what rules require, by their number.
    described_claims: RefCell<HashMap<ClaimsId, Arc<[String]>>>,
}

/// Compares the rules of two configurations.
///
/// # Errors
///
/// The comparison would take more than about two seconds, or its report would be too large.
pub fn compare(old: Side<'_>, new: Side<'_>) -> Result<Comparison, TooComplex> {
    compare_within(Budget::new(MAX_STEPS), old, new)
}

/// Like [`compare`], with the limit for work that delays a reload.
///
/// # Errors
///
/// The comparison would take more than about 50 milliseconds.
pub fn compare_quickly(old: Side<'_>, new: Side<'_>) -> Result<Comparison, TooComplex> {
    compare_within(Budget::new(MAX_QUICK_STEPS), old, new)
}

fn compare_within(budget: Budget, old: Side<'_>, new: Side<'_>) -> Result<Comparison, TooComplex> {
    let mut tables = Tables::new(&[old, new], budget);
    let (old_rules, new_rules) = (tables.compile(old), tables.compile(new));
    let (catalog, ids) = tables.catalog_of_rules(old_rules.iter().chain(&new_rules));
    let (old_ids, new_ids) = ids.split_at(old_rules.len());
    let numbered =
        |rules, ids: &[ScopeIds]| -> Vec<_> { std::iter::zip(rules, ids.iter().copied()).collect() };
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
            kinds: Kinds::of(sides),
            world: World::new(std::iter::once(ANONYMOUS.to_owned()).chain(tokens).collect(), budget),
            api_clients: clients.into_iter().collect(),
            defaults: [sides.first().and_then(default_of), sides.last().and_then(default_of)],
            described_claims: RefCell::default(),
        }
    }

    fn catalog(&self, scopes: impl Iterator<Item = Scope>) -> (Catalog, Vec<ScopeId>) {
        let World { callers, users, issuers, .. } = &self.world;
        let atoms: [&Atoms; 3] = [&callers.atoms, &users.atoms, &issuers.atoms];
        Catalog::new(scopes, atoms)
    }

    /// Returns the catalog of the rules' scopes, with the numbers of each rule.
    fn catalog_of_rules<'b>(
        &self,
        rules: impl Iterator<Item = &'b CompiledRule<'a>>,
    ) -> (Catalog, Vec<ScopeIds>)
    where
        'a: 'b,
    {
        let kinds = [CallKind::LoginSealed, CallKind::Login];
        let (catalog, ids) = self.catalog(rules.flat_map(|rule| kinds.map(|kind| rule.scope_of(kind))));
        let (of_rules, _) = ids.as_chunks();
        (catalog, of_rules.iter().map(|&[sealed, other]| ScopeIds { sealed, other }).collect())
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
                CompiledRule { number, settings, scope, issuers: self.issuers(settings) }
            })
            .collect()
    }

    fn issuers(&mut self, rule: &RuleSettings) -> Option<Rc<[AtomId]>> {
        if !self.kinds.have_sealed_tokens() {
            return None;
        }
        let everyone = [EVERY_NAME.to_owned(), ANONYMOUS.to_owned()];
        let listed: Vec<(usize, String)> = self.world.issuers.listed.iter().cloned().enumerate().collect();
        let entries = rule.issued_by.as_deref().unwrap_or(&everyone).iter();
        let issuers = &mut self.world.issuers.atoms;
        let mut issuers: Vec<AtomId> = entries.map(|entry| issuers.add_issuer(entry, &listed)).collect();
        issuers.sort_unstable();
        issuers.dedup();
        Some(issuers.into())
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
            issuers: None,
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
        let kinds = &self.kinds.of_calls;
        // The rules that decide before the next one, by kind of calls.
        let before = kinds.iter().map(|&kind| {
            let others = others.iter().filter(|(rule, _)| rule.is_for(kind));
            others.map(|(_, ids)| ids.of(kind)).collect()
        });
        let mut before: Vec<Bits> = before.collect();
        for (rule, ids) in rules {
            let found = self.openings_of(rule, *ids, &before, catalog);
            openings.extend(found.map_err(|Exhausted| rule.too_complex(file))?);
            for (&kind, before) in kinds.iter().zip(&mut before) {
                if rule.is_for(kind) {
                    before.insert(ids.of(kind));
                }
            }
        }
        Ok(openings)
    }

    /// Returns the calls that one rule allows and those before it do not. `before` are those rules by
    /// kind of calls.
    fn openings_of(
        &self,
        rule: &CompiledRule<'_>,
        ids: ScopeIds,
        before: &[Bits],
        catalog: &Catalog,
    ) -> Result<Vec<Opening>, Exhausted> {
        let mut of_kinds: Vec<(ScopeId, &Bits, Vec<Opening>)> = Vec::new();
        for (&kind, scopes) in self.kinds.of_calls.iter().zip(before) {
            let id = ids.of(kind);
            if !rule.is_for(kind) || scopes.contains(id) {
                continue;
            }
            // Most rules are for all kinds of calls.
            let same = of_kinds.iter().find(|(other, others, _)| (*other, *others) == (id, scopes));
            let openings = if let Some((_, _, openings)) = same {
                openings.iter().map(|opening| opening.with_kind(kind)).collect()
            } else {
                let others = Others { catalog, scopes };
                self.openings(self.world.rest(id, others, Wanted::All)?.regions, kind, rule)?
            };
            of_kinds.push((id, scopes, openings));
        }
        let openings = of_kinds.into_iter().flat_map(|(_, _, openings)| openings);
        Ok(merged(openings.collect(), |opening| &mut opening.calls, |opening| opening.rule.number))
    }
}

/// The glob that matches every name of a caller but `anonymous`.
const EVERY_NAME: &str = "*";

impl ScopeIds {
    const fn of(self, kind: CallKind) -> ScopeId {
        match kind {
            CallKind::LoginSealed => self.sealed,
            _ => self.other,
        }
    }
}

impl CompiledRule<'_> {
    fn is_for(&self, kind: CallKind) -> bool {
        kind.is_of(self.settings)
    }

    /// Returns the calls of a kind that the rule applies to, if it is for this kind.
    fn scope_of(&self, kind: CallKind) -> Scope {
        let issuers = self.issuers.clone().filter(|_| kind == CallKind::LoginSealed);
        Scope { issuers, ..self.scope.clone() }
    }

    fn too_complex(&self, file: File) -> TooComplex {
        const MAX_SHOWN: usize = 3;
        let users = match &self.settings.users {
            Users::All => &[][..],
            Users::Listed(patterns) => patterns,
        };
        let users = users.iter().map(|pattern| format!("{}:{}", pattern.kind().field(), pattern.text()));
        let issuers = self.settings.issued_by.iter().flatten();
        let callers = self.settings.callers.iter().chain(issuers).cloned();
        let mut entries: Vec<String> = callers.chain(users).collect();
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

//! Compares access rules exactly: which calls one set of rules allows and another does not.
//!
//! A call is a caller with its claims, a method, an API client and a user. A rule is a box of calls:
//! a product of one set for each part. What is left of one rule when others are subtracted is again
//! a list of boxes, in the words of the rules. A box is only kept if a possible call is in it, which
//! an automaton over the globs decides; that call is the box's example. No calls are sampled.
//!
//! * **Callers** are the names that `check-config --explain` accepts: of any kind of proof, and for
//!   tokens, those that the file configures. A token, a JWT issuer with a name or an API client that only
//!   one file has is only allowed by that file. Changes of `[callers.jwt]` and of certificates are not compared.
//! * **Claims** can be in any combination, because a claim can have several values.
//! * **Users** are compared in canonical form. Each name of an account counts as a user of its own,
//!   as in quotas.
//! * **Logins** are compared by the accounts whose session the caller may receive, although the
//!   request does not contain the user.
//!
//! Nothing is read or printed here. The result depends on nothing but the arguments, and the work is
//! bounded: [`compare`] and [`compare_quickly`] fail for globs that combine in too many ways.
//!
//! An automaton per set of rules (one of all globs) is deliberately not built: each glob with a
//! leading `*` multiplies its states. `search` builds the few states that a question needs.

use std::collections::{BTreeSet, HashSet};

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
mod claim_set;
mod glob;
mod name_set;
mod names;
mod quotas;
mod region;
mod report;
mod search;

use bits::Bits;
use region::{Scope, World};
pub use report::{Calls, Change, Comparison, Example, Names, Opening, QuotaChange, Respelling, RuleName};
use search::Exhausted;

/// Maximum work of one comparison, in steps of about ten nanoseconds.
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

/// The names of both files.
#[derive(Debug)]
struct Tables<'a> {
    world: World,
    api_clients: Vec<&'a str>,
    defaults: [Option<&'a str>; 2],
}

/// Compares the rules of two configurations.
///
/// # Errors
///
/// The comparison would take more than a few seconds, or a rule limits the use of tokens.
pub fn compare(old: Side<'_>, new: Side<'_>) -> Result<Comparison, NotComparable> {
    check_token_limits(old, new)?;
    Ok(compare_within(MAX_STEPS, old, new)?)
}

/// Like [`compare`], with the limit for work that delays a reload.
///
/// # Errors
///
/// The comparison would take more than about 50 milliseconds, or a rule limits the use of tokens.
pub fn compare_quickly(old: Side<'_>, new: Side<'_>) -> Result<Comparison, NotComparable> {
    check_token_limits(old, new)?;
    Ok(compare_within(MAX_QUICK_STEPS, old, new)?)
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

fn compare_within(steps: u64, old: Side<'_>, new: Side<'_>) -> Result<Comparison, TooComplex> {
    let mut tables = Tables::new(&[old, new], steps);
    let (old_rules, new_rules) = (tables.compile(old), tables.compile(new));
    let opened = tables.allowed_only_by(&new_rules, &old_rules, File::New)?;
    let closed = tables.allowed_only_by(&old_rules, &new_rules, File::Old)?;
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

/// A rule that never decides a call, because earlier rules allow all of its calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoveredRule {
    /// The number of the rule, from 1.
    pub rule: usize,
    /// The numbers of the earlier rules that together allow its calls.
    pub by: Vec<usize>,
}

/// Finds the rules that never decide a call. `None` if this would take too long.
#[must_use]
pub fn covered_rules(side: Side<'_>) -> Option<Vec<CoveredRule>> {
    let mut tables = Tables::new(&[side], MAX_QUICK_STEPS);
    let rules = tables.compile(side);
    tables.covered(&rules).ok()
}

impl<'a> Tables<'a> {
    fn new(sides: &[Side<'a>], steps: u64) -> Self {
        let tokens: BTreeSet<&str> = sides.iter().flat_map(|side| side.tokens).copied().collect();
        let tokens = tokens.into_iter().map(|name| format!("{TOKEN_PREFIX}{name}"));
        let clients: BTreeSet<&str> = sides.iter().flat_map(|side| side.api_clients).copied().collect();
        let default_of = |side: &Side<'a>| side.default_api_client;
        Self {
            world: World::new(std::iter::once(ANONYMOUS.to_owned()).chain(tokens).collect(), steps),
            api_clients: clients.into_iter().collect(),
            defaults: [sides.first().and_then(default_of), sides.last().and_then(default_of)],
        }
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
            claims: rule.claims.as_slice().into(),
        }
    }

    /// Returns the calls that the rules of one file allow and those of the other do not, by the rule
    /// that allows them.
    fn allowed_only_by(
        &mut self,
        rules: &[CompiledRule<'_>],
        others: &[CompiledRule<'_>],
        file: File,
    ) -> Result<Vec<Opening>, TooComplex> {
        let mut openings = Vec::new();
        for method in METHODS {
            let others: Vec<&Scope> = scopes_for(others, method).collect();
            let known: HashSet<&Scope> = others.iter().copied().collect();
            let mut earlier: Vec<&Scope> = Vec::new();
            for rule in rules.iter().filter(|rule| rule.is_for(method)) {
                if !known.contains(&rule.scope) {
                    let covers: Vec<&Scope> = others.iter().chain(&earlier).copied().collect();
                    let regions = self.world.rest(&rule.scope, &covers, &mut Vec::new());
                    let found = regions.and_then(|regions| self.openings(regions, method, rule));
                    openings.extend(found.map_err(|Exhausted| rule.too_complex(file))?);
                }
                earlier.push(&rule.scope);
            }
        }
        openings.sort_by_key(|opening| opening.rule.number);
        Ok(openings)
    }

    fn covered(&mut self, rules: &[CompiledRule<'_>]) -> Result<Vec<CoveredRule>, Exhausted> {
        let mut covered = Vec::new();
        for (position, rule) in rules.iter().enumerate() {
            let mut by = BTreeSet::new();
            let mut is_covered = true;
            for method in METHODS.into_iter().filter(|method| rule.is_for(*method)) {
                let earlier = rules.iter().take(position).filter(|earlier| earlier.is_for_all_tokens(method));
                let earlier: Vec<&CompiledRule<'_>> = earlier.collect();
                let scopes: Vec<&Scope> = earlier.iter().map(|rule| &rule.scope).collect();
                let mut used = Vec::new();
                if !self.world.rest(&rule.scope, &scopes, &mut used)?.is_empty() {
                    is_covered = false;
                    break;
                }
                let used = self.needed(&rule.scope, &earlier, used)?;
                by.extend(used.into_iter().map(|at| earlier[at].number));
            }
            if is_covered && !by.is_empty() {
                covered.push(CoveredRule { rule: rule.number, by: by.into_iter().collect() });
            }
        }
        Ok(covered)
    }

    /// Leaves out rules without which the others still cover a rule, as far as they are few.
    fn needed(
        &mut self,
        rule: &Scope,
        earlier: &[&CompiledRule<'_>],
        mut used: Vec<usize>,
    ) -> Result<Vec<usize>, Exhausted> {
        const MAX_TRIED: usize = 16;
        if used.len() > MAX_TRIED {
            return Ok(used);
        }
        for at in (0..used.len()).rev() {
            let mut fewer = used.clone();
            fewer.remove(at);
            let scopes: Vec<&Scope> = fewer.iter().map(|&position| &earlier[position].scope).collect();
            if self.world.rest(rule, &scopes, &mut Vec::new())?.is_empty() {
                used = fewer;
            }
        }
        Ok(used)
    }
}

const METHODS: [Method; 2] = [Method::IssueOtt, Method::LoginWithOtt];

fn scopes_for<'a>(rules: &'a [CompiledRule<'_>], method: Method) -> impl Iterator<Item = &'a Scope> {
    rules.iter().filter(move |rule| rule.is_for(method)).map(|rule| &rule.scope)
}

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

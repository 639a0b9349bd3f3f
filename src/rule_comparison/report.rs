//! The result of a comparison, in the words of the rules.

use std::{fmt, sync::Arc};

use super::{
    CallKind, CompiledRule, EVERY_NAME, File, Tables,
    atoms::{ALL_USERS, AtomId, FOLDED_USERS},
    bits::Bits,
    name_set::{Dimension, NameSet, Witness},
    region::Region,
    search::{Budget, Exhausted},
};
use crate::{access::TokenUse, caller::Claims};

/// Size of a description without its lists, in entries.
const BOX_ENTRIES: usize = 40;

/// The differences between two configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Calls that only the new file allows, in the order of its rules.
    pub opened: Vec<Opening>,
    /// Calls that only the old file allows, in the order of its rules.
    pub closed: Vec<Opening>,
    /// Calls that both files allow with different quotas.
    pub quotas: Vec<QuotaChange>,
    /// Changed keys of `[access]`, which apply to all rules.
    pub settings: Vec<Change>,
    /// Patterns that are compared in another spelling than they have in the file.
    pub respelled: Vec<Respelling>,
}

/// Calls that only one of two files allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The calls.
    pub calls: Calls,
    /// The rule that allows them, the first one if there are several.
    pub rule: RuleName,
    /// One of the calls.
    pub example: Example,
}

/// Calls that both files allow, with different quotas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaChange {
    /// The calls.
    pub calls: Calls,
    /// The rule of the old file that sets the quotas.
    pub old_rule: RuleName,
    /// The rule of the new file that sets the quotas.
    pub new_rule: RuleName,
    /// The quotas that differ, at least one.
    pub changes: Vec<Change>,
    /// One of the calls.
    pub example: Example,
}

/// A set of calls of one kind: each combination of a caller, a user, an API client, and the caller that
/// a sealed token was issued to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Calls {
    /// The callers.
    pub callers: Names,
    /// Required claims of the caller's JWT: `PATH = VALUE`, or several accepted values.
    pub claims: Vec<String>,
    /// Combinations of claims that the callers do not have.
    pub without_claims: Arc<[Arc<[String]>]>,
    /// The kind of calls.
    pub kind: CallKind,
    /// The users; for a login, those whose session the caller may receive.
    pub users: Names,
    /// The API clients; `None` for all that the file configures.
    pub api_clients: Option<Vec<String>>,
    /// The callers that the sealed tokens were issued to; `None` for all.
    pub issuers: Option<Names>,
}

/// A set of names, as a list of globs with exceptions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Names {
    /// The globs, at least one.
    pub any_of: Arc<[Arc<str>]>,
    /// Further lists of globs, of each of which one must match.
    pub and: Vec<Arc<[Arc<str>]>>,
    /// Globs whose names are not in the set.
    pub except: Arc<[Arc<str>]>,
}

/// A call, as `check-config --explain` reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The caller.
    pub caller: String,
    /// The claims of its JWT.
    pub claims: Claims,
    /// The user with its kind, for a login that of the account. `None` if quotas of logins differ that
    /// do not depend on the user.
    pub user: Option<String>,
    /// The API client; `None` if it is the default in both files.
    pub api_client: Option<String>,
    /// The caller that the sealed token was issued to. `None` for a token that is not sealed.
    pub issued_by: Option<String>,
}

/// A rule of one of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleName {
    /// The number of the rule, from 1.
    pub number: usize,
    /// `name` of the rule.
    pub name: Option<Arc<str>>,
}

/// A key with different values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    /// The key.
    pub key: &'static str,
    /// The value in the old file.
    pub old: String,
    /// The value in the new file.
    pub new: String,
}

/// A pattern that is compared in another spelling than it has in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respelling {
    /// The file.
    pub file: File,
    /// The number of the rule, from 1.
    pub rule: usize,
    /// The pattern as written, with the kind of users.
    pub written: String,
    /// The canonical form.
    pub compared: String,
}

impl Calls {
    /// Returns whether other calls are the same except for their kind.
    #[must_use]
    pub fn differ_only_in_kind(&self, other: &Self) -> bool {
        let Self { callers, claims, without_claims, kind, users, api_clients, issuers } = other;
        self.kind != *kind
            && self.callers == *callers
            && self.users == *users
            && self.claims == *claims
            && self.api_clients == *api_clients
            && self.without_claims == *without_claims
            && self.issuers == *issuers
    }
}

impl Opening {
    /// Returns the same calls of another kind of which no issuer is compared.
    pub(super) fn with_kind(&self, kind: CallKind) -> Self {
        Self { calls: Calls { kind, ..self.calls.clone() }, ..self.clone() }
    }
}

impl Example {
    /// Returns what the call does with a token, if it is one of calls of this kind.
    #[must_use]
    pub fn token_use(&self, kind: CallKind) -> TokenUse<'_> {
        match kind {
            CallKind::IssueWithUrl => TokenUse::Issue { login_url: true },
            CallKind::Issue | CallKind::IssueWithoutUrl => TokenUse::Issue { login_url: false },
            CallKind::Login | CallKind::LoginUnsealed | CallKind::LoginSealed => {
                TokenUse::Login { issued_by: self.issued_by.as_deref() }
            }
        }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.any_of.join(", "))?;
        for list in &self.and {
            write!(f, " and {}", list.join(", "))?;
        }
        if !self.except.is_empty() {
            write!(f, " except {}", self.except.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "rule {} ({name})", self.number),
            None => write!(f, "rule {}", self.number),
        }
    }
}

impl CompiledRule<'_> {
    pub(super) fn name(&self) -> RuleName {
        RuleName { number: self.number, name: self.settings.name.clone() }
    }
}

impl Tables<'_> {
    /// Returns the regions as parts of the report.
    pub(super) fn openings(
        &self,
        regions: Vec<Region>,
        kind: CallKind,
        rule: &CompiledRule<'_>,
    ) -> Result<Vec<Opening>, Exhausted> {
        let mut openings = Vec::new();
        for region in self.describable(regions)? {
            let (calls, example) = (self.calls(&region, kind)?, self.example(&region, true)?);
            openings.push(Opening { calls, rule: rule.name(), example });
        }
        Ok(openings)
    }

    /// Splits regions into those that have a description.
    pub(super) fn describable(&self, regions: Vec<Region>) -> Result<Vec<Region>, Exhausted> {
        let mut all = Vec::with_capacity(regions.len());
        for region in regions {
            all.extend(describable(&self.world.callers, region, &self.world.budget)?);
        }
        Ok(all)
    }

    /// Describes the calls of a region.
    pub(super) fn calls(&self, region: &Region, kind: CallKind) -> Result<Calls, Exhausted> {
        let world = &self.world;
        let is_all = (0..self.api_clients.len()).all(|at| region.api_clients.contains(at));
        let issuers = region.issuers.as_ref().filter(|set| !world.issuers.is_everyone(set));
        let names = || region.api_clients.iter().map(|at| self.api_clients[at].to_owned()).collect();
        Ok(Calls {
            callers: describe(&world.callers, &region.callers, &world.budget)?,
            claims: world.claims.describe_met(&region.claims.met),
            without_claims: self.without_claims(&region.claims.unmet)?,
            kind,
            users: describe(&world.users, &region.users, &world.budget)?,
            api_clients: if is_all { None } else { Some(names()) },
            issuers: issuers.map(|set| describe(&world.issuers, set, &world.budget)).transpose()?,
        })
    }

    /// Describes the requirements that are not met. Equal texts are shared, because each of many
    /// boxes can exclude all other rules.
    fn without_claims(&self, unmet: &Bits) -> Result<Arc<[Arc<[String]>]>, Exhausted> {
        let mut described = self.described_claims.borrow_mut();
        let mut all = Vec::new();
        for id in unmet.iter() {
            self.world.budget.spend_entries(1)?;
            all.push(Arc::clone(described.entry(id).or_insert_with(|| self.world.claims.describe(id))));
        }
        Ok(all.into())
    }

    /// Returns a call of a region, with a user unless the decision does not depend on it.
    pub(super) fn example(&self, region: &Region, has_user: bool) -> Result<Example, Exhausted> {
        let world = &self.world;
        let member = |dimension: &Dimension, set: &NameSet| {
            let member = dimension.member(set, &world.budget)?.ok_or(Exhausted)?;
            Ok(dimension.text(&member))
        };
        let caller = member(&world.callers, &region.callers)?;
        let claims = world.claims.find(&region.claims, &world.budget)?.unwrap_or_default();
        let user = if has_user { Some(member(&world.users, &region.users)?) } else { None };
        let issued_by = region.issuers.as_ref().map(|set| member(&world.issuers, set)).transpose()?;
        let clients = || region.api_clients.iter().map(|at| self.api_clients[at]);
        // A default of only one of the files must be named as well.
        let [old, new] = self.defaults;
        let default = old.filter(|name| Some(*name) == new && clients().any(|other| other == *name));
        let api_client = if default.is_some() { None } else { clients().next().map(str::to_owned) };
        Ok(Example { caller, claims, user, api_client, issued_by })
    }
}

impl Dimension {
    /// Returns whether a set of issuers is obviously that of all callers.
    fn is_everyone(&self, set: &NameSet) -> bool {
        let NameSet { base, also, except, listed, .. } = set;
        also.is_empty()
            && except.is_empty()
            && (0..self.listed.len()).all(|at| listed.contains(at))
            && base.iter().any(|&atom| &*self.atoms.get(atom).text == EVERY_NAME)
    }
}

fn has_names(dimension: &Dimension, set: &NameSet, budget: &Budget) -> Result<bool, Exhausted> {
    Ok(match dimension.member(set, budget)? {
        Some(Witness::Name(..)) => true,
        _ => dimension.find_name(set, budget)?.is_some(),
    })
}

/// Splits a region whose callers one list of globs with exceptions does not describe: a token that
/// only one file has can be in it although the globs of an exception match it.
fn describable(callers: &Dimension, region: Region, budget: &Budget) -> Result<Vec<Region>, Exhausted> {
    let set = &region.callers;
    budget.spend(2 * callers.listed.len() * (set.base.len() + set.except.len()))?;
    let is_described = |at: usize| {
        let excluding: Vec<AtomId> =
            set.except.iter().copied().filter(|&atom| !callers.atoms.get(atom).globs.is_empty()).collect();
        callers.is_matched(set, &excluding, at)
    };
    if set.listed.iter().all(is_described) || !has_names(callers, set, budget)? {
        return Ok(vec![region]);
    }
    let (names, listed) = (Dimension::only_names(set), callers.only_listed(set));
    Ok(vec![Region { callers: names, ..region.clone() }, Region { callers: listed, ..region }])
}

/// Describes a set that is not empty.
fn describe(dimension: &Dimension, set: &NameSet, budget: &Budget) -> Result<Names, Exhausted> {
    let entries = set.base.len() + set.except.len() + set.also.iter().map(|list| list.len()).sum::<usize>();
    budget.spend_entries(BOX_ENTRIES / 2 + entries)?;
    budget.spend(2 * dimension.listed.len() * entries)?;
    let texts = |atoms: &[AtomId]| -> Vec<Arc<str>> {
        atoms.iter().map(|&atom| Arc::clone(&dimension.atoms.get(atom).text)).collect()
    };
    let none = || Arc::from([]);
    if !has_names(dimension, set, budget)? {
        let all_users = set.base.iter().all(|&atom| &*dimension.atoms.get(atom).text == ALL_USERS);
        let any_of = if set.listed.contains(FOLDED_USERS) && all_users && !set.base.is_empty() {
            vec![Arc::from("users whose names contain forms of ASCII characters, which no pattern matches")]
        } else {
            set.listed.iter().map(|at| Arc::from(&*dimension.listed[at])).collect()
        };
        return Ok(Names { any_of: any_of.into(), and: Vec::new(), except: none() });
    }
    let excluding: Vec<AtomId> =
        set.except.iter().copied().filter(|&atom| !dimension.atoms.get(atom).globs.is_empty()).collect();
    let (any_of, mut except) = (texts(&set.base), texts(&excluding));
    // The globs of the set also match tokens that are not in it.
    for (at, name) in dimension.listed.iter().enumerate() {
        if !set.listed.contains(at) && dimension.is_matched(set, &excluding, at) {
            except.push(Arc::from(&**name));
        }
    }
    let and = set.also.iter().map(|atoms| texts(atoms).into()).collect();
    Ok(Names { any_of: any_of.into(), and, except: except.into() })
}

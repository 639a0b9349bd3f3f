//! The rules that are subtracted from others, and which of them concern a set of callers, users,
//! issuers, API clients or claims.
//!
//! Most rules of a file have nothing to do with each other, and most of the others differ in one part
//! only. The catalog finds both without looking at each pair of rules.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use super::{
    atoms::{AtomId, Atoms},
    bits::Bits,
    claim_set::{ClaimSet, ClaimTable, ClaimsId},
    ends_index::EndsIndex,
    name_set::NameSet,
    names::Space,
    search::{Budget, Exhausted},
};

/// Number of a scope in its catalog. Equal scopes have one number.
pub(super) type ScopeId = usize;

/// The calls of one kind that a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    /// Sorted.
    pub(super) callers: Rc<[AtomId]>,
    pub(super) api_clients: Bits,
    /// Sorted.
    pub(super) users: Rc<[AtomId]>,
    pub(super) claims: ClaimsId,
    /// The callers that the token was issued to, sorted. `None` for kinds of calls of which this is not
    /// compared, in all scopes.
    pub(super) issuers: Option<Rc<[AtomId]>>,
}

/// Different scopes of rules.
#[derive(Debug)]
pub(super) struct Catalog {
    scopes: Vec<Scope>,
    callers: Names,
    users: Names,
    issuers: Names,
    /// All scopes.
    everything: Rc<Reach>,
    /// The scopes with an API client, by its position.
    of_api_client: Vec<Bits>,
    /// The scopes that require claims, by their number.
    of_claims: Vec<Bits>,
}

/// Which scopes concern a set of one part of calls.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    /// The scopes that may have a member in common with it. Others have none.
    pub(super) meets: Bits,
    /// Scopes that contain it; not all of them.
    pub(super) covers: Bits,
}

/// The atoms of callers, of users, or of issuers.
#[derive(Debug)]
struct Names {
    scopes_of: HashMap<AtomId, Bits>,
    ends: Vec<(Space, EndsIndex)>,
    /// The scopes with a name that is listed one by one, by its position.
    of_listed: Vec<Bits>,
    reach: RefCell<HashMap<AtomId, Rc<Reach>>>,
}

impl Catalog {
    /// Creates the catalog of these scopes, and returns their numbers.
    pub(super) fn new(
        scopes: impl Iterator<Item = Scope>,
        [callers, users, issuers]: [&Atoms; 3],
    ) -> (Self, Vec<ScopeId>) {
        let mut known: HashMap<Scope, ScopeId> = HashMap::new();
        let mut all: Vec<Scope> = Vec::new();
        let numbers = scopes
            .map(|scope| {
                *known.entry(scope).or_insert_with_key(|scope| {
                    all.push(scope.clone());
                    all.len() - 1
                })
            })
            .collect();
        let (mut of_api_client, mut of_claims) = (Vec::new(), Vec::new());
        for (id, scope) in all.iter().enumerate() {
            for client in scope.api_clients.iter() {
                insert(&mut of_api_client, client, id);
            }
            insert(&mut of_claims, scope.claims, id);
        }
        let catalog = Self {
            callers: Names::new(all.iter().map(|scope| &*scope.callers), callers),
            users: Names::new(all.iter().map(|scope| &*scope.users), users),
            issuers: Names::new(
                all.iter().map(|scope| scope.issuers.as_deref().unwrap_or_default()),
                issuers,
            ),
            everything: {
                let everything: Bits = (0..all.len()).collect();
                Rc::new(Reach { meets: everything.clone(), covers: everything })
            },
            scopes: all,
            of_api_client,
            of_claims,
        };
        (catalog, numbers)
    }

    pub(super) fn len(&self) -> usize {
        self.scopes.len()
    }

    /// Returns all scopes.
    pub(super) fn all(&self) -> Bits {
        (0..self.scopes.len()).collect()
    }

    pub(super) fn get(&self, id: ScopeId) -> &Scope {
        &self.scopes[id]
    }

    /// Returns the scopes that require any of these claims, by their numbers.
    pub(super) fn with_claims(&self, claims: &Bits) -> Bits {
        let mut scopes = Bits::default();
        for scopes_of in claims.iter().filter_map(|id| self.of_claims.get(id)) {
            scopes.add(scopes_of);
        }
        scopes
    }

    pub(super) fn reach_of_callers(
        &self,
        set: &NameSet,
        atoms: &Atoms,
        budget: &Budget,
    ) -> Result<Rc<Reach>, Exhausted> {
        self.callers.reach_of(set, atoms, self.scopes.len(), budget)
    }

    pub(super) fn reach_of_users(
        &self,
        set: &NameSet,
        atoms: &Atoms,
        budget: &Budget,
    ) -> Result<Rc<Reach>, Exhausted> {
        self.users.reach_of(set, atoms, self.scopes.len(), budget)
    }

    /// `None` is the set of all issuers, for calls of which the issuer is not compared.
    pub(super) fn reach_of_issuers(
        &self,
        set: Option<&NameSet>,
        atoms: &Atoms,
        budget: &Budget,
    ) -> Result<Rc<Reach>, Exhausted> {
        match set {
            Some(set) => self.issuers.reach_of(set, atoms, self.scopes.len(), budget),
            None => Ok(Rc::clone(&self.everything)),
        }
    }

    pub(super) fn reach_of_api_clients(&self, set: &Bits) -> Rc<Reach> {
        let mut reach = Reach { covers: self.all(), ..Reach::default() };
        for client in set.iter() {
            let scopes = self.of_api_client.get(client).cloned().unwrap_or_default();
            reach.meets.add(&scopes);
            reach.covers.keep(&scopes);
        }
        Rc::new(reach)
    }

    pub(super) fn reach_of_claims(
        &self,
        set: &ClaimSet,
        table: &ClaimTable,
        budget: &Budget,
    ) -> Result<Rc<Reach>, Exhausted> {
        budget.spend(self.scopes.len() / 8)?;
        let mut reach = Reach { meets: self.all(), ..Reach::default() };
        // Claims that meet what implies an unmet rule would meet that rule.
        for unmet in set.unmet.iter() {
            for claims in table.stronger(unmet, budget)?.iter() {
                budget.spend(1)?;
                if let Some(scopes) = self.of_claims.get(claims) {
                    reach.meets.subtract(scopes);
                }
            }
        }
        for claims in table.implied_by(&set.met, budget)?.iter() {
            if let Some(scopes) = self.of_claims.get(claims) {
                reach.covers.add(scopes);
            }
        }
        Ok(Rc::new(reach))
    }
}

impl Names {
    fn new<'a, I: Iterator<Item = &'a [AtomId]>>(scopes: I, atoms: &Atoms) -> Self {
        let mut scopes_of: HashMap<AtomId, Bits> = HashMap::new();
        let mut of_listed = Vec::new();
        for (id, scope) in scopes.enumerate() {
            for &atom in scope {
                scopes_of.entry(atom).or_default().insert(id);
                for listed in atoms.get(atom).listed.iter() {
                    insert(&mut of_listed, listed, id);
                }
            }
        }
        let mut ends = Vec::new();
        for space in Space::ISSUERS.into_iter().chain(Space::USERS) {
            let globs = scopes_of.keys().filter_map(|&id| Some((atoms.get(id).glob_in(space)?, id)));
            ends.push((space, EndsIndex::new(globs)));
        }
        Self { scopes_of, ends, of_listed, reach: RefCell::default() }
    }

    fn reach_of(
        &self,
        set: &NameSet,
        atoms: &Atoms,
        scopes: usize,
        budget: &Budget,
    ) -> Result<Rc<Reach>, Exhausted> {
        let words = scopes / 64 + 1;
        let mut reach = self.reach_of_union(&set.base, atoms, scopes, budget)?;
        for list in &set.also {
            let also = self.reach_of_union(list, atoms, scopes, budget)?;
            reach.meets.keep(&also.meets);
            reach.covers.add(&also.covers);
        }
        for listed in set.listed.iter() {
            budget.spend(words)?;
            let scopes = self.of_listed.get(listed).cloned().unwrap_or_default();
            reach.meets.add(&scopes);
            reach.covers.keep(&scopes);
        }
        Ok(Rc::new(reach))
    }

    fn reach_of_union(
        &self,
        union: &[AtomId],
        atoms: &Atoms,
        scopes: usize,
        budget: &Budget,
    ) -> Result<Reach, Exhausted> {
        let mut reach = Reach { covers: (0..scopes).collect(), ..Reach::default() };
        for &atom in union {
            budget.spend(10 + scopes / 64)?;
            let of_atom = self.reach_of_atom(atom, atoms, scopes, budget)?;
            reach.meets.add(&of_atom.meets);
            reach.covers.keep(&of_atom.covers);
        }
        Ok(reach)
    }

    fn reach_of_atom(
        &self,
        id: AtomId,
        atoms: &Atoms,
        scopes: usize,
        budget: &Budget,
    ) -> Result<Rc<Reach>, Exhausted> {
        if let Some(known) = self.reach.borrow().get(&id) {
            return Ok(Rc::clone(known));
        }
        let atom = atoms.get(id);
        let mut reach = Reach::default();
        for listed in atom.listed.iter() {
            if let Some(scopes) = self.of_listed.get(listed) {
                reach.meets.add(scopes);
            }
        }
        if atom.globs.is_empty() {
            reach.covers = (0..scopes).collect();
            for listed in atom.listed.iter() {
                reach.covers.keep(self.of_listed.get(listed).unwrap_or(&Bits::default()));
            }
        }
        let mut candidates = Vec::new();
        for (space, ends) in &self.ends {
            if let Some(glob) = atom.glob_in(*space) {
                ends.for_candidates(glob, |other| candidates.push(other));
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        for other in candidates {
            let Some(scopes) = self.scopes_of.get(&other) else { continue };
            let relation = atoms.relation(id, other, budget)?;
            if !relation.is_disjoint {
                reach.meets.add(scopes);
            }
            if relation.is_within {
                reach.covers.add(scopes);
            }
        }
        let reach = Rc::new(reach);
        self.reach.borrow_mut().insert(id, Rc::clone(&reach));
        Ok(reach)
    }
}

/// Adds a scope to the set at a position.
fn insert(sets: &mut Vec<Bits>, position: usize, scope: ScopeId) {
    if sets.len() <= position {
        sets.resize_with(position + 1, Bits::default);
    }
    sets[position].insert(scope);
}

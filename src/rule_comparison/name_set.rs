//! Sets of callers or users, as unions of entries with exceptions.
//!
//! The sets of a comparison stay in the words of the rules, so that a report can show them:
//! `base`, limited to the names that are also in each list of `also`, without `except`. Whether any
//! name is left is decided by `search`.

use std::{collections::HashSet, rc::Rc};

use super::{
    atoms::{ALL_USERS, AtomId, Atoms, folded_user, user_text},
    bits::Bits,
    glob::Glob,
    names::Space,
    search::{Budget, Exhausted, Search},
};
use crate::caller::ANONYMOUS;

/// A set of names.
#[derive(Clone, Debug)]
pub(super) struct NameSet {
    pub(super) base: Vec<AtomId>,
    pub(super) also: Vec<Rc<[AtomId]>>,
    pub(super) except: Vec<AtomId>,
    /// The members that are listed one by one; the lists above apply to all other names.
    pub(super) listed: Bits,
    witness: Option<Witness>,
}

/// A member of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Witness {
    Listed(usize),
    Name(Space, String),
}

/// The atoms and the names that are listed one by one, of callers or of users.
#[derive(Debug)]
pub(super) struct Dimension {
    pub(super) atoms: Atoms,
    pub(super) spaces: &'static [Space],
    pub(super) listed: Vec<String>,
}

impl Dimension {
    pub(super) fn users() -> Self {
        Self { atoms: Atoms::default(), spaces: &Space::USERS, listed: vec![folded_user()] }
    }

    /// Returns the text of a member.
    pub(super) fn text(&self, witness: &Witness) -> String {
        match witness {
            Witness::Listed(position) => self.listed.get(*position).cloned().unwrap_or_default(),
            Witness::Name(space, name) => user_text(*space, name),
        }
    }

    /// Returns whether the globs of a set, with these exceptions, match a name that is listed one by
    /// one, regardless of whether it is a member.
    pub(super) fn is_matched(&self, set: &NameSet, except: &[AtomId], at: usize) -> bool {
        let matches = |atoms: &[AtomId]| {
            atoms.iter().any(|&atom| match &*self.atoms.get(atom).text {
                text if self.listed[at] == ANONYMOUS => text == ANONYMOUS,
                // Only this set of users has a member that is listed.
                text if self.spaces == Space::USERS => text == ALL_USERS,
                text => Glob::new(text).matches(&self.listed[at]),
            })
        };
        matches(&set.base) && set.also.iter().all(|atoms| matches(atoms)) && !matches(except)
    }

    /// Returns the members of a set that are not listed one by one.
    pub(super) fn only_names(set: &NameSet) -> NameSet {
        let witness = set.witness.clone().filter(|witness| matches!(witness, Witness::Name(..)));
        NameSet { listed: Bits::default(), witness, ..set.clone() }
    }

    /// Returns the members of a set that are listed one by one.
    pub(super) fn only_listed(&self, set: &NameSet) -> NameSet {
        let witness = set.listed.iter().next().map(Witness::Listed);
        NameSet { witness, listed: set.listed.clone(), ..self.union(&[]) }
    }

    /// Returns the set of the names in any of the atoms.
    pub(super) fn union(&self, atoms: &[AtomId]) -> NameSet {
        NameSet {
            base: atoms.to_vec(),
            also: Vec::new(),
            except: Vec::new(),
            listed: self.listed_in(atoms),
            witness: None,
        }
    }

    fn listed_in(&self, atoms: &[AtomId]) -> Bits {
        let mut listed = Bits::default();
        for &atom in atoms {
            listed.add(&self.atoms.get(atom).listed);
        }
        listed
    }

    /// Returns whether a set and a union of atoms may have a common name.
    pub(super) fn may_meet(
        &mut self,
        set: &NameSet,
        atoms: &[AtomId],
        budget: &Budget,
    ) -> Result<bool, Exhausted> {
        if self.atoms.may_meet(&set.base, atoms, budget)? {
            return Ok(true);
        }
        // A token can be listed apart from the atoms that match it.
        Ok(set.listed.intersects(&self.listed_in(atoms)))
    }

    /// Returns the names of a set that are also in any of the atoms, or `None` if there are none.
    pub(super) fn common(
        &mut self,
        set: &NameSet,
        atoms: &[AtomId],
        budget: &Budget,
    ) -> Result<Option<NameSet>, Exhausted> {
        let mut base = Vec::new();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let mut is_simple = true;
        for &one in &set.base {
            for &other in atoms {
                let relation = self.atoms.relation(one, other, budget)?;
                if relation.is_disjoint {
                    continue;
                }
                ours.push(one);
                theirs.push(other);
                if relation.is_within {
                    base.push(one);
                } else if self.atoms.relation(other, one, budget)?.is_within {
                    base.push(other);
                } else {
                    is_simple = false;
                }
            }
        }
        let mut also = set.also.clone();
        if !is_simple {
            dedup(&mut theirs);
            also.push(theirs.into());
            base = ours;
        }
        dedup(&mut base);
        let listed = set.listed.and(&self.listed_in(atoms));
        let except = self.of_use(&base, &set.except, budget)?;
        let witness = set.witness.clone();
        self.inhabited(NameSet { base, also, except, listed, witness }, budget)
    }

    /// Returns the names of a set that are in none of the atoms, or `None` if there are none.
    pub(super) fn rest(
        &mut self,
        set: &NameSet,
        atoms: &[AtomId],
        budget: &Budget,
    ) -> Result<Option<NameSet>, Exhausted> {
        let mut base = Vec::new();
        'base: for &one in &set.base {
            for &other in atoms {
                if self.atoms.relation(one, other, budget)?.is_within {
                    continue 'base;
                }
            }
            base.push(one);
        }
        let mut except = set.except.clone();
        except.extend(atoms);
        dedup(&mut except);
        let except = self.of_use(&base, &except, budget)?;
        let listed = set.listed.without(&self.listed_in(atoms));
        let (also, witness) = (set.also.clone(), set.witness.clone());
        self.inhabited(NameSet { base, also, except, listed, witness }, budget)
    }

    /// Returns the exceptions that exclude anything of `base`, without those within others.
    fn of_use(
        &mut self,
        base: &[AtomId],
        except: &[AtomId],
        budget: &Budget,
    ) -> Result<Vec<AtomId>, Exhausted> {
        let mut kept = Vec::new();
        for &one in except {
            for &other in base {
                if !self.atoms.relation(one, other, budget)?.is_disjoint {
                    kept.push(one);
                    break;
                }
            }
        }
        Ok(kept)
    }

    /// Returns the set with a member, or `None` if it is empty.
    fn inhabited(&self, mut set: NameSet, budget: &Budget) -> Result<Option<NameSet>, Exhausted> {
        budget.spend(1 + set.except.len())?;
        let known = set.witness.take().filter(|witness| self.contains(&set, witness));
        let witness = match known {
            Some(witness) => Some(witness),
            None => self.find(&set, budget)?,
        };
        Ok(witness.map(|witness| NameSet { witness: Some(witness), ..set }))
    }

    /// Returns a member of a set.
    pub(super) fn member(&self, set: &NameSet, budget: &Budget) -> Result<Option<Witness>, Exhausted> {
        match &set.witness {
            Some(witness) => Ok(Some(witness.clone())),
            None => self.find(set, budget),
        }
    }

    fn find(&self, set: &NameSet, budget: &Budget) -> Result<Option<Witness>, Exhausted> {
        if let Some(witness) = self.find_name(set, budget)? {
            return Ok(Some(witness));
        }
        Ok(set.listed.iter().next().map(Witness::Listed))
    }

    /// Returns a member that is not listed one by one.
    pub(super) fn find_name(&self, set: &NameSet, budget: &Budget) -> Result<Option<Witness>, Exhausted> {
        // Names that people can read, before shortest ones.
        const MAX_TRIED: usize = 8;
        for &atom in set.base.iter().take(MAX_TRIED) {
            for &space in self.spaces {
                let atom = self.atoms.get(atom);
                if !atom.globs.iter().any(|(other, _)| *other == space) {
                    continue;
                }
                for name in atom.candidates(space) {
                    budget.spend(1 + set.except.len())?;
                    let witness = Witness::Name(space, name);
                    if self.contains(set, &witness) {
                        return Ok(Some(witness));
                    }
                }
            }
        }
        for &space in self.spaces {
            let globs = |atoms: &[AtomId]| -> Vec<&Glob> {
                let globs = atoms.iter().flat_map(|&atom| &self.atoms.get(atom).globs);
                globs.filter(|(other, _)| *other == space).map(|(_, glob)| glob).collect()
            };
            let mut wanted = vec![globs(&set.base)];
            wanted.extend(set.also.iter().map(|atoms| globs(atoms)));
            if wanted.iter().any(Vec::is_empty) {
                continue;
            }
            let search = Search { space, wanted: &wanted, excluded: &globs(&set.except) };
            if let Some(name) = search.find(budget)? {
                return Ok(Some(Witness::Name(space, name)));
            }
        }
        Ok(None)
    }

    fn contains(&self, set: &NameSet, witness: &Witness) -> bool {
        match witness {
            Witness::Listed(position) => set.listed.contains(*position),
            Witness::Name(space, name) => {
                let is_in =
                    |atoms: &[AtomId]| atoms.iter().any(|&atom| self.atoms.get(atom).contains(*space, name));
                is_in(&set.base)
                    && set.also.iter().all(|atoms| is_in(atoms))
                    && !is_in(&set.except)
                    && space.contains(name)
            }
        }
    }
}

fn dedup(atoms: &mut Vec<AtomId>) {
    let mut seen = HashSet::new();
    atoms.retain(|atom| seen.insert(*atom));
}

//! Sets of callers, users or issuers, as unions of entries with exceptions.
//!
//! The sets of a comparison stay in the words of the rules, so that a report can show them:
//! `base`, limited to the names that are also in each list of `also`, without `except`. Whether any
//! name is left is decided by `search`.

use std::{collections::HashSet, rc::Rc};

use super::{
    atoms::{AtomId, Atoms, folded_user, user_text},
    bits::Bits,
    glob::Glob,
    names::Space,
    search::{Budget, Exhausted, Search},
};
use crate::caller::ANONYMOUS;

/// Work of matching a name against a glob, in steps.
const STEPS_PER_GLOB: usize = 5;

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

/// The atoms and the names that are listed one by one, of callers, of users or of
/// issuers.
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

    /// The callers that tokens are issued to.
    pub(super) fn issuers() -> Self {
        Self { atoms: Atoms::default(), spaces: &Space::ISSUERS, listed: vec![ANONYMOUS.to_owned()] }
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
        let name = &self.listed[at];
        let matches = |atoms: &[AtomId]| atoms.iter().any(|&atom| self.atoms.get(atom).matches_listed(name));
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

    /// Returns the names of a set that are also in any of the atoms, or `None` if there are none.
    pub(super) fn common(
        &self,
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
        let (except, witness) = (set.except.clone(), set.witness.clone());
        self.inhabited(NameSet { base, also, except, listed, witness }, budget)
    }

    /// Returns the names of a set that are in none of the atoms, or `None` if there are none.
    pub(super) fn rest(
        &self,
        set: &NameSet,
        atoms: &[AtomId],
        budget: &Budget,
    ) -> Result<Option<NameSet>, Exhausted> {
        let mut except = set.except.clone();
        except.extend(atoms);
        dedup(&mut except);
        let listed = set.listed.without(&self.listed_in(atoms));
        let (base, also, witness) = (set.base.clone(), set.also.clone(), set.witness.clone());
        self.inhabited(NameSet { base, also, except, listed, witness }, budget)
    }

    /// Leaves out the entries of a set without which it is the same.
    fn simplify(&self, set: &mut NameSet, budget: &Budget) -> Result<(), Exhausted> {
        /// Exceptions within others are only looked for in short lists, because all pairs are compared.
        const MAX_COMPARED: usize = 64;
        let NameSet { base, also, except, .. } = set;
        try_retain(base, |_, atom| Ok(!self.is_within_any(atom, except, budget)?))?;
        try_retain(except, |_, atom| {
            for list in std::iter::once(&**base).chain(also.iter().map(|list| &**list)) {
                if !self.meets_any(atom, list, budget)? {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        if except.len() <= MAX_COMPARED {
            let all = except.clone();
            try_retain(except, |at, atom| {
                for (position, &other) in all.iter().enumerate().filter(|(position, _)| *position != at) {
                    let is_within = self.atoms.relation(atom, other, budget)?.is_within;
                    // Of equal ones, the first stays.
                    if is_within && (position < at || !self.atoms.relation(other, atom, budget)?.is_within) {
                        return Ok(false);
                    }
                }
                Ok(true)
            })?;
        }
        let mut at = 0;
        while at < also.len() {
            let mut is_implied = self.is_part(base, &also[at], budget)?;
            for (position, other) in also.iter().enumerate().filter(|(position, _)| *position != at) {
                is_implied = is_implied
                    || (self.is_part(other, &also[at], budget)?
                        && (position < at || !self.is_part(&also[at], other, budget)?));
            }
            if is_implied {
                also.remove(at);
            } else {
                at += 1;
            }
        }
        Ok(())
    }

    /// Returns whether each atom of a list is obviously within one of another list.
    fn is_part(&self, list: &[AtomId], of: &[AtomId], budget: &Budget) -> Result<bool, Exhausted> {
        for &atom in list {
            if !self.is_within_any(atom, of, budget)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_within_any(&self, atom: AtomId, others: &[AtomId], budget: &Budget) -> Result<bool, Exhausted> {
        for &other in others {
            if self.atoms.relation(atom, other, budget)?.is_within {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn meets_any(&self, atom: AtomId, others: &[AtomId], budget: &Budget) -> Result<bool, Exhausted> {
        for &other in others {
            if !self.atoms.relation(atom, other, budget)?.is_disjoint {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the set with a member, or `None` if it is empty.
    fn inhabited(&self, mut set: NameSet, budget: &Budget) -> Result<Option<NameSet>, Exhausted> {
        self.simplify(&mut set, budget)?;
        budget.spend(set.match_steps())?;
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

    /// Returns whether a name is in any of the atoms.
    pub(super) fn is_in_any(
        &self,
        atoms: &[AtomId],
        witness: &Witness,
        budget: &Budget,
    ) -> Result<bool, Exhausted> {
        budget.spend(STEPS_PER_GLOB * atoms.len())?;
        Ok(atoms.iter().map(|&atom| self.atoms.get(atom)).any(|atom| match witness {
            Witness::Listed(position) => atom.listed.contains(*position),
            Witness::Name(space, name) => atom.contains(*space, name),
        }))
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
                    budget.spend(set.match_steps())?;
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

impl NameSet {
    /// Returns the work of matching a name against all entries, in steps.
    fn match_steps(&self) -> usize {
        const STEPS_PER_NAME: usize = 20;
        let also: usize = self.also.iter().map(|list| list.len()).sum();
        STEPS_PER_NAME + STEPS_PER_GLOB * (self.base.len() + also + self.except.len())
    }
}

/// Keeps the atoms for which a function of their position returns `true`.
fn try_retain(
    atoms: &mut Vec<AtomId>,
    mut keep: impl FnMut(usize, AtomId) -> Result<bool, Exhausted>,
) -> Result<(), Exhausted> {
    let mut kept = Vec::with_capacity(atoms.len());
    for (position, &atom) in atoms.iter().enumerate() {
        if keep(position, atom)? {
            kept.push(atom);
        }
    }
    *atoms = kept;
    Ok(())
}

fn dedup(atoms: &mut Vec<AtomId>) {
    let mut seen = HashSet::new();
    atoms.retain(|atom| seen.insert(*atom));
}

//! Sets of claims that JWTs may have.
//!
//! The claims that a rule requires have a number in a [`ClaimTable`], which contains for each value
//! which requirements accept it. The search for claims therefore looks only at the rules that a
//! chosen value can concern, and not at all of them.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc};

use super::{
    bits::Bits,
    search::{Budget, Exhausted},
};
use crate::caller::{ClaimPath, ClaimRequirement, ClaimValue, Claims};

/// Number of what a rule requires.
pub(super) type ClaimsId = usize;
/// Number of one requirement.
type RequirementId = usize;

/// Work of finding the requirements that accept a value, in steps.
const LOOKUP_STEPS: usize = 20;

/// Requires no claims.
pub(super) const NO_CLAIMS: ClaimsId = 0;

/// What the rules of a comparison require of claims.
#[derive(Debug)]
pub(super) struct ClaimTable {
    /// What one rule requires, by its number, in the order of the file.
    sets: Vec<Box<[RequirementId]>>,
    requirements: Vec<Requirement>,
    /// Sorted.
    known_sets: HashMap<Box<[RequirementId]>, ClaimsId>,
    known_requirements: HashMap<ClaimRequirement, RequirementId>,
    of_path: HashMap<ClaimPath, Vec<RequirementId>>,
    /// The requirements that accept a value of a claim.
    accepting: HashMap<(ClaimPath, ClaimValue), Bits>,
    /// By number, the rules whose requirements imply those of this one. Computed at first use.
    stronger: RefCell<HashMap<ClaimsId, Rc<Bits>>>,
}

#[derive(Debug)]
struct Requirement {
    claim: ClaimRequirement,
    /// The numbers of what rules require that contain this requirement.
    sets: Bits,
}

/// The claims that meet all requirements of some rules, and not those of others.
#[derive(Clone, Debug, Default)]
pub(super) struct ClaimSet {
    pub(super) met: Vec<ClaimsId>,
    /// Each of a rule with at least one requirement, and none that another one of them implies.
    pub(super) unmet: Bits,
}

impl ClaimTable {
    pub(super) fn new() -> Self {
        let mut table = Self {
            sets: Vec::new(),
            requirements: Vec::new(),
            known_sets: HashMap::new(),
            known_requirements: HashMap::new(),
            of_path: HashMap::new(),
            accepting: HashMap::new(),
            stronger: RefCell::default(),
        };
        table.add(&[]);
        table
    }

    /// Adds what a rule requires. The same requirements have the same number in any order.
    pub(super) fn add(&mut self, required: &[ClaimRequirement]) -> ClaimsId {
        let set: Vec<RequirementId> =
            required.iter().map(|required| self.add_requirement(required)).collect();
        let mut sorted = set.clone();
        sorted.sort_unstable();
        let next = self.sets.len();
        let id = *self.known_sets.entry(sorted.into()).or_insert(next);
        if id == next {
            for &requirement in &set {
                self.requirements[requirement].sets.insert(id);
            }
            self.sets.push(set.into());
            self.stronger.get_mut().clear();
        }
        id
    }

    fn add_requirement(&mut self, required: &ClaimRequirement) -> RequirementId {
        let mut claim = required.clone();
        claim.values.sort_unstable();
        claim.values.dedup();
        let next = self.requirements.len();
        let id = *self.known_requirements.entry(claim.clone()).or_insert(next);
        if id == next {
            self.of_path.entry(claim.path.clone()).or_default().push(id);
            for value in &claim.values {
                self.accepting.entry((claim.path.clone(), value.clone())).or_default().insert(id);
            }
            self.requirements.push(Requirement { claim, sets: Bits::default() });
        }
        id
    }

    /// Returns what a rule requires as texts.
    pub(super) fn describe(&self, id: ClaimsId) -> Arc<[String]> {
        let set = self.sets[id].iter();
        set.map(|&requirement| describe(&self.requirements[requirement].claim)).collect()
    }

    /// Returns what some rules require together as texts, each requirement once.
    pub(super) fn describe_met(&self, met: &[ClaimsId]) -> Vec<String> {
        let mut all: Vec<RequirementId> = Vec::new();
        for &requirement in met.iter().flat_map(|&id| &self.sets[id]) {
            if !all.contains(&requirement) {
                all.push(requirement);
            }
        }
        let claim = |requirement: RequirementId| &self.requirements[requirement].claim;
        let is_implied = |&one: &RequirementId| {
            all.iter().any(|&other| other != one && is_stronger(claim(other), claim(one)))
        };
        all.iter().filter(|one| !is_implied(one)).map(|&one| describe(claim(one))).collect()
    }

    /// Returns the requirements that claims meet that meet all of these.
    fn implied_requirements(&self, met: &[ClaimsId], budget: &Budget) -> Result<Bits, Exhausted> {
        let mut implied = Bits::default();
        for &requirement in met.iter().flat_map(|&id| &self.sets[id]) {
            let claim = &self.requirements[requirement].claim;
            let others = self.of_path.get(&claim.path).map_or(&[][..], Vec::as_slice);
            budget.spend(others.len())?;
            for &other in others {
                budget.spend(claim.values.len())?;
                if is_stronger(claim, &self.requirements[other].claim) {
                    implied.insert(other);
                }
            }
        }
        Ok(implied)
    }

    /// Returns what rules require of all claims that meet these requirements.
    pub(super) fn implied_by(&self, met: &[ClaimsId], budget: &Budget) -> Result<Bits, Exhausted> {
        let implied = self.implied_requirements(met, budget)?;
        self.met_by(&implied, budget)
    }

    /// Returns what rules require that implies these requirements, including themselves.
    pub(super) fn stronger(&self, id: ClaimsId, budget: &Budget) -> Result<Rc<Bits>, Exhausted> {
        if let Some(known) = self.stronger.borrow().get(&id) {
            return Ok(Rc::clone(known));
        }
        let mut found = Bits::default();
        // Those that contain a requirement of the path of the first requirement.
        let first = self.sets[id].first().map(|&first| &self.requirements[first].claim.path);
        let of_path = first.and_then(|path| self.of_path.get(path)).map_or(&[][..], Vec::as_slice);
        let mut candidates = Bits::default();
        for &requirement in of_path {
            candidates.add(&self.requirements[requirement].sets);
        }
        budget.spend(of_path.len())?;
        for candidate in candidates.iter() {
            if self.implies(candidate, id, budget)? {
                found.insert(candidate);
            }
        }
        let found = Rc::new(found);
        self.stronger.borrow_mut().insert(id, Rc::clone(&found));
        Ok(found)
    }

    fn implies(&self, one: usize, other: usize, budget: &Budget) -> Result<bool, Exhausted> {
        for &weaker in &self.sets[other] {
            let weaker = &self.requirements[weaker].claim;
            let mut is_implied = false;
            for &requirement in &self.sets[one] {
                let claim = &self.requirements[requirement].claim;
                budget.spend(1 + claim.values.len())?;
                is_implied = is_stronger(claim, weaker);
                if is_implied {
                    break;
                }
            }
            if !is_implied {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns what rules require that contains one of these requirements.
    fn concerned(&self, requirements: &Bits) -> Bits {
        let mut sets = Bits::default();
        for requirement in requirements.iter() {
            sets.add(&self.requirements[requirement].sets);
        }
        sets
    }

    /// Returns claims of a set, or `None` if it is empty.
    pub(super) fn find(&self, set: &ClaimSet, budget: &Budget) -> Result<Option<Claims>, Exhausted> {
        Ok(self.find_values(set, budget)?.map(Claims::new))
    }

    /// Returns what rules require that the example of a set meets, or `None` if the set is empty.
    pub(super) fn met_by_example(&self, set: &ClaimSet, budget: &Budget) -> Result<Option<Bits>, Exhausted> {
        let Some(values) = self.find_values(set, budget)? else { return Ok(None) };
        let mut accepting = Bits::default();
        for value in values {
            budget.spend(LOOKUP_STEPS)?;
            self.accepting.get(&value).into_iter().for_each(|requirements| accepting.add(requirements));
        }
        self.met_by(&accepting, budget).map(Some)
    }

    /// Returns what rules require that contains only these requirements.
    fn met_by(&self, requirements: &Bits, budget: &Budget) -> Result<Bits, Exhausted> {
        let mut met: Bits = [NO_CLAIMS].into_iter().collect();
        for id in self.concerned(requirements).iter() {
            budget.spend(self.sets[id].len())?;
            if self.sets[id].iter().all(|&requirement| requirements.contains(requirement)) {
                met.insert(id);
            }
        }
        Ok(met)
    }

    /// More claims never meet fewer requirements, so claims with one accepted value for each
    /// requirement are enough to try.
    fn find_values(
        &self,
        set: &ClaimSet,
        budget: &Budget,
    ) -> Result<Option<Vec<(ClaimPath, ClaimValue)>>, Exhausted> {
        if set.unmet.contains(NO_CLAIMS) {
            return Ok(None);
        }
        let required: Vec<RequirementId> =
            set.met.iter().flat_map(|&id| self.sets[id].iter().copied()).collect();
        let mut chosen = Vec::new();
        let found = self.choose(&required, &set.unmet, &Bits::default(), &mut chosen, budget)?;
        Ok(found.then_some(chosen))
    }

    /// `accepting` are the requirements that the chosen values meet.
    fn choose(
        &self,
        required: &[RequirementId],
        unmet: &Bits,
        accepting: &Bits,
        chosen: &mut Vec<(ClaimPath, ClaimValue)>,
        budget: &Budget,
    ) -> Result<bool, Exhausted> {
        let is_met = |requirement: &RequirementId| accepting.contains(*requirement);
        let Some(at) = required.iter().position(|requirement| !is_met(requirement)) else { return Ok(true) };
        let rest = &required[at + 1..];
        let claim = &self.requirements[required[at]].claim;
        for value in &claim.values {
            budget.spend(LOOKUP_STEPS)?;
            let key = (claim.path.clone(), value.clone());
            let Some(added) = self.accepting.get(&key) else { continue };
            let mut accepting = accepting.clone();
            accepting.add(added);
            let mut concerned = self.concerned(added);
            concerned.keep(unmet);
            let mut is_allowed = true;
            for id in concerned.iter() {
                budget.spend(1 + self.sets[id].len())?;
                if self.sets[id].iter().all(|&requirement| accepting.contains(requirement)) {
                    is_allowed = false;
                    break;
                }
            }
            if !is_allowed {
                continue;
            }
            chosen.push(key);
            if self.choose(rest, unmet, &accepting, chosen, budget)? {
                return Ok(true);
            }
            chosen.pop();
        }
        Ok(false)
    }
}

impl ClaimSet {
    /// Returns the claims that also meet what a rule requires, or `None` if there are none.
    pub(super) fn common(
        &self,
        id: ClaimsId,
        table: &ClaimTable,
        budget: &Budget,
    ) -> Result<Option<Self>, Exhausted> {
        let mut set = self.clone();
        if id != NO_CLAIMS && !set.met.contains(&id) {
            set.met.push(id);
        }
        Ok(table.find(&set, budget)?.map(|_| set))
    }

    /// Returns the claims that do not meet what any of these rules require, or `None` if there are none.
    pub(super) fn rest(
        &self,
        ids: &Bits,
        table: &ClaimTable,
        budget: &Budget,
    ) -> Result<Option<Self>, Exhausted> {
        let mut all = self.unmet.clone();
        all.add(ids);
        let mut unmet = all.clone();
        for id in all.iter().filter(|&id| id != NO_CLAIMS) {
            if unmet.contains(id) {
                let stronger = table.stronger(id, budget)?;
                unmet.subtract(&stronger);
                unmet.insert(id);
            }
        }
        let set = Self { met: self.met.clone(), unmet };
        Ok(table.find(&set, budget)?.map(|_| set))
    }
}

/// Returns whether each claim that meets one requirement also meets another one. The values are sorted.
fn is_stronger(one: &ClaimRequirement, other: &ClaimRequirement) -> bool {
    one.path == other.path
        && one.values.len() <= other.values.len()
        && one.values.iter().all(|value| other.values.binary_search(value).is_ok())
}

fn describe(required: &ClaimRequirement) -> String {
    let values: Vec<String> = required.values.iter().map(ToString::to_string).collect();
    format!("{} = {}", required.path, values.join(" or "))
}

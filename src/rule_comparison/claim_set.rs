//! Sets of claims that JWTs may have.

use std::rc::Rc;

use super::search::{Budget, Exhausted};
use crate::caller::{ClaimPath, ClaimRequirement, ClaimValue, Claims};

/// What one rule requires.
pub(super) type Requirements = Rc<[ClaimRequirement]>;

/// The claims that meet all requirements of some rules, and not those of others.
#[derive(Clone, Debug, Default)]
pub(super) struct ClaimSet {
    pub(super) met: Vec<Requirements>,
    /// Each of a rule with at least one requirement.
    pub(super) unmet: Vec<Requirements>,
}

impl ClaimSet {
    pub(super) fn meet(&mut self, requirements: &Requirements) {
        if !requirements.is_empty() && !self.met.contains(requirements) {
            self.met.push(Rc::clone(requirements));
        }
    }

    /// Returns claims of the set, or `None` if it is empty.
    ///
    /// More claims never meet fewer requirements, so claims with one accepted value for each
    /// requirement are enough to try.
    pub(super) fn find(&self, budget: &Budget) -> Result<Option<Claims>, Exhausted> {
        let required: Vec<&ClaimRequirement> = self.met.iter().flat_map(|rule| rule.iter()).collect();
        let mut chosen = Vec::new();
        let found = self.choose(&required, &mut chosen, budget)?;
        Ok(found.then(|| Claims::new(chosen)))
    }

    fn choose(
        &self,
        required: &[&ClaimRequirement],
        chosen: &mut Vec<(ClaimPath, ClaimValue)>,
        budget: &Budget,
    ) -> Result<bool, Exhausted> {
        budget.spend(1 + self.unmet.len() * (1 + chosen.len()))?;
        let is_met = |required: &ClaimRequirement| {
            chosen.iter().any(|(path, value)| *path == required.path && required.values.contains(value))
        };
        if self.unmet.iter().any(|rule| rule.iter().all(is_met)) {
            return Ok(false);
        }
        let Some((first, rest)) = required.split_first() else { return Ok(true) };
        if is_met(first) {
            return self.choose(rest, chosen, budget);
        }
        for value in &first.values {
            chosen.push((first.path.clone(), value.clone()));
            if self.choose(rest, chosen, budget)? {
                return Ok(true);
            }
            chosen.pop();
        }
        Ok(false)
    }
}

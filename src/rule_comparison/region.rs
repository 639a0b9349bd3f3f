//! Regions of calls, as boxes: callers × API clients × users × claims of the callers.

use std::rc::Rc;

use super::{
    atoms::{AtomId, Atoms},
    bits::Bits,
    claim_set::{ClaimSet, Requirements},
    name_set::{Dimension, NameSet},
    names::Space,
    search::{Budget, Exhausted},
};

/// Maximum number of boxes that are left of one rule.
const MAX_REGIONS: usize = 2_000;

/// The calls of one method that a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    /// Sorted.
    pub(super) callers: Rc<[AtomId]>,
    pub(super) api_clients: Bits,
    /// Sorted.
    pub(super) users: Rc<[AtomId]>,
    pub(super) claims: Requirements,
}

/// Calls of one method.
#[derive(Clone, Debug)]
pub(super) struct Region {
    pub(super) callers: NameSet,
    pub(super) api_clients: Bits,
    pub(super) users: NameSet,
    pub(super) claims: ClaimSet,
}

/// The names that calls consist of, and the work that may still be done with them.
#[derive(Debug)]
pub(super) struct World {
    pub(super) callers: Dimension,
    pub(super) users: Dimension,
    pub(super) budget: Budget,
}

impl World {
    /// Creates a world with these names of `anonymous` and tokens.
    pub(super) fn new(listed_callers: Vec<String>, steps: u64) -> Self {
        Self {
            callers: Dimension { atoms: Atoms::default(), spaces: &Space::CALLERS, listed: listed_callers },
            users: Dimension::users(),
            budget: Budget::new(steps),
        }
    }

    /// Returns the calls of a rule that no other rule applies to. `used` receives the positions of
    /// the others that apply to some of them.
    pub(super) fn rest(
        &mut self,
        rule: &Scope,
        others: &[&Scope],
        used: &mut Vec<usize>,
    ) -> Result<Vec<Region>, Exhausted> {
        let whole = self.whole(rule)?;
        let mut positions = Vec::new();
        let mut meeting = Vec::new();
        for (position, other) in others.iter().enumerate() {
            if self.may_meet(rule, other)? {
                positions.push(position);
                meeting.push(*other);
            }
        }
        let mut used_meeting = Vec::new();
        let left = self.without(whole.into_iter().collect(), &meeting, &mut used_meeting)?;
        used.extend(used_meeting.into_iter().map(|at| positions[at]));
        Ok(left)
    }

    /// Returns the calls of regions that no rule applies to.
    pub(super) fn without(
        &mut self,
        mut regions: Vec<Region>,
        rules: &[&Scope],
        used: &mut Vec<usize>,
    ) -> Result<Vec<Region>, Exhausted> {
        for (position, rule) in rules.iter().enumerate() {
            if regions.is_empty() {
                break;
            }
            let mut left = Vec::with_capacity(regions.len());
            let mut is_used = false;
            for region in regions {
                is_used |= self.subtract(region, rule, &mut left)?;
            }
            if is_used {
                used.push(position);
            }
            if left.len() > MAX_REGIONS {
                return Err(Exhausted);
            }
            regions = left;
        }
        Ok(regions)
    }

    /// Returns whether two rules may apply to a common call.
    pub(super) fn may_meet(&mut self, one: &Scope, other: &Scope) -> Result<bool, Exhausted> {
        Ok(one.api_clients.intersects(&other.api_clients)
            && self.callers.atoms.may_meet(&one.callers, &other.callers, &self.budget)?
            && self.users.atoms.may_meet(&one.users, &other.users, &self.budget)?)
    }

    /// Returns all calls of a rule, or `None` if there are none.
    pub(super) fn whole(&mut self, rule: &Scope) -> Result<Option<Region>, Exhausted> {
        let callers = self.callers.union(&rule.callers);
        let users = self.users.union(&rule.users);
        let claims = ClaimSet::default();
        self.common(&Region { callers, api_clients: rule.api_clients.clone(), users, claims }, rule)
    }

    /// Returns the calls of a region that a rule applies to, or `None` if there are none.
    pub(super) fn common(&mut self, region: &Region, rule: &Scope) -> Result<Option<Region>, Exhausted> {
        let Self { callers, users, budget, .. } = self;
        let api_clients = region.api_clients.and(&rule.api_clients);
        if api_clients.is_empty()
            || !callers.may_meet(&region.callers, &rule.callers, budget)?
            || !users.may_meet(&region.users, &rule.users, budget)?
        {
            return Ok(None);
        }
        let Some(callers) = callers.common(&region.callers, &rule.callers, budget)? else { return Ok(None) };
        let Some(users) = users.common(&region.users, &rule.users, budget)? else { return Ok(None) };
        let mut claims = region.claims.clone();
        claims.meet(&rule.claims);
        let is_possible = claims.find(budget)?.is_some();
        Ok(is_possible.then_some(Region { callers, api_clients, users, claims }))
    }

    /// Adds the calls of a region that a rule does not apply to. Returns whether it applies to any.
    fn subtract(&mut self, region: Region, rule: &Scope, left: &mut Vec<Region>) -> Result<bool, Exhausted> {
        let Some(common) = self.common(&region, rule)? else {
            left.push(region);
            return Ok(false);
        };
        let Self { callers, users, budget, .. } = self;
        if let Some(others) = callers.rest(&region.callers, &rule.callers, budget)? {
            left.push(Region { callers: others, ..region.clone() });
        }
        let api_clients = region.api_clients.without(&rule.api_clients);
        if !api_clients.is_empty() {
            left.push(Region { callers: common.callers.clone(), api_clients, ..region.clone() });
        }
        if let Some(others) = users.rest(&region.users, &rule.users, budget)? {
            let (callers, api_clients) = (common.callers.clone(), common.api_clients.clone());
            left.push(Region { callers, api_clients, users: others, claims: region.claims.clone() });
        }
        if !rule.claims.is_empty() {
            let mut claims = region.claims;
            claims.unmet.push(Rc::clone(&rule.claims));
            if claims.find(budget)?.is_some() {
                left.push(Region { claims, ..common });
            }
        }
        Ok(true)
    }
}

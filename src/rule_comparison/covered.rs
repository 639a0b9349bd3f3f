//! Rules that never decide a call, because earlier rules allow all of its calls.

use std::collections::{BTreeSet, HashMap};

use super::{
    CompiledRule, MAX_QUICK_STEPS, Side, Tables,
    bits::Bits,
    catalog::{Catalog, ScopeId},
    region::{Others, Wanted},
    search::{Budget, Exhausted},
};

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
    let mut tables = Tables::new(&[side], Budget::new(MAX_QUICK_STEPS));
    let rules = tables.compile(side);
    tables.covered(&rules).ok()
}

impl Tables<'_> {
    fn covered(&self, rules: &[CompiledRule<'_>]) -> Result<Vec<CoveredRule>, Exhausted> {
        let (catalog, ids) = self.catalog_of_rules(rules.iter());
        let kinds = &self.kinds.of_calls;
        let mut covered = Vec::new();
        // The first rule of each scope that decides before the next one, by kind of calls.
        let mut before: Vec<HashMap<ScopeId, usize>> = vec![HashMap::new(); kinds.len()];
        for (rule, ids) in rules.iter().zip(ids) {
            let mut by = BTreeSet::new();
            let mut is_covered = true;
            for (&kind, before) in kinds.iter().zip(&before) {
                if !rule.is_for(kind) {
                    continue;
                }
                let id = ids.of(kind);
                let scopes: Bits = before.keys().copied().collect();
                let others = Others { catalog: &catalog, scopes: &scopes };
                let rest = self.world.rest(id, others, Wanted::Any)?;
                is_covered = rest.regions.is_empty();
                if !is_covered {
                    break;
                }
                let needed = self.needed(id, &catalog, rest.used)?;
                by.extend(needed.iter().filter_map(|id| before.get(&id)));
            }
            if is_covered && !by.is_empty() {
                covered.push(CoveredRule { rule: rule.number, by: by.into_iter().collect() });
            }
            for (&kind, before) in kinds.iter().zip(&mut before) {
                if rule.is_for(kind) {
                    before.entry(ids.of(kind)).or_insert(rule.number);
                }
            }
        }
        Ok(covered)
    }

    /// Leaves out rules without which the others still cover a rule, as far as they are few.
    fn needed(&self, rule: ScopeId, catalog: &Catalog, mut used: Bits) -> Result<Bits, Exhausted> {
        const MAX_TRIED: usize = 16;
        let all: Vec<ScopeId> = used.iter().collect();
        if all.len() > MAX_TRIED {
            return Ok(used);
        }
        for id in all.into_iter().rev() {
            let mut fewer = used.clone();
            fewer.remove(id);
            let others = Others { catalog, scopes: &fewer };
            if self.world.rest(rule, others, Wanted::Any)?.regions.is_empty() {
                used = fewer;
            }
        }
        Ok(used)
    }
}

//! Sets of rules, by position.

use smallvec::{SmallVec, smallvec};

const WORD_BITS: usize = u64::BITS as usize;
/// Number of words without an allocation, enough for 256 rules.
const INLINE_WORDS: usize = 4;

/// A set of rules with one bit per rule. Only sets of the same list of rules may be combined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RuleSet(SmallVec<[u64; INLINE_WORDS]>);

/// A compact set of few rules: its nonzero words and their positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RuleList(Vec<(usize, u64)>);

impl RuleSet {
    /// Returns the empty set for `rules` rules.
    pub(super) fn none(rules: usize) -> Self {
        Self(smallvec![0; rules.div_ceil(WORD_BITS)])
    }

    /// Returns the set of the rules whose flag is true.
    pub(super) fn from_flags(rules: impl ExactSizeIterator<Item = bool>) -> Self {
        let mut set = Self::none(rules.len());
        for (rule, is_in) in rules.enumerate() {
            if let Some(word) = set.0.get_mut(rule / WORD_BITS) {
                *word |= u64::from(is_in) << (rule % WORD_BITS);
            }
        }
        set
    }

    /// Adds the rules of a list.
    pub(super) fn add(&mut self, rules: &RuleList) {
        for &(position, bits) in &rules.0 {
            if let Some(word) = self.0.get_mut(position) {
                *word |= bits;
            }
        }
    }

    /// Keeps only the rules that are also in the other set.
    pub(super) fn retain(&mut self, others: &Self) {
        for (word, others) in self.0.iter_mut().zip(&others.0) {
            *word &= others;
        }
    }

    /// Adds the rules of the other set.
    pub(super) fn add_all(&mut self, others: &Self) {
        for (word, others) in self.0.iter_mut().zip(&others.0) {
            *word |= others;
        }
    }

    pub(super) fn contains(&self, rule: usize) -> bool {
        self.0.get(rule / WORD_BITS).is_some_and(|word| word >> (rule % WORD_BITS) & 1 == 1)
    }

    /// Returns the position of the first rule.
    pub(super) fn first(&self) -> Option<usize> {
        let (position, word) = self.0.iter().enumerate().find(|(_, word)| **word != 0)?;
        Some(position * WORD_BITS + usize::try_from(word.trailing_zeros()).unwrap_or_default())
    }
}

impl RuleList {
    /// Adds a rule. Rules have to be added in ascending order; the last one may be repeated.
    pub(super) fn push(&mut self, rule: usize) {
        let (position, bit) = (rule / WORD_BITS, 1 << (rule % WORD_BITS));
        match self.0.last_mut() {
            Some((last, bits)) if *last == position => *bits |= bit,
            _ => self.0.push((position, bit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(rules: usize, members: &BTreeSet<usize>) -> RuleSet {
        let mut list = RuleList::default();
        for &rule in members {
            list.push(rule);
        }
        let mut set = RuleSet::none(rules);
        set.add(&list);
        set
    }

    proptest! {
        #[test]
        fn operations_match_those_of_a_set(
            rules in 1..600_usize,
            one in prop::collection::btree_set(0..600_usize, 0..40),
            other in prop::collection::btree_set(0..600_usize, 0..40),
        ) {
            let within = |members: BTreeSet<usize>| -> BTreeSet<usize> {
                members.into_iter().filter(|rule| *rule < rules).collect()
            };
            let (one, other) = (within(one), within(other));
            let (left, right) = (set(rules, &one), set(rules, &other));
            let both: BTreeSet<usize> = one.intersection(&other).copied().collect();
            prop_assert_eq!(left.first(), one.first().copied());
            let mut retained = left.clone();
            retained.retain(&right);
            prop_assert_eq!(&retained, &set(rules, &both));
            for rule in 0..rules {
                prop_assert_eq!(left.contains(rule), one.contains(&rule));
            }
            let either = one.union(&other).copied().collect();
            let mut united = left.clone();
            united.add_all(&right);
            prop_assert_eq!(&united, &set(rules, &either));
            let flags: Vec<bool> = (0..rules).map(|rule| one.contains(&rule)).collect();
            prop_assert_eq!(&RuleSet::from_flags(flags.into_iter()), &left);
        }
    }
}

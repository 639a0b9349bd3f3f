//! Merges descriptions of calls that differ only in what the call does with the token.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
};

use super::report::Calls;

/// Merges descriptions of two kinds of one method that are otherwise the same: equal `key`s and
/// equal calls. The first one stays.
pub(super) fn merged<T, K: Eq + Hash>(
    found: Vec<T>,
    calls: impl Fn(&mut T) -> &mut Calls,
    key: impl Fn(&T) -> K,
) -> Vec<T> {
    let mut all: Vec<T> = Vec::with_capacity(found.len());
    let mut of_one_kind: HashMap<(Calls, K), usize> = HashMap::new();
    for mut one in found {
        let kind = calls(&mut one).kind;
        let whole = kind.whole();
        if kind != whole {
            let described = Calls { kind: whole, ..calls(&mut one).clone() };
            match of_one_kind.entry((described, key(&one))) {
                Entry::Occupied(other) => {
                    let other_calls = calls(&mut all[*other.get()]);
                    if other_calls.kind != kind {
                        other_calls.kind = whole;
                        other.remove();
                        continue;
                    }
                }
                Entry::Vacant(entry) => {
                    entry.insert(all.len());
                }
            }
        }
        all.push(one);
    }
    all
}

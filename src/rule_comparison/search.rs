//! Finds a name that matches some globs and none of others, or proves that there is none.
//!
//! A name is read character by character. The state after a prefix is the position in the grammar
//! of names and the nodes reached in the trees of the globs: a deterministic automaton, of which
//! only the states are built that a wanted name can pass through. Its alphabet are the characters
//! that the nodes distinguish, and one other character for each group of the grammar.
//!
//! A search is abandoned when it exceeds its [`Budget`]: the number of states can be exponential in
//! the number of globs with several runs. Otherwise the result is exact: names that exist are found,
//! and a found name exists.

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use super::{
    combining::{Combining, Marks},
    glob::{Glob, GlobTree},
    names::{Position, Space},
};

/// Maximum number of nodes in the states of one search; 4 bytes each.
const MAX_NODES: usize = 8_000_000;
/// Work of adding a token of a glob to a tree, in steps.
const STEPS_PER_TOKEN: usize = 5;
/// Work of following one node with one character, in steps.
const STEPS_PER_NODE: usize = 2;
/// Maximum number of sets of globs in one search.
pub(super) const MAX_SETS: usize = 64;

/// Maximum number of entries in the descriptions of one comparison; 16 bytes each.
const MAX_ENTRIES: u64 = 4_000_000;

/// What a comparison may still use.
#[derive(Debug)]
pub(super) struct Budget {
    /// Steps of work, of about ten nanoseconds each.
    steps: Cell<u64>,
    /// Entries of the report.
    entries: Cell<u64>,
}

/// The globs are too complex to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted;

impl Budget {
    pub(super) const fn new(steps: u64) -> Self {
        Self::with_entries(steps, MAX_ENTRIES)
    }

    pub(super) const fn with_entries(steps: u64, entries: u64) -> Self {
        Self { steps: Cell::new(steps), entries: Cell::new(entries) }
    }

    pub(super) fn spend(&self, steps: usize) -> Result<(), Exhausted> {
        take(&self.steps, steps)
    }

    /// Takes entries of the report, and the work of adding them.
    pub(super) fn spend_entries(&self, entries: usize) -> Result<(), Exhausted> {
        const STEPS_PER_ENTRY: usize = 5;
        self.spend(STEPS_PER_ENTRY * entries)?;
        take(&self.entries, entries)
    }
}

fn take(from: &Cell<u64>, number: usize) -> Result<(), Exhausted> {
    let left = from.get().checked_sub(number as u64).ok_or(Exhausted)?;
    from.set(left);
    Ok(())
}

/// The names to find: those of a space that match a glob of each of the wanted sets, and no
/// excluded glob.
#[derive(Debug)]
pub(super) struct Search<'a> {
    pub(super) space: Space,
    /// At least one set, at most [`MAX_SETS`].
    pub(super) wanted: &'a [Vec<&'a Glob>],
    pub(super) excluded: &'a [&'a Glob],
}

/// A state, and the character that led to it from an earlier one.
struct State {
    at: Position,
    end: Combining,
    wanted: Box<[u32]>,
    excluded: Box<[u32]>,
    bytes: usize,
    from: usize,
    char: char,
}

/// The excluded nodes of known states, by the rest of the state.
type Known = HashMap<(Position, Combining, Box<[u32]>), Vec<usize>>;

impl Search<'_> {
    /// Returns a shortest name, or `None` if there is none.
    pub(super) fn find(&self, budget: &Budget) -> Result<Option<String>, Exhausted> {
        match self.run(budget, false)? {
            Outcome::Found(name) => Ok(Some(name)),
            Outcome::None => Ok(None),
            // Lengths of parts of the name are only counted if it matters.
            Outcome::Invalid => match self.run(budget, true)? {
                Outcome::Found(name) => Ok(Some(name)),
                Outcome::None => Ok(None),
                // The grammar is exact, so this does not happen. An example must exist regardless.
                Outcome::Invalid => Err(Exhausted),
            },
        }
    }

    fn run(&self, budget: &Budget, counting: bool) -> Result<Outcome, Exhausted> {
        if self.wanted.is_empty() || self.wanted.len() > MAX_SETS {
            return Err(Exhausted);
        }
        let (wanted, excluded) = self.trees();
        let globs = self.wanted.iter().flatten().chain(self.excluded);
        budget.spend(globs.clone().map(|glob| STEPS_PER_TOKEN * glob.tokens().len()).sum())?;
        let marks = Marks::of(globs.copied().filter(|_| self.space.is_folded()));
        let all = u64::MAX >> (MAX_SETS - self.wanted.len());

        let mut states: Vec<State> = Vec::new();
        let mut known = Known::new();
        // Shorter names first; of the same length, in the order of discovery.
        let mut open = BinaryHeap::new();
        let mut nodes = 0;
        let mut add = |states: &mut Vec<State>, open: &mut BinaryHeap<_>, state: State| {
            let is_dead = wanted.below(&state.wanted) != all || excluded.matches_any_rest(&state.excluded);
            if is_dead || state.bytes > self.space.max_bytes() {
                return Ok(());
            }
            let alike = known.entry((state.at, state.end, state.wanted.clone())).or_default();
            // A state with fewer excluded nodes leads to all names of this one, and no longer ones.
            let mut compared = 0;
            let is_known = alike.iter().any(|&other| {
                let other: &State = &states[other];
                compared += 1 + other.excluded.len();
                other.bytes <= state.bytes && is_subset(&other.excluded, &state.excluded)
            });
            budget.spend(compared + 10)?;
            if is_known {
                return Ok(());
            }
            nodes += 2 * state.wanted.len() + state.excluded.len() + 16;
            if nodes > MAX_NODES {
                return Err(Exhausted);
            }
            alike.push(states.len());
            open.push(Reverse((state.bytes, states.len())));
            states.push(state);
            Ok(())
        };
        let start = State {
            at: Position::default(),
            end: Combining::default(),
            bytes: 0,
            wanted: wanted.start().into(),
            excluded: excluded.start().into(),
            from: usize::MAX,
            char: '\0',
        };
        add(&mut states, &mut open, start)?;
        let mut has_invalid = false;
        let mut chars = Vec::new();
        while let Some(Reverse((bytes, index))) = open.pop() {
            let state = &states[index];
            if self.space.is_end(state.at)
                && wanted.ends(&state.wanted) == all
                && excluded.ends(&state.excluded) == 0
            {
                let name = name_of(&states, index);
                if self.space.contains(&name) {
                    return Ok(Outcome::Found(name));
                }
                if !counting {
                    return Ok(Outcome::Invalid);
                }
                has_invalid = true;
            }
            let state = &states[index];
            Self::add_chars(state, &wanted, &excluded, &mut chars);
            budget.spend(
                STEPS_PER_NODE * (state.wanted.len() + state.excluded.len() + 4) * (chars.len() + 4),
            )?;
            let named = chars.len();
            self.add_others(state.at, &marks, &mut chars, named);
            // Other characters first: of two shortest names, the more general one.
            for position in (named..chars.len()).chain(0..named) {
                let char = chars[position];
                let state = &states[index];
                let Some(at) = self.space.step(state.at, char, counting) else { continue };
                // Without marks, every sequence is possible.
                let end = if marks.is_empty() { Some(state.end) } else { state.end.step(char) };
                let Some(end) = end.map(|end| marks.relevant(end)) else { continue };
                let reached = wanted.step(&state.wanted, char);
                if reached.is_empty() {
                    continue;
                }
                let next = State {
                    at,
                    end,
                    bytes: bytes + char.len_utf8(),
                    wanted: reached.into(),
                    excluded: excluded.step(&state.excluded, char).into(),
                    from: index,
                    char,
                };
                add(&mut states, &mut open, next)?;
            }
        }
        Ok(if has_invalid { Outcome::Invalid } else { Outcome::None })
    }

    /// Returns the trees of the wanted and of the excluded globs.
    fn trees(&self) -> (GlobTree, GlobTree) {
        let (mut wanted, mut excluded) = (GlobTree::new(), GlobTree::new());
        for (set, globs) in (0..).zip(self.wanted) {
            for glob in globs {
                wanted.insert(glob, set);
            }
        }
        for glob in self.excluded {
            excluded.insert(glob, 0);
        }
        (wanted, excluded)
    }

    /// Replaces the characters with those that globs distinguish at a state.
    fn add_chars(state: &State, wanted: &GlobTree, excluded: &GlobTree, chars: &mut Vec<char>) {
        chars.clear();
        wanted.chars(&state.wanted, chars);
        excluded.chars(&state.excluded, chars);
        chars.sort_unstable();
        chars.dedup();
    }

    /// Adds one character of each group of the grammar that is not among the first `named` ones, and
    /// if there are marks, one that combines with none of them.
    fn add_others(&self, at: Position, marks: &Marks, chars: &mut Vec<char>, named: usize) {
        for (number, group) in self.space.groups(at).iter().enumerate() {
            // Letters without case and decomposition.
            let letters = (number == 0 && self.space.is_text()).then_some('\u{4e00}'..='\u{9fa5}');
            let others = group.chars().chain(letters.into_iter().flatten());
            let mut others = others.filter(|char| chars[..named].binary_search(char).is_err());
            let other = others.next();
            let neutral = other
                .filter(|char| marks.combine_with(*char))
                .and_then(|_| others.find(|char| !marks.combine_with(*char)));
            chars.extend(other);
            chars.extend(neutral);
        }
    }
}

enum Outcome {
    Found(String),
    /// The grammar accepts a text that is not a name.
    Invalid,
    None,
}

/// Returns the characters that lead to a state.
fn name_of(states: &[State], mut index: usize) -> String {
    let mut chars = Vec::new();
    while let Some(state) = states.get(index).filter(|state| state.from != usize::MAX) {
        chars.push(state.char);
        index = state.from;
    }
    chars.iter().rev().collect()
}

/// Returns whether one sorted list contains all of another.
fn is_subset(part: &[u32], of: &[u32]) -> bool {
    let mut rest = of.iter();
    part.iter().all(|node| rest.any(|other| other == node))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rule_comparison::names::UserForm;

    const LOGINS: Space = Space::User(UserForm::Login);

    fn globs(texts: &[&str]) -> Vec<Glob> {
        texts.iter().map(|text| Glob::new(text)).collect()
    }

    fn find(space: Space, wanted: &[&[&str]], excluded: &[&str]) -> Option<String> {
        let wanted: Vec<Vec<Glob>> = wanted.iter().map(|texts| globs(texts)).collect();
        let wanted: Vec<Vec<&Glob>> = wanted.iter().map(|globs| globs.iter().collect()).collect();
        let excluded = globs(excluded);
        let excluded: Vec<&Glob> = excluded.iter().collect();
        let search = Search { space, wanted: &wanted, excluded: &excluded };
        search.find(&Budget::new(50_000_000)).expect("a small search")
    }

    #[test]
    fn names_are_found_exactly_if_they_exist() {
        assert_eq!(find(LOGINS, &[&["a*"]], &["*b"]).as_deref(), Some("a"));
        assert_eq!(find(LOGINS, &[&["a*"], &["*b"]], &["ab"]).as_deref(), Some("axb"));
        assert_eq!(find(LOGINS, &[&["a*"]], &["*"]), None);
        assert_eq!(find(LOGINS, &[&["*"]], &["*@*", "?", "??*"]), None);
        // No login ends with a blank, or has a capital letter.
        assert_eq!(find(LOGINS, &[&["a?"]], &["a?"]), None);
        assert_eq!(find(Space::User(UserForm::ExternalId), &[&["A? "]], &[]), None);
        assert_eq!(find(Space::Dns, &[&["dns:*"]], &["dns:?*"]), None);
        assert_eq!(find(Space::Spiffe, &[&["spiffe://a/*"]], &["spiffe://a/?*"]), None);
        assert_eq!(find(Space::Spiffe, &[&["spiffe://a/."]], &[]), None);
        assert_eq!(find(Space::Jwt, &[&["*"]], &["jwt:x*"]).as_deref(), Some("jwt:y"));
    }

    #[test]
    fn names_of_impossible_length_are_not_found() {
        let label = "a".repeat(63);
        assert_eq!(find(Space::Dns, &[&[&format!("dns:{label}?")]], &[]), None);
        let dotted = format!("dns:{label}??");
        assert_eq!(find(Space::Dns, &[&[&dotted]], &[]), Some(format!("dns:{label}.x")));
        let long = "a".repeat(254);
        assert_eq!(find(LOGINS, &[&[&format!("{long}*")]], &[]), Some(long.clone()));
        assert_eq!(find(LOGINS, &[&[&format!("{long}*")]], &[&long]), None);
    }

    #[test]
    fn characters_that_no_glob_mentions_are_considered() {
        let letters: Vec<String> = (33..127_u8).map(|byte| format!("*{}*", char::from(byte))).collect();
        // A glob cannot mention the wildcards themselves.
        let letters: Vec<&str> =
            letters.iter().map(String::as_str).filter(|glob| !glob.contains('?') && *glob != "***").collect();
        let found = find(LOGINS, &[&["*"]], &letters).expect("a login");
        assert!(!found.contains(|char: char| char.is_ascii_alphanumeric()), "{found}");
        assert_eq!(find(Space::Jwt, &[&["jwt:*"]], &letters), None);
    }

    #[test]
    fn runs_of_many_globs_do_not_multiply() {
        // Each subset of the globs could be in progress at a state.
        let excluded: Vec<String> = (0..26_u8)
            .map(|n| format!("*{}*{}*", char::from(b'a' + n), char::from(b'a' + (n + 1) % 26)))
            .collect();
        let excluded: Vec<&str> = excluded.iter().map(String::as_str).collect();
        assert_eq!(find(LOGINS, &[&["*q*"]], &excluded).as_deref(), Some("q"));
    }

    #[test]
    fn exploding_globs_exhaust_the_budget() {
        let wanted: Vec<Vec<Glob>> = (0..26_u8)
            .map(|n| globs(&[&format!("*{}*{}*{}", char::from(b'a' + n), n, "x".repeat(20))]))
            .collect();
        let wanted: Vec<Vec<&Glob>> = wanted.iter().map(|globs| globs.iter().collect()).collect();
        let search = Search { space: LOGINS, wanted: &wanted, excluded: &[] };
        assert_eq!(search.find(&Budget::new(1_000_000)), Err(Exhausted));
    }

    proptest! {
        #[test]
        fn found_names_agree_with_all_short_names(
            one in prop::collection::vec("[ab*?]{1,4}", 1..3),
            other in prop::collection::vec("[ab*?]{1,4}", 0..2),
            excluded in prop::collection::vec("[ab*?]{1,4}", 0..4),
        ) {
            fn texts(texts: &[String]) -> Vec<&str> {
                texts.iter().map(String::as_str).collect()
            }
            let (one, other, excluded) = (texts(&one), texts(&other), texts(&excluded));
            let mut wanted = vec![&one[..]];
            wanted.extend((!other.is_empty()).then_some(&other[..]));
            let matches = |list: &[&str], name: &str| list.iter().any(|glob| Glob::new(glob).matches(name));
            let is_wanted =
                |name: &str| wanted.iter().all(|list| matches(list, name)) && !matches(&excluded, name);
            let mut names = vec![String::new()];
            let mut all = Vec::new();
            for _ in 0..6 {
                names = names
                    .iter()
                    .flat_map(|name| ['a', 'b', 'x'].map(|char| format!("{name}{char}")))
                    .collect();
                all.extend(names.iter().cloned());
            }
            let expected = all.iter().find(|name| is_wanted(name));
            let found = find(LOGINS, &wanted, &excluded);
            if let Some(found) = &found {
                prop_assert!(is_wanted(found), "{}", found);
            }
            let short = found.as_ref().map(String::len).filter(|length| *length <= 6);
            prop_assert_eq!(short, expected.map(String::len));
        }
    }
}

//! Globs as sequences of tokens, and trees of globs that are read one character at a time.
//!
//! Globs have the meaning that they have in rules: `*` matches any run of characters, `?` one
//! character, and there is no escape. The index of `access` finds the rules of one name; the trees
//! here follow many names at the same time, for `search`.

use std::collections::BTreeMap;

use crate::access::{GlobToken, glob_tokens};

/// A glob. Globs that differ only in the order of adjacent wildcards are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Glob {
    tokens: Box<[GlobToken]>,
    /// The literal characters of the glob, each as one of 64 bits.
    literals: u64,
}

impl Glob {
    pub(super) fn new(text: &str) -> Self {
        let tokens: Box<[GlobToken]> = glob_tokens(text).into();
        let bit = |token: &GlobToken| match token {
            GlobToken::Char(char) => 1 << (u32::from(*char) % u64::BITS),
            GlobToken::AnyRun | GlobToken::AnyChar => 0,
        };
        let literals = tokens.iter().fold(0, |literals, token| literals | bit(token));
        Self { tokens, literals }
    }

    pub(super) fn tokens(&self) -> &[GlobToken] {
        &self.tokens
    }

    /// Returns globs that together match the texts of this glob that begin with a prefix.
    pub(super) fn with_prefix(&self, prefix: &str) -> Vec<String> {
        let mut tree = GlobTree::new();
        tree.insert(self, 0);
        let reached = prefix.chars().fold(tree.start(), |nodes, char| tree.step(&nodes, char));
        let mut globs = Vec::new();
        for node in reached {
            // The nodes of a single glob are its tokens, in their order. A run stays reached.
            let at = node as usize;
            let at = if tree.0[at].is_run { at - 1 } else { at };
            let rest = self.tokens[at..].iter().map(|token| match token {
                GlobToken::AnyRun => '*',
                GlobToken::AnyChar => '?',
                GlobToken::Char(char) => *char,
            });
            let glob: String = prefix.chars().chain(rest).collect();
            if !globs.contains(&glob) {
                globs.push(glob);
            }
        }
        globs
    }

    /// Returns whether the glob matches a text.
    pub(super) fn matches(&self, text: &str) -> bool {
        // Only the last run has to be extended: an earlier one that matches less leaves more for it.
        let (mut token, mut rest) = (0, text.chars());
        let mut retry: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            match self.tokens.get(token) {
                Some(GlobToken::AnyRun) => {
                    token += 1;
                    retry = Some((token, rest.clone()));
                    continue;
                }
                Some(GlobToken::AnyChar) if !rest.as_str().is_empty() => {
                    rest.next();
                    token += 1;
                    continue;
                }
                Some(GlobToken::Char(wanted)) if rest.as_str().starts_with(*wanted) => {
                    rest.next();
                    token += 1;
                    continue;
                }
                None if rest.as_str().is_empty() => return true,
                _ => {}
            }
            let Some((after, from)) = &mut retry else { return false };
            if from.next().is_none() {
                return false;
            }
            (token, rest) = (*after, from.clone());
        }
    }

    /// Returns the literal text at the beginning, and the reversed one at the end.
    pub(super) fn literal_ends(&self) -> (String, String) {
        fn literal<'a, I: Iterator<Item = &'a GlobToken>>(tokens: I) -> String {
            let chars = tokens.map_while(|token| match token {
                GlobToken::Char(char) => Some(*char),
                GlobToken::AnyRun | GlobToken::AnyChar => None,
            });
            chars.collect()
        }
        (literal(self.tokens.iter()), literal(self.tokens.iter().rev()))
    }

    /// Returns whether some text obviously matches both globs: one behind the other, or one inside a
    /// run of the other.
    fn obviously_meets(&self, other: &Self) -> bool {
        let is_run = |token: Option<&GlobToken>| token == Some(&GlobToken::AnyRun);
        let ends = |glob: &Self| (is_run(glob.tokens.first()), is_run(glob.tokens.last()));
        let has_run = |glob: &Self| glob.tokens.contains(&GlobToken::AnyRun);
        let (ours, theirs) = (ends(self), ends(other));
        (ours.0 && theirs.1)
            || (ours.1 && theirs.0)
            || (ours == (true, true) && has_run(other))
            || (theirs == (true, true) && has_run(self))
    }

    /// Returns the work of [`Self::is_disjoint`] and [`Self::is_within`], in steps.
    pub(super) fn relation_steps(&self, other: &Self) -> usize {
        let pairs = self.tokens.len() * other.tokens.len();
        let is_within = if other.literals & !self.literals == 0 { pairs / 4 } else { 0 };
        let is_disjoint = if self.obviously_meets(other) { 1 } else { pairs / 4 };
        self.tokens.len() + is_within + is_disjoint
    }

    /// Returns whether no text matches both globs.
    pub(super) fn is_disjoint(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.tokens, &other.tokens);
        if self.is_obviously_disjoint(other) {
            return true;
        }
        if self.obviously_meets(other) {
            return false;
        }
        // Whether the suffixes at two positions have a common text, from the last position on.
        let mut below = vec![false; theirs.len() + 1];
        for at in (0..=ours.len()).rev() {
            let mut row = vec![false; theirs.len() + 1];
            for other_at in (0..=theirs.len()).rev() {
                let (one, other) = (ours.get(at), theirs.get(other_at));
                row[other_at] = match (one, other) {
                    (None, None) => true,
                    (Some(GlobToken::AnyRun), _) => below[other_at] || (other.is_some() && row[other_at + 1]),
                    (_, Some(GlobToken::AnyRun)) => row[other_at + 1] || (one.is_some() && below[other_at]),
                    (Some(one), Some(other)) => may_be_equal(*one, *other) && below[other_at + 1],
                    _ => false,
                };
            }
            below = row;
        }
        !below[0]
    }

    /// Returns whether the literals at the beginning or at the end of two globs differ.
    pub(super) fn is_obviously_disjoint(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.tokens, &other.tokens);
        ends_differ(ours.iter(), theirs.iter()) || ends_differ(ours.iter().rev(), theirs.iter().rev())
    }

    /// Returns whether every text that matches this glob matches the other one.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        if other.literals & !self.literals != 0 {
            return false;
        }
        // Matches the tokens as if they were a text; a run can only be a part of a run.
        let mut reached = vec![false; other.tokens.len() + 1];
        reached[0] = true;
        let skip_empty_runs = |reached: &mut Vec<bool>| {
            for at in 0..other.tokens.len() {
                if reached[at] && other.tokens[at] == GlobToken::AnyRun {
                    reached[at + 1] = true;
                }
            }
        };
        skip_empty_runs(&mut reached);
        for token in &self.tokens {
            let mut next = vec![false; other.tokens.len() + 1];
            for (at, pattern) in other.tokens.iter().enumerate().filter(|(at, _)| reached[*at]) {
                match pattern {
                    GlobToken::AnyRun => next[at] = true,
                    GlobToken::AnyChar if *token != GlobToken::AnyRun => next[at + 1] = true,
                    pattern if pattern == token => next[at + 1] = true,
                    _ => {}
                }
            }
            skip_empty_runs(&mut next);
            reached = next;
        }
        reached[other.tokens.len()]
    }
}

/// Returns whether two globs begin with literals that differ.
fn ends_differ<'a>(
    one: impl Iterator<Item = &'a GlobToken>,
    other: impl Iterator<Item = &'a GlobToken>,
) -> bool {
    for pair in one.zip(other) {
        match pair {
            (GlobToken::AnyRun, _) | (_, GlobToken::AnyRun) => return false,
            (one, other) if !may_be_equal(*one, *other) => return true,
            _ => {}
        }
    }
    false
}

fn may_be_equal(one: GlobToken, other: GlobToken) -> bool {
    match (one, other) {
        (GlobToken::Char(one), GlobToken::Char(other)) => one == other,
        _ => true,
    }
}

/// A prefix tree of globs. Each glob belongs to one of up to 64 sets.
#[derive(Debug)]
pub(super) struct GlobTree(Vec<Node>);

/// Globs with a common prefix share its nodes, so that any number of globs that begin with `*`
/// has one run to follow.
#[derive(Debug, Default)]
struct Node {
    is_run: bool,
    chars: BTreeMap<char, u32>,
    run: Option<u32>,
    any_char: Option<u32>,
    /// The sets of the globs that end here, one bit each.
    ends: u64,
    /// The sets of the globs that end here or below.
    below: u64,
}

impl GlobTree {
    /// The position before the first character.
    pub(super) fn new() -> Self {
        Self(vec![Node::default()])
    }

    pub(super) fn insert(&mut self, glob: &Glob, set: u32) {
        let bit = 1_u64 << set;
        let mut at = 0;
        self.0[0].below |= bit;
        for token in glob.tokens() {
            let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
            let node = &mut self.0[at];
            let child = match token {
                GlobToken::AnyRun => *node.run.get_or_insert(next),
                GlobToken::AnyChar => *node.any_char.get_or_insert(next),
                GlobToken::Char(char) => *node.chars.entry(*char).or_insert(next),
            };
            if child == next {
                self.0.push(Node { is_run: *token == GlobToken::AnyRun, ..Node::default() });
            }
            at = child as usize;
            self.0[at].below |= bit;
        }
        self.0[at].ends |= bit;
    }

    /// Returns the nodes reached by the empty text.
    pub(super) fn start(&self) -> Vec<u32> {
        let mut nodes = Vec::new();
        self.reach(0, &mut nodes);
        nodes.sort_unstable();
        nodes
    }

    /// Returns the nodes reached by one more character.
    pub(super) fn step(&self, from: &[u32], char: char) -> Vec<u32> {
        let mut nodes = Vec::with_capacity(from.len());
        for &at in from {
            let node = &self.0[at as usize];
            if node.is_run {
                nodes.push(at);
            }
            if let Some(next) = node.any_char {
                self.reach(next, &mut nodes);
            }
            if let Some(&next) = node.chars.get(&char) {
                self.reach(next, &mut nodes);
            }
        }
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// A run may be empty, so it is reached with the node before it.
    fn reach(&self, node: u32, nodes: &mut Vec<u32>) {
        nodes.push(node);
        nodes.extend(self.0[node as usize].run);
    }

    /// Returns the sets of globs that end at these nodes.
    pub(super) fn ends(&self, nodes: &[u32]) -> u64 {
        nodes.iter().fold(0, |sets, &node| sets | self.0[node as usize].ends)
    }

    /// Returns the sets of globs that can still match.
    pub(super) fn below(&self, nodes: &[u32]) -> u64 {
        nodes.iter().fold(0, |sets, &node| sets | self.0[node as usize].below)
    }

    /// Returns whether a glob matches any continuation.
    pub(super) fn matches_any_rest(&self, nodes: &[u32]) -> bool {
        nodes.iter().map(|&node| &self.0[node as usize]).any(|node| node.is_run && node.ends != 0)
    }

    /// Adds the characters that lead to other nodes than other characters do.
    pub(super) fn chars(&self, nodes: &[u32], chars: &mut Vec<char>) {
        for &node in nodes {
            chars.extend(self.0[node as usize].chars.keys());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wildmatch::WildMatch;

    use super::*;

    /// All texts of up to six characters, one of which occurs in no glob. If two globs have a common
    /// text, one is as short.
    fn texts() -> Vec<String> {
        let mut texts = vec![String::new()];
        let mut last = texts.clone();
        for _ in 0..6 {
            last = last.iter().flat_map(|text| ['a', 'b', 'z'].map(|char| format!("{text}{char}"))).collect();
            texts.extend(last.iter().cloned());
        }
        texts
    }

    proptest! {
        #[test]
        fn relations_of_globs_agree_with_their_texts(one in "[ab*?]{0,4}", other in "[ab*?]{0,4}") {
            let (left, right) = (Glob::new(&one), Glob::new(&other));
            let texts = texts();
            let both = |text: &&String| left.matches(text) && right.matches(text);
            for text in &texts {
                prop_assert_eq!(left.matches(text), WildMatch::new(&one).matches(text), "{} {}", one, text);
            }
            prop_assert_eq!(left.is_disjoint(&right), !texts.iter().any(|text| both(&text)), "{} {}", one, other);
            let of_prefix = left.with_prefix("ab");
            for text in texts.iter().filter(|text| text.starts_with("ab")) {
                let matches = of_prefix.iter().any(|glob| Glob::new(glob).matches(text));
                prop_assert_eq!(matches, left.matches(text), "{} {:?} {}", one, of_prefix, text);
            }
            let is_within = texts.iter().all(|text| !left.matches(text) || right.matches(text));
            prop_assert!(!left.is_within(&right) || is_within, "{} {}", one, other);
        }
    }
}

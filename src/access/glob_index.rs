//! Finds the rules with a glob that matches a text, in one pass over the text.
//!
//! In a glob, `*` matches any run of characters and `?` one character; there is no escape. A glob
//! without wildcards is looked up by its hash. All others are in one tree, in which globs with a
//! common prefix share a path. A text is read once, and all matching paths are followed at the same
//! time. Globs that differ from the text in the first character after a shared path cost nothing,
//! regardless of their wildcards.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use smallvec::SmallVec;

use super::{
    glob::{GlobToken, glob_tokens},
    pattern::is_literal,
    rule_set::{RuleList, RuleSet},
};

/// Globs, each with its rules.
#[derive(Debug, Default)]
pub(super) struct GlobIndex {
    literals: HashMap<Box<str>, RuleList>,
    wild: GlobTree,
}

/// A prefix tree of globs, by their tokens.
#[derive(Debug, Default)]
struct GlobTree {
    /// The first node is the root. Children of one node are adjacent, in the order of their tokens.
    nodes: Vec<Node>,
    /// The rules of each glob.
    rules: Vec<RuleList>,
}

/// A node of the tree. The tokens on the path from the root to a node are a prefix of a glob.
///
/// Positions have 32 bits, because configuration files are too small for more nodes.
#[derive(Debug)]
struct Node {
    /// The last token of the path.
    token: GlobToken,
    /// Range of the positions of the children.
    children: (u32, u32),
    /// Whether there are wildcard children, which come first.
    has_run: bool,
    has_any_char: bool,
    /// Position of the rules of the glob that ends at this node.
    rules: Option<u32>,
}

/// Positions of nodes; few paths are followed at the same time.
type Positions = SmallVec<[u32; 16]>;

/// The nodes reached by the characters read so far.
#[derive(Default)]
struct Reached {
    /// Nodes reached by the last character; while a character is read, after those reached by the one
    /// before it.
    now: Positions,
    /// Nodes of a `*`, which stay reached for any further characters.
    runs: Positions,
}

impl GlobIndex {
    /// Creates an index from pairs of a glob and its rule, in the order of the rules.
    pub(super) fn new(globs: &[(&str, usize)]) -> Self {
        let mut literals: HashMap<Box<str>, RuleList> = HashMap::new();
        let mut wild: BTreeMap<Vec<GlobToken>, RuleList> = BTreeMap::new();
        for &(glob, rule) in globs {
            let rules = if !is_literal(glob) {
                wild.entry(glob_tokens(glob)).or_default()
            } else if let Some(rules) = literals.get_mut(glob) {
                rules
            } else {
                literals.entry(glob.into()).or_default()
            };
            rules.push(rule);
        }
        Self { literals, wild: GlobTree::new(wild) }
    }

    /// Adds the rules with a glob that matches the text.
    pub(super) fn find(&self, text: &str, found: &mut RuleSet) {
        self.find_literal(text, found);
        self.wild.find(text, found);
    }

    /// Adds the rules with a literal that equals the text.
    pub(super) fn find_literal(&self, text: &str, found: &mut RuleSet) {
        if let Some(rules) = self.literals.get(text) {
            found.add(rules);
        }
    }
}

impl GlobTree {
    fn new(globs: BTreeMap<Vec<GlobToken>, RuleList>) -> Self {
        let (globs, rules): (Vec<Vec<GlobToken>>, Vec<RuleList>) = globs.into_iter().unzip();
        if globs.is_empty() {
            return Self::default();
        }
        let mut nodes = vec![Node::new(GlobToken::AnyRun)];
        // The nodes of one depth, each with the positions of the globs that have its prefix.
        let mut level = vec![(0, 0..globs.len())];
        for depth in 0.. {
            let mut below = Vec::new();
            for (node, mut within) in level {
                // A glob that ends here is the first, because globs are sorted.
                let mut ending = None;
                if globs[within.start].len() == depth {
                    ending = Some(short(within.start));
                    within.start += 1;
                }
                let first = nodes.len();
                let mut start = within.start;
                for alike in globs[within].chunk_by(|one, other| one[depth] == other[depth]) {
                    below.push((nodes.len(), start..start + alike.len()));
                    start += alike.len();
                    nodes.push(Node::new(alike[0][depth]));
                }
                let is_child = |token| nodes[first..].iter().take(2).any(|child| child.token == token);
                let (has_run, has_any_char) = (is_child(GlobToken::AnyRun), is_child(GlobToken::AnyChar));
                let children = (short(first), short(nodes.len()));
                nodes[node] =
                    Node { token: nodes[node].token, children, has_run, has_any_char, rules: ending };
            }
            if below.is_empty() {
                break;
            }
            level = below;
        }
        nodes.shrink_to_fit();
        Self { nodes, rules }
    }

    /// Adds the rules of the globs that match the text.
    fn find(&self, text: &str, found: &mut RuleSet) {
        if self.nodes.is_empty() {
            return;
        }
        let mut reached = Reached::default();
        self.reach(0, &mut reached, found);
        for char in text.chars() {
            let before = reached.now.len();
            // Runs that begin at this character do not read it.
            for index in 0..reached.runs.len() {
                self.follow(reached.runs[index], char, &mut reached, found);
            }
            for index in 0..before {
                let node = reached.now[index];
                if let Some(next) = self.nodes[long(node)].any_char() {
                    self.reach(next, &mut reached, found);
                }
                self.follow(node, char, &mut reached, found);
            }
            reached.now.copy_within(before.., 0);
            reached.now.truncate(reached.now.len() - before);
            if reached.now.is_empty() && reached.runs.is_empty() {
                return;
            }
        }
        reached.now.iter().for_each(|&node| self.add_rules(node, found));
    }

    /// Follows a character from a node.
    fn follow(&self, node: u32, char: char, reached: &mut Reached, found: &mut RuleSet) {
        #[cfg(test)]
        tests::READ.set(tests::READ.get() + 1);
        let chars = self.nodes[long(node)].chars();
        let next = self.nodes[long(chars.start)..long(chars.end)]
            .binary_search_by(|child| child.token.cmp(&GlobToken::Char(char)));
        if let Ok(index) = next {
            self.reach(chars.start + short(index), reached, found);
        }
    }

    /// Marks a node as reached, and also a run that follows it, which may be empty.
    fn reach(&self, node: u32, reached: &mut Reached, found: &mut RuleSet) {
        reached.now.push(node);
        let Some(run) = self.nodes[long(node)].run() else { return };
        if self.nodes[long(run)].chars().is_empty() {
            // The run matches the rest of the text.
            self.add_rules(run, found);
        } else if !reached.runs.contains(&run) {
            self.add_rules(run, found);
            reached.runs.push(run);
        }
    }

    /// Adds the rules of the glob that ends at a node, if any.
    fn add_rules(&self, node: u32, found: &mut RuleSet) {
        if let Some(rules) = self.nodes[long(node)].rules {
            found.add(&self.rules[long(rules)]);
        }
    }
}

impl Node {
    const fn new(token: GlobToken) -> Self {
        Self { token, children: (0, 0), has_run: false, has_any_char: false, rules: None }
    }

    /// Returns the position of the child for `*`.
    fn run(&self) -> Option<u32> {
        self.has_run.then_some(self.children.0)
    }

    /// Returns the position of the child for `?`.
    fn any_char(&self) -> Option<u32> {
        self.has_any_char.then(|| self.children.0 + u32::from(self.has_run))
    }

    /// Returns the positions of the children for literal characters.
    fn chars(&self) -> Range<u32> {
        let (first, end) = self.children;
        first + u32::from(self.has_run) + u32::from(self.has_any_char)..end
    }
}

fn short(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

const fn long(position: u32) -> usize {
    position as usize
}

#[cfg(test)]
mod tests;

//! Finds the rules that have a glob which matches a text, in one pass over the text.
//!
//! In a glob, `*` is any run of characters and `?` is one character; nothing escapes them. A
//! glob without wildcards is looked up by its hash. All others are in one tree, in which globs
//! that begin the same share a path. A text is read once, and every path that it follows is
//! followed at the same time. Globs that differ from the text in their first character after a
//! shared path cost nothing, wherever their wildcards are.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use smallvec::SmallVec;

use super::{
    pattern::is_literal,
    rule_set::{RuleList, RuleSet},
};

/// Globs, each with the rules that have it.
#[derive(Debug, Default)]
pub(super) struct GlobIndex {
    literals: HashMap<Box<str>, RuleList>,
    wild: GlobTree,
}

/// One step of a glob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Token {
    AnyRun,
    AnyChar,
    Char(char),
}

/// Globs, by the tokens that they begin with.
#[derive(Debug, Default)]
struct GlobTree {
    /// The first one is the root. Those of one parent are neighbours, in the order of their
    /// tokens.
    nodes: Vec<Node>,
    /// The rules of each glob.
    rules: Vec<RuleList>,
}

/// The tokens on the way from the root to a node are the beginning of a glob.
///
/// Positions are 32 bits: configuration files are too small for more nodes.
#[derive(Debug)]
struct Node {
    /// The last of these tokens.
    token: Token,
    /// Positions of the first child and after the last one.
    children: (u32, u32),
    /// Whether there are the children that are a wildcard, which come first.
    has_run: bool,
    has_any_char: bool,
    /// Position of the rules of the glob that ends here.
    rules: Option<u32>,
}

/// Positions of nodes. Few paths are followed at the same time.
type Positions = SmallVec<[u32; 16]>;

/// The nodes that the characters read so far lead to.
#[derive(Default)]
struct Reached {
    /// Those that the last character has led to.
    now: Positions,
    /// Those after a `*`, which any further characters lead to again.
    runs: Positions,
}

impl GlobIndex {
    /// An index of globs, each with a rule that has it, in the order of the rules.
    pub(super) fn new(globs: &[(&str, usize)]) -> Self {
        let mut literals: HashMap<Box<str>, RuleList> = HashMap::new();
        let mut wild: BTreeMap<Vec<Token>, RuleList> = BTreeMap::new();
        for &(glob, rule) in globs {
            let rules = if !is_literal(glob) {
                wild.entry(tokens(glob)).or_default()
            } else if let Some(rules) = literals.get_mut(glob) {
                rules
            } else {
                literals.entry(glob.into()).or_default()
            };
            rules.push(rule);
        }
        Self { literals, wild: GlobTree::new(wild) }
    }

    /// Adds the rules that have a glob which matches the text.
    pub(super) fn find(&self, text: &str, found: &mut RuleSet) {
        self.find_literal(text, found);
        self.wild.find(text, found);
    }

    /// Adds the rules that have exactly this text.
    pub(super) fn find_literal(&self, text: &str, found: &mut RuleSet) {
        if let Some(rules) = self.literals.get(text) {
            found.add(rules);
        }
    }
}

/// The tokens of a glob. Globs that match the same texts because their wildcards are only
/// written in another order, such as `*?` and `?**`, have the same tokens.
fn tokens(glob: &str) -> Vec<Token> {
    let mut tokens = Vec::with_capacity(glob.len());
    let mut has_run = false;
    for char in glob.chars() {
        match char {
            '*' => has_run = true,
            '?' => tokens.push(Token::AnyChar),
            char => {
                if std::mem::take(&mut has_run) {
                    tokens.push(Token::AnyRun);
                }
                tokens.push(Token::Char(char));
            }
        }
    }
    if has_run {
        tokens.push(Token::AnyRun);
    }
    tokens
}

impl GlobTree {
    fn new(globs: BTreeMap<Vec<Token>, RuleList>) -> Self {
        let (globs, rules): (Vec<Vec<Token>>, Vec<RuleList>) = globs.into_iter().unzip();
        if globs.is_empty() {
            return Self::default();
        }
        let mut nodes = vec![Node::new(Token::AnyRun)];
        // The nodes of one depth, each with the positions of the globs that begin with its tokens.
        let mut level = vec![(0, 0..globs.len())];
        for depth in 0.. {
            let mut below = Vec::new();
            for (node, mut within) in level {
                // The shortest one is the first.
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
                let (has_run, has_any_char) = (is_child(Token::AnyRun), is_child(Token::AnyChar));
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
        let (mut reached, mut before) = (Reached::default(), Positions::new());
        self.reach(0, &mut reached, found);
        for char in text.chars() {
            std::mem::swap(&mut before, &mut reached.now);
            reached.now.clear();
            // A run that begins after this character does not read it.
            for index in 0..reached.runs.len() {
                self.follow(reached.runs[index], char, &mut reached, found);
            }
            for &node in &before {
                if let Some(next) = self.nodes[long(node)].any_char() {
                    self.reach(next, &mut reached, found);
                }
                self.follow(node, char, &mut reached, found);
            }
            if reached.now.is_empty() && reached.runs.is_empty() {
                return;
            }
        }
        reached.now.iter().for_each(|&node| self.add_rules(node, found));
    }

    /// Reads a character at a node.
    fn follow(&self, node: u32, char: char, reached: &mut Reached, found: &mut RuleSet) {
        #[cfg(test)]
        tests::READ.set(tests::READ.get() + 1);
        let chars = self.nodes[long(node)].chars();
        let next = self.nodes[long(chars.start)..long(chars.end)]
            .binary_search_by(|child| child.token.cmp(&Token::Char(char)));
        if let Ok(index) = next {
            self.reach(chars.start + short(index), reached, found);
        }
    }

    /// Adds a node to those that have been reached, and the run that follows it, which may be
    /// empty.
    fn reach(&self, node: u32, reached: &mut Reached, found: &mut RuleSet) {
        reached.now.push(node);
        let Some(run) = self.nodes[long(node)].run() else { return };
        if self.nodes[long(run)].chars().is_empty() {
            // The rest of the text is part of the run.
            self.add_rules(run, found);
        } else if !reached.runs.contains(&run) {
            self.add_rules(run, found);
            reached.runs.push(run);
        }
    }

    /// Adds the rules of the glob that ends at a node.
    fn add_rules(&self, node: u32, found: &mut RuleSet) {
        if let Some(rules) = self.nodes[long(node)].rules {
            found.add(&self.rules[long(rules)]);
        }
    }
}

impl Node {
    const fn new(token: Token) -> Self {
        Self { token, children: (0, 0), has_run: false, has_any_char: false, rules: None }
    }

    /// Position of the child that is any run.
    fn run(&self) -> Option<u32> {
        self.has_run.then_some(self.children.0)
    }

    /// Position of the child that is any character.
    fn any_char(&self) -> Option<u32> {
        self.has_any_char.then(|| self.children.0 + u32::from(self.has_run))
    }

    /// Positions of the children that are a certain character.
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

//! Finds the rules that have a glob which matches a text, without trying every glob.
//!
//! In a glob, `*` is any run of characters and `?` is one character; nothing escapes them. A
//! glob without wildcards is looked up by its hash. Any other one is found by the text before its
//! first wildcard or after its last one, whichever fewer globs share, and is tried only on texts
//! that begin or end with it. Globs with neither are tried on every text.

use std::collections::{BTreeMap, HashMap};

use wildmatch::WildMatch;

use super::rule_set::{RuleList, RuleSet};

const WILDCARDS: [char; 2] = ['*', '?'];

/// Globs, each with the rules that have it.
#[derive(Debug, Default)]
pub(super) struct GlobIndex {
    literals: HashMap<Box<str>, RuleList>,
    by_prefix: Anchors,
    /// Anchors and texts are read backwards.
    by_suffix: Anchors,
}

/// What a glob with wildcards begins and ends with.
struct Ends<'a> {
    prefix: &'a str,
    suffix: &'a str,
}

/// Globs by the text that they begin with.
type AnchoredGlobs = BTreeMap<Box<[u8]>, Vec<Glob>>;

/// Globs by the text that they begin with, in the order of these texts.
#[derive(Debug, Default)]
struct Anchors(Vec<Anchor>);

#[derive(Debug)]
struct Anchor {
    text: Box<[u8]>,
    /// The position of the longest other anchor that this one begins with.
    shorter: Option<usize>,
    globs: Vec<Glob>,
}

#[derive(Debug)]
struct Glob {
    /// `None` if its anchor is all that it asks for.
    whole: Option<WildMatch>,
    rules: RuleList,
}

impl GlobIndex {
    /// An index of globs, each with a rule that has it, in the order of the rules.
    pub(super) fn new(globs: &[(&str, usize)]) -> Self {
        let mut rules_of: BTreeMap<&str, RuleList> = BTreeMap::new();
        for &(glob, rule) in globs {
            rules_of.entry(glob).or_default().push(rule);
        }
        let (mut literals, mut wild) = (HashMap::new(), Vec::new());
        for (glob, rules) in rules_of {
            match Ends::of(glob) {
                Some(ends) => wild.push((glob, ends, rules)),
                None => _ = literals.insert(glob.into(), rules),
            }
        }
        let (mut with_prefix, mut with_suffix) = (HashMap::new(), HashMap::new());
        for (_, ends, _) in &wild {
            *with_prefix.entry(ends.prefix).or_insert(0) += 1;
            *with_suffix.entry(ends.suffix).or_insert(0) += 1;
        }
        let (mut by_prefix, mut by_suffix) = (AnchoredGlobs::new(), AnchoredGlobs::new());
        for (glob, Ends { prefix, suffix }, rules) in wild {
            let is_by_suffix = with_suffix.get(suffix) < with_prefix.get(prefix);
            let beside_anchor =
                if is_by_suffix { &glob[..glob.len() - suffix.len()] } else { &glob[prefix.len()..] };
            let is_any = beside_anchor.bytes().all(|byte| byte == b'*');
            let entry = Glob { whole: (!is_any).then(|| WildMatch::new(glob)), rules };
            let (anchors, text) = if is_by_suffix {
                (&mut by_suffix, suffix.bytes().rev().collect())
            } else {
                (&mut by_prefix, prefix.bytes().collect())
            };
            anchors.entry(text).or_default().push(entry);
        }
        Self { literals, by_prefix: Anchors::new(by_prefix), by_suffix: Anchors::new(by_suffix) }
    }

    /// Adds the rules that have a glob which matches the text.
    pub(super) fn find(&self, text: &str, found: &mut RuleSet) {
        self.find_literal(text, found);
        self.by_prefix.find(text, text.bytes(), found);
        self.by_suffix.find(text, text.bytes().rev(), found);
    }

    /// Adds the rules that have exactly this text.
    pub(super) fn find_literal(&self, text: &str, found: &mut RuleSet) {
        if let Some(rules) = self.literals.get(text) {
            found.add(rules);
        }
    }
}

impl<'a> Ends<'a> {
    /// `None` if the glob has no wildcards.
    fn of(glob: &'a str) -> Option<Self> {
        let (prefix, rest) = glob.split_at(glob.find(WILDCARDS)?);
        let (_, suffix) = rest.split_at(rest.rfind(WILDCARDS)? + 1);
        Some(Self { prefix, suffix })
    }
}

impl Anchors {
    fn new(globs: AnchoredGlobs) -> Self {
        let mut anchors: Vec<Anchor> = Vec::with_capacity(globs.len());
        for (text, globs) in globs {
            let mut shorter = anchors.len().checked_sub(1);
            while let Some(other) = shorter.and_then(|position| anchors.get(position))
                && !text.starts_with(&other.text)
            {
                shorter = other.shorter;
            }
            anchors.push(Anchor { text, shorter, globs });
        }
        Self(anchors)
    }

    /// Adds the rules of the globs that match the text, whose bytes are read in the direction of
    /// the anchors.
    fn find(&self, text: &str, bytes: impl Iterator<Item = u8> + Clone, found: &mut RuleSet) {
        let after = self.0.partition_point(|anchor| anchor.text.iter().copied().le(bytes.clone()));
        let Some(nearest) = after.checked_sub(1).and_then(|position| self.0.get(position)) else { return };
        // All anchors that the text begins with are parts of the last one that is not after it.
        let common = nearest.text.iter().copied().zip(bytes).take_while(|(one, other)| one == other).count();
        let mut next = Some(nearest);
        while let Some(anchor) = next {
            if anchor.text.len() <= common {
                anchor.globs.iter().filter(|glob| glob.matches(text)).for_each(|glob| found.add(&glob.rules));
            }
            next = anchor.shorter.and_then(|position| self.0.get(position));
        }
    }
}

impl Glob {
    /// Whether it matches a text that has its anchor.
    fn matches(&self, text: &str) -> bool {
        self.whole.as_ref().is_none_or(|whole| {
            #[cfg(test)]
            tests::TRIED.set(tests::TRIED.get() + 1);
            whole.matches(text)
        })
    }
}

#[cfg(test)]
mod tests;

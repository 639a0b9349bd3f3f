//! The sequences of characters that folded names contain.
//!
//! A text is in the canonical form of a login if each of its characters is, its combining marks are
//! in canonical order, and no character composes with the one that it follows (Unicode, section
//! 3.11). The last two conditions are followed here one character at a time, exactly: they depend
//! only on the last starter and on the class of the last mark after it.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

use icu_normalizer::properties::{
    CanonicalCombiningClassMapBorrowed, CanonicalDecompositionBorrowed, Decomposed,
};

use super::glob::Glob;
use crate::{
    access::GlobToken,
    domain::ott::{Subject, SubjectKind},
};

/// Characters with combining class 0 or another one that compose with the character before them.
static COMPOSING: LazyLock<HashSet<char>> = LazyLock::new(|| {
    // There are no canonical compositions above this plane.
    const LAST: char = '\u{1ffff}';
    let decomposition = CanonicalDecompositionBorrowed::new();
    let second = |char| match decomposition.decompose(char) {
        Decomposed::Expansion(_, second) => Some(second),
        Decomposed::Default | Decomposed::Singleton(_) => None,
    };
    ('\u{80}'..=LAST).filter_map(second).collect()
});

/// The end of a text, as far as later characters depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Combining {
    /// The last character with combining class 0. NUL if there is none, or if it does not matter.
    starter: char,
    /// The class of the last character.
    class: u8,
}

/// The characters of globs that combine with characters before them.
#[derive(Debug)]
pub(super) struct Marks {
    marks: Vec<char>,
    /// Whether a starter combines with any of the marks.
    starters: RefCell<HashMap<char, bool>>,
}

impl Combining {
    /// Returns the end after one more character, or `None` if no folded text continues with it.
    pub(super) fn step(self, char: char) -> Option<Self> {
        let class = class(char);
        let is_blocked = if class == 0 { self.class != 0 } else { self.class >= class };
        let is_in_order = class == 0 || self.class <= class;
        if !is_in_order || (!is_blocked && combines(self.starter, char)) {
            return None;
        }
        Some(if class == 0 { Self { starter: char, class } } else { Self { class, ..self } })
    }
}

impl Marks {
    pub(super) fn of<'a, I: Iterator<Item = &'a Glob>>(globs: I) -> Self {
        let mut marks: Vec<char> = Vec::new();
        for token in globs.flat_map(Glob::tokens) {
            match token {
                GlobToken::Char(char) if is_mark(*char) => marks.push(*char),
                _ => {}
            }
        }
        marks.sort_unstable();
        marks.dedup();
        Self { marks, starters: RefCell::default() }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Returns the end of a text without what none of the marks depends on.
    pub(super) fn relevant(&self, end: Combining) -> Combining {
        if self.is_empty() {
            Combining::default()
        } else if self.combine_with(end.starter) {
            end
        } else {
            Combining { starter: '\0', ..end }
        }
    }

    /// Returns whether any of the marks combines with a starter.
    pub(super) fn combine_with(&self, starter: char) -> bool {
        let combine = || self.marks.iter().any(|&mark| combines(starter, mark));
        *self.starters.borrow_mut().entry(starter).or_insert_with(combine)
    }
}

fn class(char: char) -> u8 {
    if char.is_ascii() { 0 } else { CanonicalCombiningClassMapBorrowed::new().get_u8(char) }
}

fn is_mark(char: char) -> bool {
    !char.is_ascii() && (class(char) != 0 || COMPOSING.contains(&char))
}

/// Returns whether a mark changes the character before it, so that the two are not canonical.
fn combines(starter: char, mark: char) -> bool {
    if starter == '\0' || !is_mark(mark) {
        return false;
    }
    // Between digits, which combine with nothing and may be at either end.
    let text = format!("0{starter}{mark}0");
    !Subject::new(SubjectKind::Login, text.clone()).is_ok_and(|user| user.canonical() == text)
}

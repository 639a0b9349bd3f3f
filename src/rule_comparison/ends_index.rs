//! Finds the globs of a space that can have a name in common with a glob, by the literal texts at
//! both ends.

use super::glob::Glob;

/// The literals at the ends of globs. Each glob has a number.
#[derive(Debug, Default)]
pub(super) struct EndsIndex {
    by_prefix: Vec<(Box<str>, u32)>,
    /// Of the reversed globs.
    by_suffix: Vec<(Box<str>, u32)>,
}

impl EndsIndex {
    pub(super) fn new<'a, I: Iterator<Item = (&'a Glob, u32)>>(globs: I) -> Self {
        let mut index = Self::default();
        for (glob, number) in globs {
            let (prefix, suffix) = glob.literal_ends();
            index.by_prefix.push((prefix.into(), number));
            index.by_suffix.push((suffix.into(), number));
        }
        index.by_prefix.sort_unstable();
        index.by_suffix.sort_unstable();
        index
    }

    /// Calls a function with the numbers of the globs that begin, or that end, with literals that do
    /// not contradict those of a glob: of all others, no name is in common.
    pub(super) fn for_candidates(&self, glob: &Glob, candidate: impl FnMut(u32)) {
        let (prefix, suffix) = glob.literal_ends();
        let by_prefix = compatible(&self.by_prefix, &prefix);
        let by_suffix = compatible(&self.by_suffix, &suffix);
        let count = |slices: &[&[(Box<str>, u32)]]| slices.iter().map(|slice| slice.len()).sum::<usize>();
        let fewer = if count(&by_prefix) <= count(&by_suffix) { by_prefix } else { by_suffix };
        fewer.into_iter().flatten().map(|(_, number)| *number).for_each(candidate);
    }
}

/// Returns the entries that are a prefix of a text, or begin with it.
fn compatible<'a>(sorted: &'a [(Box<str>, u32)], text: &str) -> Vec<&'a [(Box<str>, u32)]> {
    let from = |text: &str| &sorted[sorted.partition_point(|(entry, _)| &**entry < text)..];
    let mut found = Vec::new();
    for (end, _) in text.char_indices() {
        let equal = from(&text[..end]);
        let count = equal.partition_point(|(entry, _)| **entry == text[..end]);
        if count > 0 {
            found.push(&equal[..count]);
        }
    }
    let longer = from(text);
    let count = longer.partition_point(|(entry, _)| entry.starts_with(text));
    found.push(&longer[..count]);
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn globs_with_a_common_name_are_candidates(
            texts in prop::collection::vec("[ab\u{e4}*?]{0,4}", 1..12),
            one in "[ab\u{e4}*?]{0,4}",
        ) {
            let globs: Vec<Glob> = texts.iter().map(|text| Glob::new(text)).collect();
            let index = EndsIndex::new(globs.iter().zip(0..));
            let one = Glob::new(&one);
            let mut found = Vec::new();
            index.for_candidates(&one, |number| found.push(number));
            for (number, glob) in (0..).zip(&globs) {
                prop_assert!(one.is_disjoint(glob) || found.contains(&number), "{:?}", glob);
            }
        }
    }
}

//! Sets of numbers that are mostly consecutive.

use std::collections::BTreeMap;

/// A set of numbers. Its size in memory depends on the number of gaps, and not on that of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Intervals {
    /// The last number of each interval, by its first. Intervals neither overlap nor touch.
    by_start: BTreeMap<u64, u64>,
}

/// Result of adding a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Added {
    /// It was not in the set.
    New,
    /// It was in the set.
    Known,
    /// It needs another interval, and there is no room for one.
    NoRoom,
}

impl Intervals {
    /// Adds a number. `has_room`: whether it may begin another interval.
    pub(in crate::cli) fn add(&mut self, number: u64, has_room: bool) -> Added {
        let before = self.by_start.range(..=number).next_back().map(|(start, end)| (*start, *end));
        if before.is_some_and(|(_, end)| number <= end) {
            return Added::Known;
        }
        // Not less than `number`, and not equal, because no interval contains it.
        let after = self.by_start.range(number..).next().map(|(start, end)| (*start, *end));
        let before = before.filter(|(_, end)| end.checked_add(1) == Some(number));
        let after = after.filter(|(start, _)| number.checked_add(1) == Some(*start));
        if before.is_none() && after.is_none() && !has_room {
            return Added::NoRoom;
        }
        if let Some((start, _)) = after {
            self.by_start.remove(&start);
        }
        let start = before.map_or(number, |(start, _)| start);
        self.by_start.insert(start, after.map_or(number, |(_, end)| end));
        Added::New
    }

    /// Returns the number of intervals.
    pub(in crate::cli) fn count(&self) -> usize {
        self.by_start.len()
    }

    /// Returns the first and the last number of each interval, in ascending order.
    pub(in crate::cli) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.by_start.iter().map(|(start, end)| (*start, *end))
    }

    /// Returns the lowest number.
    pub(in crate::cli) fn first(&self) -> Option<u64> {
        self.by_start.first_key_value().map(|(start, _)| *start)
    }

    /// Returns the highest number.
    pub(in crate::cli) fn last(&self) -> Option<u64> {
        self.by_start.last_key_value().map(|(_, end)| *end)
    }

    /// Returns the ranges between `first` and `last` that are in neither of two sets, in ascending
    /// order.
    pub(in crate::cli) fn missing<'a>(
        &'a self,
        other: &'a Self,
        first: u64,
        last: u64,
    ) -> impl Iterator<Item = (u64, u64)> + 'a {
        let (mut ours, mut theirs) = (self.ranges().peekable(), other.ranges().peekable());
        let mut next = Some(first);
        std::iter::from_fn(move || {
            loop {
                let at = next.filter(|at| *at <= last)?;
                let is_ours = match (ours.peek(), theirs.peek()) {
                    (Some(ours), Some(theirs)) => ours.0 <= theirs.0,
                    (ours, _) => ours.is_some(),
                };
                let Some((start, end)) = (if is_ours { ours.next() } else { theirs.next() }) else {
                    next = None;
                    return Some((at, last));
                };
                if end >= at {
                    next = end.checked_add(1);
                }
                if start > at {
                    return Some((at, last.min(start - 1)));
                }
            }
        })
    }

    /// Returns how many numbers are in both of two sets.
    pub(in crate::cli) fn numbers_in_both(&self, other: &Self) -> u64 {
        let (mut ours, mut theirs) = (self.ranges().peekable(), other.ranges().peekable());
        let mut common = 0_u64;
        while let (Some(&(start, end)), Some(&(other_start, other_end))) = (ours.peek(), theirs.peek()) {
            let (first, last) = (start.max(other_start), end.min(other_end));
            if first <= last {
                common = common.saturating_add((last - first).saturating_add(1));
            }
            if end <= other_end {
                ours.next();
            } else {
                theirs.next();
            }
        }
        common
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn intervals_behave_like_sets(
            ours in proptest::collection::vec(1..60_u64, 0..60),
            theirs in proptest::collection::vec(1..60_u64, 0..60),
            (first, last) in (1..60_u64, 1..70_u64),
        ) {
            let of = |numbers: &[u64]| {
                let (mut intervals, mut set) = (Intervals::default(), BTreeSet::new());
                for &number in numbers {
                    let added = intervals.add(number, true);
                    prop_assert_eq!(added == Added::New, set.insert(number));
                }
                prop_assert_eq!((intervals.first(), intervals.last()), (set.first().copied(), set.last().copied()));
                let ranges: Vec<u64> = intervals.ranges().flat_map(|(start, end)| start..=end).collect();
                prop_assert!(ranges.iter().eq(set.iter()));
                Ok((intervals, set))
            };
            let ((ours, our_set), (theirs, their_set)) = (of(&ours)?, of(&theirs)?);
            let missing: Vec<u64> = ours.missing(&theirs, first, last).flat_map(|(start, end)| start..=end).collect();
            let expected: Vec<u64> =
                (first..=last).filter(|it| !our_set.contains(it) && !their_set.contains(it)).collect();
            prop_assert_eq!(missing, expected);
            prop_assert_eq!(ours.numbers_in_both(&theirs), our_set.intersection(&their_set).count() as u64);
        }
    }

    #[test]
    fn full_set_takes_only_numbers_that_extend_an_interval() {
        let mut set = Intervals::default();
        assert_eq!(set.add(5, true), Added::New);
        assert_eq!(
            [4, 6, 8, 5].map(|number| set.add(number, false)),
            [Added::New, Added::New, Added::NoRoom, Added::Known]
        );
        assert_eq!((set.count(), set.ranges().next()), (1, Some((4, 6))));
        assert_eq!((set.add(u64::MAX, true), set.add(u64::MAX - 1, false)), (Added::New, Added::New));
        assert_eq!(set.missing(&set, 1, u64::MAX).collect::<Vec<_>>(), [(1, 3), (7, u64::MAX - 2)]);
    }
}

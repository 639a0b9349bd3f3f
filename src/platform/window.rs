//! Counts of events in the last ten seconds, in slots of one second.
//!
//! Counting takes no lock. The owner interprets the counts.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::base::clock::{self, Instant};

/// Length of the window, in seconds.
const SECONDS: u64 = 10;
const SLOTS: usize = 10;

/// Bits of each of the two counts. A slot is one `u64`: 24 bits for the second, then the
/// counts.
const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const SECOND_MAX: u64 = (1 << 24) - 1;

/// Two counts over the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// All events.
    pub(super) total: u64,
    /// Failures among them, or retries.
    pub(super) marked: u64,
}

/// Sliding window.
#[derive(Debug)]
pub(super) struct Window {
    started: Instant,
    slots: [AtomicU64; SLOTS],
}

impl Window {
    /// Creates an empty window.
    pub(super) fn new() -> Self {
        Self { started: clock::now(), slots: array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Adds to the counts of the second of `now`.
    pub(super) fn add(&self, counts: Counts, now: Instant) {
        let second = self.second(now);
        let _ = self.slot(second).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let kept = read(word, second).unwrap_or_default();
            let total = (kept.total + counts.total).min(COUNT_MAX);
            let marked = (kept.marked + counts.marked).min(COUNT_MAX);
            Some(((second & SECOND_MAX) << (2 * COUNT_BITS)) | (total << COUNT_BITS) | marked)
        });
    }

    /// Returns the counts of the current second.
    pub(super) fn this_second(&self) -> Counts {
        self.at(self.second(clock::now()))
    }

    /// Returns the counts of the last ten seconds, including the current one.
    pub(super) fn totals(&self) -> Counts {
        let now = self.second(clock::now());
        (now.saturating_sub(SECONDS - 1)..=now).map(|second| self.at(second)).fold(
            Counts::default(),
            |sum, slot| Counts { total: sum.total + slot.total, marked: sum.marked + slot.marked },
        )
    }

    /// Resets all counts.
    pub(super) fn clear(&self) {
        for slot in &self.slots {
            slot.store(0, Ordering::Relaxed);
        }
    }

    fn slot(&self, second: u64) -> &AtomicU64 {
        &self.slots[usize::try_from(second % SECONDS).unwrap_or_default()]
    }

    fn at(&self, second: u64) -> Counts {
        read(self.slot(second).load(Ordering::Relaxed), second).unwrap_or_default()
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs()
    }
}

/// Returns the counts of a slot if they belong to that second.
const fn read(word: u64, second: u64) -> Option<Counts> {
    if word >> (2 * COUNT_BITS) == second & SECOND_MAX {
        Some(Counts { total: (word >> COUNT_BITS) & COUNT_MAX, marked: word & COUNT_MAX })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn counts_expire_after_exactly_ten_seconds() {
        let window = Window::new();
        window.add(Counts { total: 2, marked: 1 }, clock::now());
        tokio::time::advance(Duration::from_secs(9)).await;
        window.add(Counts { total: 1, marked: 1 }, clock::now());
        assert_eq!(window.totals(), Counts { total: 3, marked: 2 });
        assert_eq!(window.this_second(), Counts { total: 1, marked: 1 });
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(window.totals(), Counts { total: 1, marked: 1 });
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(window.totals(), Counts::default());
    }

    #[tokio::test(start_paused = true)]
    async fn slot_is_reused_in_the_next_round() {
        let window = Window::new();
        window.add(Counts { total: 5, marked: 5 }, clock::now());
        tokio::time::advance(Duration::from_secs(10)).await;
        window.add(Counts { total: 1, marked: 0 }, clock::now());
        assert_eq!(window.totals(), Counts { total: 1, marked: 0 });
        window.clear();
        assert_eq!(window.totals(), Counts::default());
    }

    #[test]
    fn no_count_is_lost_between_threads() {
        let window = Window::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    (0..1000).for_each(|_| window.add(Counts { total: 1, marked: 0 }, clock::now()));
                });
            }
        });
        assert_eq!(window.totals().total, 4000);
    }
}

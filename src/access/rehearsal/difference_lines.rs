//! Limits of the log lines about differences, so that no caller hides the others.
//!
//! A caller has a line at most every [`CALLER_INTERVAL`], and all callers together have a few lines
//! every [`WARNING_INTERVAL`]. A caller that has no line because of the others gets the next one that
//! it is due. Nothing is kept until the candidate rules decide differently.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::WARNING_INTERVAL;
use crate::{
    base::clock::{self, Instant},
    domain::call::CandidateDifference,
};

/// Minimum interval between two lines about one caller. It is much longer than the interval of all
/// lines, so that callers take turns.
const CALLER_INTERVAL: Duration = Duration::from_mins(10);

/// Maximum number of lines of one kind per [`WARNING_INTERVAL`]. For both kinds, and in any interval
/// of this length, this is less than what the limit of all log lines lets through.
const LINES: u32 = 2;

/// Maximum number of callers with a limit of their own, of each kind. Others share one.
const MAX_CALLERS: usize = 1024;

/// Limits of the log lines about differences.
#[derive(Debug, Default)]
pub(in crate::access) struct DifferenceLines {
    would_deny: Mutex<Lines>,
    would_allow: Mutex<Lines>,
}

/// Lines of one kind.
#[derive(Debug, Default)]
struct Lines {
    callers: HashMap<Box<str>, CallerLines>,
    /// Callers beyond the limit.
    others: CallerLines,
    total: Total,
    /// When callers were last forgotten to make room.
    made_room: Option<Instant>,
}

/// Lines about one caller.
#[derive(Clone, Copy, Debug, Default)]
struct CallerLines {
    last: Option<Instant>,
    /// When the caller last had a difference.
    seen: Option<Instant>,
    suppressed: u64,
}

/// Lines about all callers.
#[derive(Debug, Default)]
struct Total {
    since: Option<Instant>,
    written: u32,
}

impl DifferenceLines {
    /// Returns the number of lines about this caller that were suppressed since the last one, if a
    /// line may be written now. Calls that the candidate rules cannot decide have no lines.
    pub(super) fn due(&self, difference: CandidateDifference, caller: &str) -> Option<u64> {
        let lines = match difference {
            CandidateDifference::WouldDeny => &self.would_deny,
            CandidateDifference::WouldAllow => &self.would_allow,
            CandidateDifference::Undecided => return None,
        };
        lines.lock().unwrap_or_else(PoisonError::into_inner).due(caller, clock::now())
    }
}

impl Lines {
    fn due(&mut self, caller: &str, now: Instant) -> Option<u64> {
        if let Some(lines) = self.callers.get_mut(caller) {
            return lines.due(CALLER_INTERVAL, &mut self.total, now);
        }
        if self.callers.len() >= MAX_CALLERS {
            self.make_room(now);
        }
        if self.callers.len() >= MAX_CALLERS {
            return self.others.due(WARNING_INTERVAL, &mut self.total, now);
        }
        let lines = self.callers.entry(caller.into()).or_default();
        lines.due(CALLER_INTERVAL, &mut self.total, now)
    }

    /// Forgets callers without a recent difference. Seldom, because it reads all of them.
    fn make_room(&mut self, now: Instant) {
        if is_within(self.made_room, WARNING_INTERVAL, now) {
            return;
        }
        self.made_room = Some(now);
        let mut suppressed = 0;
        self.callers.retain(|_, lines| {
            let is_recent = is_within(lines.seen, CALLER_INTERVAL, now);
            suppressed += if is_recent { 0 } else { lines.suppressed };
            is_recent
        });
        self.others.suppressed += suppressed;
    }
}

impl CallerLines {
    fn due(&mut self, interval: Duration, total: &mut Total, now: Instant) -> Option<u64> {
        self.seen = Some(now);
        if is_within(self.last, interval, now) || !total.take(now) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl Total {
    /// Takes a line. Returns whether there was one left.
    fn take(&mut self, now: Instant) -> bool {
        if !is_within(self.since, WARNING_INTERVAL, now) {
            *self = Self { since: Some(now), written: 0 };
        }
        let has_line = self.written < LINES;
        self.written += u32::from(has_line);
        has_line
    }
}

/// Returns whether a time is less than this interval ago.
fn is_within(time: Option<Instant>, interval: Duration, now: Instant) -> bool {
    time.is_some_and(|time| now.saturating_duration_since(time) < interval)
}

#[cfg(test)]
mod tests {
    use super::{CandidateDifference::*, *};

    #[tokio::test(start_paused = true)]
    async fn frequent_caller_hides_no_other() {
        let lines = DifferenceLines::default();
        assert_eq!(lines.due(WouldDeny, "frequent"), Some(0));
        for _ in 0..1000 {
            assert_eq!(lines.due(WouldDeny, "frequent"), None);
        }
        assert_eq!(lines.due(WouldDeny, "other"), Some(0));
        assert_eq!(lines.due(WouldAllow, "frequent"), Some(0), "another kind of difference");
        assert_eq!(lines.due(Undecided, "third"), None);
        tokio::time::advance(CALLER_INTERVAL).await;
        assert_eq!(lines.due(WouldDeny, "frequent"), Some(1000), "its own calls");
    }

    #[tokio::test(start_paused = true)]
    async fn callers_take_turns_within_the_limit_of_all_lines() {
        let lines = DifferenceLines::default();
        let names: Vec<String> = (0..20).map(|number| format!("jwt:{number}")).collect();
        let mut written = Vec::new();
        for round in 1..=10 {
            // The first callers are the most frequent ones.
            for name in names.iter().chain(&names[..5]).chain(&names[..5]) {
                written.extend(lines.due(WouldDeny, name).map(|_| name));
            }
            assert_eq!(written.len(), 2 * round);
            tokio::time::advance(WARNING_INTERVAL).await;
        }
        written.sort_unstable();
        written.dedup();
        assert_eq!(written.len(), names.len(), "each caller has a line");
    }

    #[tokio::test(start_paused = true)]
    async fn number_of_callers_is_bounded_and_forgotten_ones_make_room() {
        let lines = DifferenceLines::default();
        let name = |number: usize| format!("jwt:{number}");
        for number in 0..MAX_CALLERS + 100 {
            let expected = if number < 2 { Some(0) } else { None };
            assert_eq!(lines.due(WouldDeny, &name(number)), expected, "{number}");
        }
        let callers = || lines.would_deny.lock().unwrap().callers.len();
        assert_eq!(callers(), MAX_CALLERS);
        tokio::time::advance(CALLER_INTERVAL / 2).await;
        assert_eq!(lines.due(WouldDeny, "jwt:other"), Some(100), "of all callers beyond the limit");
        assert_eq!(lines.due(WouldDeny, &name(5)), Some(1));
        tokio::time::advance(CALLER_INTERVAL / 2).await;
        assert_eq!(lines.due(WouldDeny, "jwt:new"), Some(0));
        assert_eq!(callers(), 2, "the new one, and the only one with a recent difference");
        tokio::time::advance(WARNING_INTERVAL).await;
        let shared = lines.would_deny.lock().unwrap().others;
        assert_eq!(shared.suppressed, MAX_CALLERS as u64 - 3, "counted with those without a limit");
    }
}

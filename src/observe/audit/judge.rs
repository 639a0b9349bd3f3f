//! Decides whether the sink is available, from the results and durations of writes.
//!
//! Reads no clock: the caller passes the times.

use std::time::Duration;

use crate::base::clock::Instant;

/// Maximum duration of a write, with its sync and its retries: a second, and a margin for a busy
/// machine.
pub(super) const MAX_WRITE: Duration = Duration::from_millis(1250);
/// An outage that begins within this time after the last one is a relapse.
const RELAPSE_WINDOW: Duration = Duration::from_mins(1);
/// Trial period after the first relapse, in which all writes must succeed in time. Each further
/// relapse doubles it.
const MIN_TRIAL: Duration = Duration::from_secs(1);
const MAX_TRIAL: Duration = Duration::from_secs(30);

/// Decides whether the sink is available. It is available after its first write that succeeds in
/// time. A failed or slow write makes it unavailable until the next successful one. After a
/// relapse, all writes must succeed for a trial period first, so that a sink that keeps failing
/// does not waste tokens repeatedly.
#[derive(Debug, Default)]
pub(super) struct Judge {
    state: State,
    recovered: Option<Instant>,
    /// Trial period of the current outage, or of the last one.
    trial: Duration,
}

#[derive(Debug, Default)]
enum State {
    /// No write has been judged.
    #[default]
    Unproven,
    Available,
    Outage {
        /// Beginning of the current series of successful writes.
        good_since: Option<Instant>,
    },
}

impl Judge {
    pub(super) const fn is_available(&self) -> bool {
        matches!(self.state, State::Available)
    }

    /// Returns whether an outage is in progress.
    pub(super) const fn is_in_outage(&self) -> bool {
        matches!(self.state, State::Outage { .. })
    }

    /// Judges a write that succeeded. Returns whether it was fast enough.
    pub(super) fn written(&mut self, started: Instant, now: Instant) -> bool {
        let is_fast = now.saturating_duration_since(started) < MAX_WRITE;
        if !is_fast {
            self.failed(now);
            return false;
        }
        match &mut self.state {
            State::Unproven => self.state = State::Available,
            State::Available => {}
            State::Outage { good_since } => {
                let good_since = *good_since.get_or_insert(started);
                if now.saturating_duration_since(good_since) >= self.trial {
                    self.state = State::Available;
                    self.recovered = Some(now);
                }
            }
        }
        true
    }

    /// Judges a write that failed, or a call whose record was not written in time.
    pub(super) fn failed(&mut self, now: Instant) {
        if let State::Outage { good_since } = &mut self.state {
            *good_since = None;
            return;
        }
        let is_relapse = self.recovered.is_some_and(|at| now.saturating_duration_since(at) < RELAPSE_WINDOW);
        self.trial = if is_relapse { (self.trial * 2).clamp(MIN_TRIAL, MAX_TRIAL) } else { Duration::ZERO };
        self.state = State::Outage { good_since: None };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::clock;

    const MS: Duration = Duration::from_millis(1);

    /// A judge, and the time of its last write.
    struct Case {
        judge: Judge,
        now: Instant,
    }

    impl Case {
        /// A sink whose first write was in time.
        fn new() -> Self {
            let mut case = Self { judge: Judge::default(), now: clock::now() };
            assert!(case.write(MS));
            case
        }

        fn write(&mut self, took: Duration) -> bool {
            let started = self.now;
            self.now += took;
            self.judge.written(started, self.now);
            self.judge.is_available()
        }

        fn fail(&mut self) {
            self.judge.failed(self.now);
            assert!(!self.judge.is_available());
        }

        /// Number of writes of 100 ms until it is available again.
        fn writes_to_recover(&mut self) -> u32 {
            (1..1000).find(|_| self.write(100 * MS)).expect("it recovers")
        }
    }

    #[test]
    fn writes_below_the_limit_never_make_the_sink_unavailable_and_longer_ones_always_do() {
        let mut case = Case::new();
        for took in [0, 450, 550, 900, 999, 1249] {
            assert!(case.write(took * MS), "{took}");
        }
        assert!(!case.write(MAX_WRITE));
        for _ in 0..100 {
            assert!(!case.write(1500 * MS), "it stays unavailable, so no call is sent in between");
        }
        assert!(case.write(900 * MS));
    }

    #[test]
    fn first_successful_write_makes_the_sink_available_without_a_recovery() {
        for faults in 0..3 {
            let mut case = Case { judge: Judge::default(), now: clock::now() };
            assert!(!case.judge.is_available() && !case.judge.is_in_outage());
            for _ in 0..faults {
                assert!(!case.write(MAX_WRITE) && case.judge.is_in_outage());
            }
            assert!(case.write(MS) && !case.judge.is_in_outage());
            case.fail();
            let relapses = faults > 0;
            assert_eq!(case.writes_to_recover(), if relapses { 10 } else { 1 }, "{faults}");
        }
    }

    #[test]
    fn each_relapse_doubles_the_trial_up_to_its_maximum_until_a_minute_without_failures() {
        let mut case = Case::new();
        let mut trials = Vec::new();
        for _ in 0..8 {
            case.fail();
            trials.push(case.writes_to_recover());
        }
        assert_eq!(trials, [1, 10, 20, 40, 80, 160, 300, 300]);
        case.now += RELAPSE_WINDOW;
        case.fail();
        assert_eq!(case.writes_to_recover(), 1);
    }

    #[test]
    fn bad_write_restarts_the_trial() {
        let mut case = Case::new();
        case.fail();
        assert!(case.write(MS));
        case.fail();
        for _ in 0..9 {
            assert!(!case.write(100 * MS));
        }
        case.fail();
        assert_eq!(case.writes_to_recover(), 10, "the trial period does not change within an outage");
    }

    proptest! {
        /// At most one outage per trial period: the total cost of a bad sink is bounded.
        #[test]
        fn outages_are_few_for_any_pattern_of_faults(faults in proptest::collection::vec(any::<bool>(), 600)) {
            let mut case = Case::new();
            let mut outages = 0;
            for fault in faults {
                let was_available = case.judge.is_available();
                if fault { case.judge.failed(case.now) } else { case.write(100 * MS); }
                outages += u32::from(was_available && !case.judge.is_available());
            }
            // Within one minute: trials of 0, 1, 2, 4, 8, 16 and 30 seconds.
            prop_assert!(outages <= 8, "{outages}");
        }
    }
}

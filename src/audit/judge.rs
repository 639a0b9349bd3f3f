//! Decides from the times and results of writes whether the sink is available.
//!
//! Holds no clock: the caller passes the times.

use std::time::Duration;

use crate::clock::Instant;

/// Maximum duration of a write, with its sync and its retries. Writes of up to a second are
/// in time; the rest is left for a machine that is busy.
pub(super) const MAX_WRITE: Duration = Duration::from_millis(1250);
/// An outage that begins within this time after the last one is a relapse.
const RELAPSE_WINDOW: Duration = Duration::from_mins(1);
/// Time of good writes that follows the first relapse. Each further one doubles it.
const MIN_TRIAL: Duration = Duration::from_secs(1);
const MAX_TRIAL: Duration = Duration::from_secs(30);

/// Judges the sink. It is available after its first good write, and not before. One failed or
/// slow write makes it unavailable, and the next good one available again; after a relapse,
/// only when all writes have been good for the time of its trial, so that a sink that keeps
/// failing does not cost tokens again and again.
#[derive(Debug, Default)]
pub(super) struct Judge {
    state: State,
    recovered: Option<Instant>,
    /// The trial after the current outage, or after the last one.
    trial: Duration,
}

#[derive(Debug, Default)]
enum State {
    /// No write has been judged.
    #[default]
    Unproven,
    Available,
    Outage {
        /// Beginning of the first of the good writes in a row.
        good_since: Option<Instant>,
    },
}

impl Judge {
    pub(super) const fn is_available(&self) -> bool {
        matches!(self.state, State::Available)
    }

    /// Whether the sink has failed, and no good write has ended that.
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
    use crate::clock;

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
            assert!(!case.write(1500 * MS), "steady, without a call that is sent in between");
        }
        assert!(case.write(900 * MS));
    }

    #[test]
    fn sink_is_available_with_its_first_good_write_and_that_is_no_recovery() {
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
    fn each_relapse_doubles_the_trial_up_to_its_maximum_and_a_good_minute_resets_it() {
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
    fn bad_write_begins_the_trial_again() {
        let mut case = Case::new();
        case.fail();
        assert!(case.write(MS));
        case.fail();
        for _ in 0..9 {
            assert!(!case.write(100 * MS));
        }
        case.fail();
        assert_eq!(case.writes_to_recover(), 10, "the same trial: it is the same outage");
    }

    proptest! {
        /// At most one outage per trial: the sum of what a sink can cost is bounded.
        #[test]
        fn sink_with_any_pattern_of_faults_has_few_outages(faults in proptest::collection::vec(any::<bool>(), 600)) {
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

//! A clock that is read once per poll of a connection's task.
//!
//! The HTTP/2 library reads the time at each poll and for each part of a body, only to schedule
//! keepalive pings that are seconds apart. One reading per turn is precise enough for that, and for
//! the arrival time of a call, whose headers were read in the same turn.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;

use crate::base::clock::{self, Instant};

/// The clock of one connection. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct TurnClock {
    created: Instant,
    /// Nanoseconds from `created` to the start of the turn.
    turn: Arc<AtomicU64>,
}

impl TurnClock {
    /// Records the time at the start of a poll.
    pub(super) fn turn_begins(&self) {
        let elapsed = clock::now().saturating_duration_since(self.created).as_nanos();
        self.turn.store(u64::try_from(elapsed).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Returns the start of the turn.
    pub(super) fn now(&self) -> Instant {
        self.created + Duration::from_nanos(self.turn.load(Ordering::Relaxed))
    }
}

impl Default for TurnClock {
    fn default() -> Self {
        Self { created: clock::now(), turn: Arc::default() }
    }
}

impl Timer for TurnClock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        TokioTimer::new().sleep(duration)
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        TokioTimer::new().sleep_until(deadline)
    }

    fn now(&self) -> std::time::Instant {
        Self::now(self).into_std()
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: std::time::Instant) {
        TokioTimer::new().reset(sleep, deadline);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_changes_only_when_a_turn_begins() {
        let clock = TurnClock::default();
        let created = clock.now();
        assert_eq!(created, clock::now());
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(clock.now(), created, "the same turn");
        let library_clock = clock.clone();
        clock.turn_begins();
        assert_eq!(clock.now(), created + Duration::from_secs(7));
        assert_eq!(Timer::now(&library_clock), clock::now().into_std());
    }

    #[tokio::test(start_paused = true)]
    async fn timers_do_not_depend_on_turns() {
        let (clock, begun) = (TurnClock::default(), clock::now());
        clock.sleep(Duration::from_secs(1)).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
        let mut sleep = clock.sleep_until((begun + Duration::from_secs(2)).into_std());
        clock.reset(&mut sleep, (begun + Duration::from_secs(5)).into_std());
        sleep.await;
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
    }
}

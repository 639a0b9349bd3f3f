//! Whether the platform is asked at all: after too many failures only a probe is let
//! through each second, so that a platform that is down costs callers nothing.
//!
//! What counts as a failure is decided by who reports it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::window::{Tally, Window};
use crate::{
    call::Operation,
    clock::{self, Instant},
    telemetry::metrics::{ApiClientMetrics, BreakerState},
};

/// When a breaker opens, and how it probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// So many attempts within ten seconds are needed for a judgement.
    pub min_attempts: u32,
    /// At this share of failures, in percent, it opens.
    pub failure_percent: u32,
    /// The time between two probes.
    pub probe_interval: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self { min_attempts: 20, failure_percent: 50, probe_interval: Duration::from_secs(1) }
    }
}

/// Leave to make one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Like every other.
    Ordinary,
    /// The one attempt that finds out whether the platform is back.
    Probe,
}

/// The breaker is open; another attempt is worth it after that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) retry_after: Duration,
}

/// The breaker of one API client.
#[derive(Debug)]
pub(super) struct Breaker {
    settings: Option<BreakerSettings>,
    attempts: Window,
    started: Instant,
    /// When the next probe is due, in milliseconds since `started`; 0 while closed.
    next_probe_ms: AtomicU64,
    metrics: ApiClientMetrics,
}

impl Breaker {
    /// A closed breaker; without settings one that never opens.
    pub(super) fn new(settings: Option<BreakerSettings>, metrics: ApiClientMetrics) -> Self {
        metrics.breaker(BreakerState::Closed);
        Self {
            settings,
            attempts: Window::new(),
            started: clock::now(),
            next_probe_ms: AtomicU64::new(0),
            metrics,
        }
    }

    /// Asks to make an attempt. Only minting probes: a login is never risked.
    pub(super) fn admit(&self, operation: Operation) -> Result<Admission, Open> {
        let due = self.next_probe_ms.load(Ordering::Acquire);
        let Some(settings) = self.settings.filter(|_| due != 0) else { return Ok(Admission::Ordinary) };
        let now = self.now_ms();
        if now >= due && operation == Operation::IssueOtt {
            let next = now.saturating_add(millis(settings.probe_interval)).max(1);
            if self.next_probe_ms.compare_exchange(due, next, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                self.metrics.breaker(BreakerState::HalfOpen);
                return Ok(Admission::Probe);
            }
        }
        let wait = Duration::from_millis(due.saturating_sub(now));
        Err(Open { retry_after: if wait.is_zero() { settings.probe_interval } else { wait } })
    }

    /// Reports how an admitted attempt ended. One that is never reported (its caller
    /// went away before anything was sent) proves nothing, and the next probe follows.
    pub(super) fn report(&self, admission: Admission, failed: bool) {
        let Some(settings) = self.settings else { return };
        match admission {
            Admission::Probe if failed => self.metrics.breaker(BreakerState::Open),
            Admission::Probe => {
                self.attempts.clear();
                self.next_probe_ms.store(0, Ordering::Release);
                self.metrics.breaker(BreakerState::Closed);
                tracing::info!("the platform answers again; the breaker is closed");
            }
            Admission::Ordinary => {
                self.attempts.add(Tally { all: 1, marked: u64::from(failed) });
                if failed {
                    self.judge(settings);
                }
            }
        }
    }

    fn judge(&self, settings: BreakerSettings) {
        let Tally { all, marked } = self.attempts.totals();
        if all < u64::from(settings.min_attempts) || marked * 100 < all * u64::from(settings.failure_percent)
        {
            return;
        }
        let due = self.now_ms().saturating_add(millis(settings.probe_interval)).max(1);
        if self.next_probe_ms.compare_exchange(0, due, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.metrics.breaker(BreakerState::Open);
            tracing::warn!(
                attempts = all,
                failures = marked,
                "the platform is failing; the breaker is open, and one probe a second goes through"
            );
        }
    }

    fn now_ms(&self) -> u64 {
        millis(clock::now().saturating_duration_since(self.started))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(Some(BreakerSettings::default()), ApiClientMetrics::default())
    }

    fn fail(breaker: &Breaker, times: usize) {
        for _ in 0..times {
            breaker.report(Admission::Ordinary, true);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn opens_at_half_of_twenty_and_not_before() {
        let breaker = breaker();
        for _ in 0..10 {
            breaker.report(Admission::Ordinary, false);
        }
        fail(&breaker, 9);
        assert_eq!(breaker.admit(Operation::IssueOtt), Ok(Admission::Ordinary), "19 are too few");
        fail(&breaker, 1);
        assert_eq!(breaker.admit(Operation::IssueOtt), Err(Open { retry_after: Duration::from_secs(1) }));
    }

    #[tokio::test(start_paused = true)]
    async fn stays_closed_below_half() {
        let breaker = breaker();
        for _ in 0..50 {
            breaker.report(Admission::Ordinary, false);
        }
        fail(&breaker, 49);
        assert_eq!(breaker.admit(Operation::LoginWithOtt), Ok(Admission::Ordinary));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_more_than_ten_seconds_ago_do_not_count() {
        let breaker = breaker();
        fail(&breaker, 19);
        tokio::time::advance(Duration::from_secs(10)).await;
        fail(&breaker, 1);
        assert_eq!(breaker.admit(Operation::IssueOtt), Ok(Admission::Ordinary));
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_a_second_and_never_a_login() {
        let breaker = breaker();
        fail(&breaker, 20);
        for _ in 0..3 {
            assert!(breaker.admit(Operation::IssueOtt).is_err());
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(breaker.admit(Operation::LoginWithOtt).is_err(), "a login must not probe");
            assert_eq!(breaker.admit(Operation::IssueOtt), Ok(Admission::Probe));
            assert!(breaker.admit(Operation::IssueOtt).is_err(), "a second probe");
            breaker.report(Admission::Probe, true);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_succeeds_closes_it_for_good() {
        let breaker = breaker();
        fail(&breaker, 20);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(breaker.admit(Operation::IssueOtt), Ok(Admission::Probe));
        breaker.report(Admission::Probe, false);
        assert_eq!(breaker.admit(Operation::LoginWithOtt), Ok(Admission::Ordinary));
        fail(&breaker, 1);
        assert_eq!(breaker.admit(Operation::IssueOtt), Ok(Admission::Ordinary), "the old failures are gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_never_reported_is_followed_by_the_next() {
        let breaker = breaker();
        fail(&breaker, 20);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(breaker.admit(Operation::IssueOtt), Ok(Admission::Probe));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(breaker.admit(Operation::IssueOtt), Ok(Admission::Probe));
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_while_it_is_open_does_not_close_it() {
        let breaker = breaker();
        fail(&breaker, 20);
        breaker.report(Admission::Ordinary, false);
        assert!(breaker.admit(Operation::IssueOtt).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn without_settings_it_never_opens() {
        let breaker = Breaker::new(None, ApiClientMetrics::default());
        fail(&breaker, 100);
        assert_eq!(breaker.admit(Operation::IssueOtt), Ok(Admission::Ordinary));
    }
}

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

/// An open breaker that has not heard of the platform for so long knows nothing of it any
/// more. Without this, a gateway whose callers only log in would stay shut for ever:
/// nothing that it is asked for may probe.
const SILENCE: Duration = Duration::from_secs(10);

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
    /// When it opened, or when the last probe ended, in milliseconds since `started`.
    heard_ms: AtomicU64,
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
            heard_ms: AtomicU64::new(0),
            metrics,
        }
    }

    /// Asks to make an attempt. Only minting probes: a login is never risked.
    pub(super) fn admit(&self, operation: Operation) -> Result<Admission, Open> {
        let due = self.next_probe_ms.load(Ordering::Acquire);
        let Some(settings) = self.settings.filter(|_| due != 0) else { return Ok(Admission::Ordinary) };
        let now = self.now_ms();
        if now.saturating_sub(self.heard_ms.load(Ordering::Acquire)) >= millis(SILENCE) {
            self.close(due);
            return Ok(Admission::Ordinary);
        }
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
        if admission == Admission::Probe {
            self.heard_ms.store(self.now_ms(), Ordering::Release);
        }
        match admission {
            Admission::Probe if failed => {
                // Unless it was closed meanwhile.
                if self.next_probe_ms.load(Ordering::Acquire) != 0 {
                    self.metrics.breaker(BreakerState::Open);
                }
            }
            Admission::Probe => {
                let due = self.next_probe_ms.load(Ordering::Acquire);
                self.close(due);
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
        let now = self.now_ms();
        let due = now.saturating_add(millis(settings.probe_interval)).max(1);
        if self.next_probe_ms.load(Ordering::Acquire) != 0 {
            return;
        }
        // First, or whoever sees it open might find it silent for long.
        self.heard_ms.store(now, Ordering::Release);
        if self.next_probe_ms.compare_exchange(0, due, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.metrics.breaker(BreakerState::Open);
            tracing::warn!(
                attempts = all,
                failures = marked,
                "the platform is failing; the breaker is open, and one probe a second goes through"
            );
        }
    }

    /// Closes it, unless another thread has changed it since `due` was read.
    fn close(&self, due: u64) {
        if due != 0
            && self.next_probe_ms.compare_exchange(due, 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
        {
            self.attempts.clear();
            self.metrics.breaker(BreakerState::Closed);
            tracing::info!("the platform is asked again; the breaker is closed");
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
    async fn where_nothing_but_logins_is_asked_for_it_closes_after_a_while_and_opens_again() {
        let breaker = breaker();
        for _ in 0..2 {
            fail(&breaker, 20);
            tokio::time::advance(Duration::from_millis(9_999)).await;
            assert!(breaker.admit(Operation::LoginWithOtt).is_err());
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(breaker.admit(Operation::LoginWithOtt), Ok(Admission::Ordinary));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn probes_that_fail_keep_it_open_and_probes_that_never_end_do_not() {
        let breaker = breaker();
        fail(&breaker, 20);
        for _ in 0..30 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(breaker.admit(Operation::IssueOtt), Ok(Admission::Probe));
            breaker.report(Admission::Probe, true);
            assert!(breaker.admit(Operation::LoginWithOtt).is_err());
        }
        // As while no access token can be had: nothing is ever sent.
        for _ in 0..9 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(breaker.admit(Operation::IssueOtt), Ok(Admission::Probe));
            assert!(breaker.admit(Operation::LoginWithOtt).is_err());
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(breaker.admit(Operation::LoginWithOtt), Ok(Admission::Ordinary));
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

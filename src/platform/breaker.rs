//! Circuit breaker of one endpoint: after too many failures it admits one probe per second, so that
//! calls fail fast while the endpoint is down.
//!
//! Each endpoint has a separate breaker and is probed by its own requests, because issuing can work
//! while logins fail. A login that serves as a probe may lose its token, but nothing else shows
//! that logins work again. `attempt` decides what counts as evidence.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::window::{Counts, Window};
use crate::{
    base::clock::{self, Instant},
    domain::call::Method,
    observe::telemetry::metrics::{ApiClientMetrics, BreakerState},
};

/// When a breaker opens, and how it probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Minimum number of attempts within ten seconds.
    pub min_attempts: u32,
    /// Share of failures at which it opens, in percent.
    pub failure_percent: u32,
    /// Interval between two probes.
    pub probe_interval: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self { min_attempts: 20, failure_percent: 50, probe_interval: Duration::from_secs(1) }
    }
}

/// Permission to make one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BreakerPermit {
    /// The breaker is closed.
    Closed,
    /// The one attempt that checks whether the endpoint has recovered.
    Probe,
}

/// Evidence of an attempt about the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// It responds.
    Up,
    /// It does not respond, or responds with server errors.
    Down,
    /// Nothing: the attempt ended for reasons of this machine or process.
    Nothing,
}

/// Error for an open breaker, with the time until the next attempt makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) retry_after: Duration,
}

/// The breaker of one endpoint.
#[derive(Debug)]
pub(super) struct Breaker {
    method: Method,
    settings: Option<BreakerSettings>,
    attempts: Window,
    started: Instant,
    /// When the next probe is due, in milliseconds since `started`; 0 while closed.
    next_probe_ms: AtomicU64,
    metrics: ApiClientMetrics,
}

impl Breaker {
    /// Creates a closed breaker. Without settings it never opens.
    pub(super) fn new(method: Method, settings: Option<BreakerSettings>, metrics: ApiClientMetrics) -> Self {
        metrics.breaker(method, BreakerState::Closed);
        Self {
            method,
            settings,
            attempts: Window::new(),
            started: clock::now(),
            next_probe_ms: AtomicU64::new(0),
            metrics,
        }
    }

    /// Checks whether [`admit`](Self::admit) would refuse an attempt now. Does not use up a probe.
    pub(super) fn check(&self) -> Result<(), Open> {
        let due = self.next_probe_ms.load(Ordering::Acquire);
        let wait = Duration::from_millis(due.saturating_sub(self.now_ms()));
        if self.settings.is_none() || wait.is_zero() { Ok(()) } else { Err(Open { retry_after: wait }) }
    }

    /// Requests permission for an attempt. While the breaker is open, one attempt per probe
    /// interval is admitted. A probe that is never reported (its caller disconnected before
    /// anything was sent) proves nothing, and the next one follows.
    pub(super) fn admit(&self) -> Result<BreakerPermit, Open> {
        let due = self.next_probe_ms.load(Ordering::Acquire);
        let Some(settings) = self.settings.filter(|_| due != 0) else { return Ok(BreakerPermit::Closed) };
        let now = self.now_ms();
        if now >= due {
            let next = now.saturating_add(millis(settings.probe_interval)).max(1);
            if self.next_probe_ms.compare_exchange(due, next, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                self.metrics.breaker(self.method, BreakerState::HalfOpen);
                return Ok(BreakerPermit::Probe);
            }
        }
        let wait = Duration::from_millis(due.saturating_sub(now));
        Err(Open { retry_after: if wait.is_zero() { settings.probe_interval } else { wait } })
    }

    /// Reports the evidence of an admitted attempt that ended at `now`.
    pub(super) fn report(&self, permit: BreakerPermit, evidence: Evidence, now: Instant) {
        let Some(settings) = self.settings else { return };
        let failed = match evidence {
            Evidence::Up => false,
            Evidence::Down => true,
            Evidence::Nothing => return,
        };
        match permit {
            BreakerPermit::Probe if failed => {
                // Unless the breaker has closed in the meantime.
                if self.next_probe_ms.load(Ordering::Acquire) != 0 {
                    self.metrics.breaker(self.method, BreakerState::Open);
                }
            }
            BreakerPermit::Probe => self.close(),
            BreakerPermit::Closed => {
                self.attempts.add(Counts { total: 1, marked: u64::from(failed) }, now);
                if failed {
                    self.open_if_failing(settings);
                }
            }
        }
    }

    fn open_if_failing(&self, settings: BreakerSettings) {
        let Counts { total, marked: failures } = self.attempts.totals();
        if total < u64::from(settings.min_attempts)
            || failures * 100 < total * u64::from(settings.failure_percent)
        {
            return;
        }
        let due = self.now_ms().saturating_add(millis(settings.probe_interval)).max(1);
        if self.next_probe_ms.compare_exchange(0, due, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.metrics.breaker(self.method, BreakerState::Open);
            tracing::warn!(
                api_client.name = self.metrics.name(),
                rpc.method = self.method.name(),
                attempts = total,
                failures,
                "circuit breaker opened"
            );
        }
    }

    fn close(&self) {
        if self.next_probe_ms.swap(0, Ordering::AcqRel) != 0 {
            self.attempts.clear();
            self.metrics.breaker(self.method, BreakerState::Closed);
            tracing::info!(
                api_client.name = self.metrics.name(),
                rpc.method = self.method.name(),
                "circuit breaker closed"
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
    use crate::observe::telemetry::{logging::captured::CapturedLog, metrics::Metrics};

    fn breaker() -> Breaker {
        Breaker::new(Method::LoginWithOtt, Some(BreakerSettings::default()), ApiClientMetrics::default())
    }

    fn fail(breaker: &Breaker, times: usize) {
        for _ in 0..times {
            breaker.report(BreakerPermit::Closed, Evidence::Down, clock::now());
        }
    }

    fn succeed(breaker: &Breaker, times: usize) {
        for _ in 0..times {
            breaker.report(BreakerPermit::Closed, Evidence::Up, clock::now());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn opens_when_half_of_twenty_attempts_fail() {
        let breaker = breaker();
        succeed(&breaker, 10);
        fail(&breaker, 9);
        assert_eq!(breaker.admit(), Ok(BreakerPermit::Closed), "19 are too few");
        fail(&breaker, 1);
        assert_eq!(breaker.admit(), Err(Open { retry_after: Duration::from_secs(1) }));
    }

    #[tokio::test(start_paused = true)]
    async fn stays_closed_below_half() {
        let breaker = breaker();
        succeed(&breaker, 50);
        fail(&breaker, 49);
        assert_eq!(breaker.admit(), Ok(BreakerPermit::Closed));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_older_than_ten_seconds_do_not_count() {
        let breaker = breaker();
        fail(&breaker, 19);
        tokio::time::advance(Duration::from_secs(10)).await;
        fail(&breaker, 1);
        assert_eq!(breaker.admit(), Ok(BreakerPermit::Closed));
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_a_second_is_admitted_while_probes_fail() {
        let breaker = breaker();
        fail(&breaker, 20);
        for _ in 0..30 {
            assert!(breaker.admit().is_err());
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(breaker.admit(), Ok(BreakerPermit::Probe));
            assert!(breaker.admit().is_err(), "a second probe");
            breaker.report(BreakerPermit::Probe, Evidence::Down, clock::now());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn successful_probe_closes_the_breaker() {
        let breaker = breaker();
        fail(&breaker, 20);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(breaker.admit(), Ok(BreakerPermit::Probe));
        breaker.report(BreakerPermit::Probe, Evidence::Up, clock::now());
        assert_eq!(breaker.admit(), Ok(BreakerPermit::Closed));
        fail(&breaker, 1);
        assert_eq!(breaker.admit(), Ok(BreakerPermit::Closed), "the old failures are forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn state_changes_are_in_the_metric_and_opening_and_closing_are_logged() {
        const STATE: &str = r#"ott_gateway_breaker_state{api_client="eu2",operation="LoginWithOtt"} "#;
        let metrics = Metrics::new();
        let state = || {
            let text = metrics.render();
            text.lines().find_map(|line| line.strip_prefix(STATE).map(str::to_owned)).unwrap()
        };
        let settings = Some(BreakerSettings::default());
        let breaker = Breaker::new(Method::LoginWithOtt, settings, metrics.api_client("eu2"));
        let log = CapturedLog::start();
        assert_eq!(state(), "0", "closed");
        fail(&breaker, 19);
        assert_eq!((state().as_str(), log.text().as_str()), ("0", ""));
        fail(&breaker, 5);
        assert_eq!(state(), "2", "open");
        for _ in 0..2 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(breaker.admit(), Ok(BreakerPermit::Probe));
            assert_eq!(state(), "1", "half-open");
            breaker.report(BreakerPermit::Probe, Evidence::Down, clock::now());
            assert_eq!(state(), "2", "open again");
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(breaker.admit(), Ok(BreakerPermit::Probe));
        breaker.report(BreakerPermit::Probe, Evidence::Up, clock::now());
        assert_eq!(state(), "0", "closed again");
        let text = log.text();
        let [opened, closed] = text.lines().collect::<Vec<_>>()[..] else { panic!("two lines: {text}") };
        assert!(opened.contains("WARN") && opened.contains("circuit breaker opened"), "{opened}");
        assert!(opened.contains("attempts=20 failures=20"), "{opened}");
        assert!(closed.contains("INFO") && closed.contains("circuit breaker closed"), "{closed}");
        for line in [opened, closed] {
            assert!(line.contains(r#"api_client.name="eu2" rpc.method="LoginWithOtt""#), "{line}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn unreported_probe_is_followed_by_the_next() {
        let breaker = breaker();
        fail(&breaker, 20);
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(breaker.admit(), Ok(BreakerPermit::Probe));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempt_admitted_before_it_opened_does_not_close_it() {
        let breaker = breaker();
        fail(&breaker, 20);
        succeed(&breaker, 1);
        assert!(breaker.admit().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_without_evidence_neither_open_nor_close_it() {
        let breaker = breaker();
        for _ in 0..100 {
            breaker.report(BreakerPermit::Closed, Evidence::Nothing, clock::now());
        }
        assert_eq!(breaker.admit(), Ok(BreakerPermit::Closed));
        fail(&breaker, 20);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(breaker.admit(), Ok(BreakerPermit::Probe));
        breaker.report(BreakerPermit::Probe, Evidence::Nothing, clock::now());
        assert!(breaker.admit().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn without_settings_it_never_opens() {
        let breaker = Breaker::new(Method::IssueOtt, None, ApiClientMetrics::default());
        fail(&breaker, 100);
        assert_eq!(breaker.admit(), Ok(BreakerPermit::Closed));
    }
}

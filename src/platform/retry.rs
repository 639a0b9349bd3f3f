//! Decides whether and when a failed attempt is repeated.

use std::{sync::Mutex, time::Duration};

use super::{
    error::PlatformError,
    window::{Counts, Window},
};
use crate::base::{backoff::Backoff, clock};

/// Minimum delay after a response with `Retry-After`: even if a server sends 0, the request must
/// not be repeated at once.
const MIN_RETRY_AFTER: Duration = Duration::from_millis(100);

/// Whether a request may be sent again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Repeat {
    /// Yes: repeating it is harmless.
    Safe {
        /// Maximum number of attempts of one call; a replay with another access token is
        /// not counted.
        max_attempts: u32,
    },
    /// Once, if it was not sent.
    IfNotSent {
        /// Minimum time before the call's deadline.
        min_time_left: Duration,
    },
}

/// Delays before a request is sent again.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryPolicy {
    /// Delays between attempts.
    pub(super) backoff: Backoff,
    /// Maximum `Retry-After` that is waited for; a longer one is returned at once.
    pub(super) max_retry_after: Duration,
}

/// Retries of one call.
#[derive(Debug)]
pub(super) struct Retries {
    repeat: Repeat,
    policy: RetryPolicy,
    failures: u32,
    malformed: bool,
}

impl Retries {
    /// Starts without any retry.
    pub(super) const fn new(repeat: Repeat, policy: RetryPolicy) -> Self {
        Self { repeat, policy, failures: 0, malformed: false }
    }

    /// Returns the delay before another attempt after this failure, with `time_left` until the
    /// call's deadline. `None` if there must not be another.
    pub(super) fn wait_after(&mut self, error: &PlatformError, time_left: Duration) -> Option<Duration> {
        self.failures += 1;
        let max_attempts = match self.repeat {
            Repeat::Safe { max_attempts } => max_attempts,
            Repeat::IfNotSent { min_time_left } => {
                let may_repeat = is_not_sent(error) && time_left > min_time_left;
                return (may_repeat && self.failures == 1).then(|| self.backoff());
            }
        };
        if self.failures >= max_attempts {
            return None;
        }
        match error {
            PlatformError::Unreachable(_)
            | PlatformError::NameLookup(_)
            | PlatformError::Exhausted(_)
            | PlatformError::Interrupted(_) => Some(self.backoff()),
            PlatformError::Response(answer) if matches!(answer.status, 408 | 425 | 499 | 500..) => {
                answer.retry_after.map_or_else(|| Some(self.backoff()), |wait| self.after_requested(wait))
            }
            PlatformError::Response(answer) if answer.status == 429 => {
                self.after_requested(answer.retry_after?)
            }
            // Only once: a second malformed response is not a transient error.
            PlatformError::Malformed(_) => {
                (!std::mem::replace(&mut self.malformed, true)).then(|| self.backoff())
            }
            PlatformError::CertificateInvalid(_)
            | PlatformError::Queued
            | PlatformError::MemoryInUse
            | PlatformError::BreakerOpen { .. }
            | PlatformError::Response(_)
            | PlatformError::Credential(_)
            | PlatformError::DeadlinePassed => None,
        }
    }

    /// Adds jitter to the delay that the platform requests, so that callers that were refused
    /// together do not retry together.
    fn after_requested(&self, wait: Duration) -> Option<Duration> {
        (wait <= self.policy.max_retry_after).then(|| wait.max(MIN_RETRY_AFTER) + self.backoff())
    }

    fn backoff(&self) -> Duration {
        self.policy.backoff.full_jitter(self.failures)
    }
}

/// Returns whether the request certainly had no effect and another attempt may find a
/// connection.
const fn is_not_sent(error: &PlatformError) -> bool {
    matches!(
        error,
        PlatformError::Unreachable(_) | PlatformError::NameLookup(_) | PlatformError::Exhausted(_)
    )
}

/// Retries per second that are always granted, so that a gateway with few calls can retry.
const FLOOR_PER_SECOND: u64 = 10;
/// Share of calls that may be retried beyond the floor, in percent.
const PERCENT_OF_CALLS: u64 = 10;

/// Retry budget of all calls of one API client. Grants ten retries per second, and beyond that a
/// tenth of the calls of the last ten seconds, so that retries never multiply the load on a failing
/// platform.
///
/// `tower::retry::budget::TpsBudget` has other semantics: its floor is one for the whole window, so
/// that a hundred retries may be sent in one second; its share is added to the floor instead of
/// beginning beyond it; and it checks the budget and takes from it in two steps, so that several
/// workers can take the same retry. It also takes a lock for each call, not only for each retry.
#[derive(Debug)]
pub(super) struct RetryBudget {
    /// `total` counts calls, `marked` counts retries.
    window: Window,
    /// Makes checking the budget and taking from it atomic. Counting calls does not need it.
    taking: Mutex<()>,
}

impl RetryBudget {
    /// Creates a budget without any calls.
    pub(super) fn new() -> Self {
        Self { window: Window::new(), taking: Mutex::new(()) }
    }

    /// Counts a call.
    pub(super) fn count_call(&self) {
        self.window.add(Counts { total: 1, marked: 0 }, clock::now());
    }

    /// Takes one retry from the budget. Returns whether there was one.
    #[must_use]
    pub(super) fn take(&self) -> bool {
        let _taking = self.taking.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Counts { total, marked } = self.window.totals();
        let granted = self.window.this_second().marked < FLOOR_PER_SECOND
            || (marked + 1) * 100 <= total * PERCENT_OF_CALLS;
        if granted {
            self.window.add(Counts { total: 0, marked: 1 }, clock::now());
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::backoff::assert_spread,
        credential::{CredentialError, CredentialErrorKind},
        platform::error::{ErrorResponse, Malformation},
    };

    const LONG: Duration = Duration::from_secs(10);
    /// Maximum delay after the first failure.
    const SHORT: Duration = Duration::from_millis(200);

    fn policy() -> RetryPolicy {
        RetryPolicy {
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(2)),
            max_retry_after: Duration::from_secs(2),
        }
    }

    fn issuing() -> Retries {
        Retries::new(Repeat::Safe { max_attempts: 3 }, policy())
    }

    fn login() -> Retries {
        Retries::new(Repeat::IfNotSent { min_time_left: Duration::from_secs(2) }, policy())
    }

    fn unreachable() -> PlatformError {
        PlatformError::Unreachable("connection refused".to_owned())
    }

    fn interrupted() -> PlatformError {
        PlatformError::Interrupted("connection reset".to_owned())
    }

    fn answer(status: u16, retry_after: Option<Duration>) -> PlatformError {
        PlatformError::Response(ErrorResponse { status, body: None, retry_after })
    }

    #[test]
    fn transient_failures_are_attempted_three_times() {
        let statuses = [408, 425, 499, 500, 503].map(|status| answer(status, None));
        let not_sent = [PlatformError::NameLookup(String::new()), PlatformError::Exhausted(String::new())];
        for error in [unreachable(), interrupted()].into_iter().chain(not_sent).chain(statuses) {
            let mut retries = issuing();
            let first = retries.wait_after(&error, LONG).expect("a second attempt");
            assert!(first <= Duration::from_millis(200), "{first:?}");
            let second = retries.wait_after(&error, LONG).expect("a third attempt");
            assert!(second <= Duration::from_millis(400), "{second:?}");
            assert_eq!(retries.wait_after(&error, LONG), None, "{error}");
        }
    }

    #[test]
    fn delays_between_attempts_are_spread_up_to_their_maximum() {
        let malformed = || PlatformError::Malformed(Malformation::Json);
        let errors = [unreachable(), interrupted(), answer(500, None), answer(408, None)];
        for error in errors.into_iter().chain([malformed()]) {
            let waits: Vec<[Duration; 2]> = (0..100)
                .map(|_| {
                    let mut retries = issuing();
                    let first = retries.wait_after(&error, LONG).expect("a second attempt");
                    let second = retries.wait_after(&interrupted(), LONG).expect("a third attempt");
                    [first, second]
                })
                .collect();
            assert_spread(&waits.iter().map(|waits| waits[0]).collect::<Vec<_>>(), Duration::ZERO, SHORT);
            assert_spread(&waits.iter().map(|waits| waits[1]).collect::<Vec<_>>(), Duration::ZERO, 2 * SHORT);
        }
        let waits: Vec<Duration> =
            (0..100).map(|_| login().wait_after(&unreachable(), LONG).expect("a second attempt")).collect();
        assert_spread(&waits, Duration::ZERO, SHORT);
    }

    #[test]
    fn final_failures_are_not_repeated() {
        let statuses = [307, 400, 401, 403, 404, 409, 415, 429].map(|status| answer(status, None));
        let others = [
            PlatformError::CertificateInvalid(String::new()),
            PlatformError::Queued,
            PlatformError::BreakerOpen { retry_after: Duration::ZERO },
            PlatformError::Credential(CredentialError::new(CredentialErrorKind::Rejected, "")),
            PlatformError::DeadlinePassed,
            answer(429, Some(Duration::from_millis(2001))),
            answer(503, Some(Duration::from_millis(2001))),
        ];
        for error in others.into_iter().chain(statuses) {
            assert_eq!(issuing().wait_after(&error, LONG), None, "{error}");
        }
    }

    #[test]
    fn login_is_repeated_once_and_only_if_it_was_not_sent() {
        let statuses = (100..600).map(|status| answer(status, Some(Duration::ZERO)));
        let others = [
            PlatformError::CertificateInvalid(String::new()),
            PlatformError::Queued,
            PlatformError::BreakerOpen { retry_after: Duration::ZERO },
            interrupted(),
            PlatformError::Malformed(Malformation::Json),
            PlatformError::DeadlinePassed,
        ];
        for error in others.into_iter().chain(statuses) {
            assert_eq!(login().wait_after(&error, LONG), None, "{error}");
        }
        let mut retries = login();
        assert!(retries.wait_after(&unreachable(), LONG).is_some());
        assert!(login().wait_after(&PlatformError::NameLookup(String::new()), LONG).is_some());
        assert!(login().wait_after(&PlatformError::Exhausted(String::new()), LONG).is_some());
        assert_eq!(retries.wait_after(&unreachable(), LONG), None);
        assert_eq!(login().wait_after(&unreachable(), Duration::from_secs(2)), None, "too late");
    }

    #[test]
    fn request_is_repeated_once_after_a_malformed_response() {
        let mut retries = issuing();
        assert!(retries.wait_after(&PlatformError::Malformed(Malformation::Json), LONG).is_some());
        assert_eq!(retries.wait_after(&PlatformError::Malformed(Malformation::Missing), LONG), None);
    }

    #[test]
    fn requested_delays_are_jittered_and_never_zero() {
        for status in [408, 429, 503] {
            for (requested, floor) in [(2000, 2000), (1, 100), (0, 100)] {
                let waits: Vec<Duration> = (0..100)
                    .map(|_| {
                        let error = answer(status, Some(Duration::from_millis(requested)));
                        issuing().wait_after(&error, LONG).expect("a second attempt")
                    })
                    .collect();
                let floor = Duration::from_millis(floor);
                assert_spread(&waits, floor, floor + SHORT);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ten_retries_a_second_are_granted_without_any_calls() {
        let budget = RetryBudget::new();
        for _ in 0..3 {
            assert_eq!((0..25).filter(|_| budget.take()).count(), 10);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_floor_a_tenth_of_the_calls_is_granted() {
        let budget = RetryBudget::new();
        (0..1000).for_each(|_| budget.count_call());
        assert_eq!((0..1000).filter(|_| budget.take()).count(), 100);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!((0..1000).filter(|_| budget.take()).count(), 10, "the tenth is used up, the floor is not");
        tokio::time::advance(Duration::from_secs(5)).await;
        (0..200).for_each(|_| budget.count_call());
        assert_eq!((0..1000).filter(|_| budget.take()).count(), 10, "10 % of 200, less the 10 before");
    }
}

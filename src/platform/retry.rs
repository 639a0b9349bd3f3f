//! Whether a failed attempt at minting a token is followed by another, and when.
//!
//! Minting is safe to repeat; spending a token is not, and has no part in this file:
//! a login is sent again only if the attempt handed it back unsent (`attempt`).

use std::{sync::Mutex, time::Duration};

use super::{
    error::ErrorKind,
    window::{Tally, Window},
};
use crate::backoff::Backoff;

/// How often, and how soon.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryPolicy {
    /// The most attempts of one call; the replay after a 401 is not counted.
    pub(super) max_attempts: u32,
    /// The waits between them.
    pub(super) backoff: Backoff,
    /// A `Retry-After` up to this is waited for; a longer one is passed on at once.
    pub(super) longest_retry_after: Duration,
}

/// The retries of one call.
#[derive(Debug)]
pub(super) struct Retries {
    policy: RetryPolicy,
    failures: u32,
    malformed: bool,
}

impl Retries {
    /// None so far.
    pub(super) const fn new(policy: RetryPolicy) -> Self {
        Self { policy, failures: 0, malformed: false }
    }

    /// The wait before another attempt after that failure; none if there is to be none.
    pub(super) fn wait_after(&mut self, kind: &ErrorKind) -> Option<Duration> {
        self.failures += 1;
        if self.failures >= self.policy.max_attempts {
            return None;
        }
        match kind {
            ErrorKind::Unreachable | ErrorKind::Interrupted => Some(self.backoff()),
            // On top of what the platform asks for, so that not all come back at once.
            ErrorKind::Answer(answer) if answer.status >= 500 => {
                let told = answer.retry_after.unwrap_or_default();
                (told <= self.policy.longest_retry_after).then(|| told + self.backoff())
            }
            ErrorKind::Answer(answer) if answer.status == 429 => {
                answer.retry_after.filter(|wait| *wait <= self.policy.longest_retry_after)
            }
            // Once: what came twice is not a hiccup.
            ErrorKind::Malformed(_) => {
                (!std::mem::replace(&mut self.malformed, true)).then(|| self.backoff())
            }
            ErrorKind::CertificateInvalid
            | ErrorKind::BreakerOpen { .. }
            | ErrorKind::Answer(_)
            | ErrorKind::Credential(_)
            | ErrorKind::DeadlinePassed => None,
        }
    }

    fn backoff(&self) -> Duration {
        self.policy.backoff.full_jitter(self.failures)
    }
}

/// A floor under the budget, so that a quiet gateway retries too.
const FLOOR_PER_SECOND: u64 = 10;
/// The share of calls that may be retried beyond the floor.
const PERCENT_OF_CALLS: u64 = 10;

/// The retries of all calls of one API client: ten in any second are granted, and
/// beyond that a tenth of the calls of the last ten seconds, so that retries never
/// multiply the load on a platform in trouble.
#[derive(Debug)]
pub(super) struct RetryBudget {
    /// Calls, and the retries among them as what is marked.
    window: Window,
    /// Held from looking to taking; counting calls does not need it.
    taking: Mutex<()>,
}

impl RetryBudget {
    /// A budget without any calls yet.
    pub(super) fn new() -> Self {
        Self { window: Window::new(), taking: Mutex::new(()) }
    }

    /// Counts a call.
    pub(super) fn count_call(&self) {
        self.window.add(Tally { all: 1, marked: 0 });
    }

    /// Takes one retry out of the budget, if there is one.
    #[must_use]
    pub(super) fn take(&self) -> bool {
        let _taking = self.taking.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Tally { all, marked } = self.window.totals();
        let granted = self.window.this_second().marked < FLOOR_PER_SECOND
            || (marked + 1) * 100 <= all * PERCENT_OF_CALLS;
        if granted {
            self.window.add(Tally { all: 0, marked: 1 });
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        credential::CredentialError,
        platform::error::{ErrorAnswer, Malformation},
    };

    const POLICY: RetryPolicy = RetryPolicy {
        max_attempts: 3,
        backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(2)),
        longest_retry_after: Duration::from_secs(2),
    };

    fn answer(status: u16, retry_after: Option<Duration>) -> ErrorKind {
        ErrorKind::Answer(ErrorAnswer { status, body: None, retry_after })
    }

    #[test]
    fn what_is_transient_is_tried_three_times_in_all() {
        for kind in [ErrorKind::Unreachable, ErrorKind::Interrupted, answer(500, None), answer(503, None)] {
            let mut retries = Retries::new(POLICY);
            let first = retries.wait_after(&kind).expect("a second attempt");
            assert!(first <= Duration::from_millis(200), "{first:?}");
            let second = retries.wait_after(&kind).expect("a third attempt");
            assert!(second <= Duration::from_millis(400), "{second:?}");
            assert_eq!(retries.wait_after(&kind), None, "{kind}");
        }
    }

    #[test]
    fn what_is_final_is_not_tried_again() {
        for kind in [
            ErrorKind::CertificateInvalid,
            ErrorKind::BreakerOpen { retry_after: Duration::ZERO },
            ErrorKind::Credential(CredentialError::Rejected),
            ErrorKind::DeadlinePassed,
            answer(307, None),
            answer(400, None),
            answer(401, None),
            answer(403, None),
            answer(404, None),
            answer(409, None),
            answer(415, None),
            answer(429, None),
            answer(429, Some(Duration::from_millis(2001))),
        ] {
            assert_eq!(Retries::new(POLICY).wait_after(&kind), None, "{kind}");
        }
    }

    #[test]
    fn a_malformed_answer_is_tried_again_once() {
        let mut retries = Retries::new(POLICY);
        assert!(retries.wait_after(&ErrorKind::Malformed(Malformation::Json)).is_some());
        assert_eq!(retries.wait_after(&ErrorKind::Malformed(Malformation::Missing)), None);
    }

    #[test]
    fn a_server_error_is_not_followed_before_the_platform_wants_it() {
        let told = Duration::from_secs(2);
        let wait = Retries::new(POLICY).wait_after(&answer(503, Some(told))).expect("a second attempt");
        assert!((told..=told + Duration::from_millis(200)).contains(&wait), "{wait:?}");
        let later = Duration::from_millis(2001);
        assert_eq!(Retries::new(POLICY).wait_after(&answer(503, Some(later))), None, "the caller is told");
    }

    #[test]
    fn a_short_retry_after_is_waited_for_to_the_letter() {
        let wait = Duration::from_secs(2);
        assert_eq!(Retries::new(POLICY).wait_after(&answer(429, Some(wait))), Some(wait));
    }

    #[tokio::test(start_paused = true)]
    async fn ten_a_second_are_granted_without_any_calls() {
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
        assert_eq!((0..1000).filter(|_| budget.take()).count(), 10, "the tenth is spent, the floor is not");
        tokio::time::advance(Duration::from_secs(5)).await;
        (0..200).for_each(|_| budget.count_call());
        assert_eq!((0..1000).filter(|_| budget.take()).count(), 10, "10 % of 200, less the 10 before");
    }
}

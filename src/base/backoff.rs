//! Retry delays: exponential backoff with full jitter.
//!
//! Full jitter (a delay drawn uniformly between zero and the ceiling) prevents replicas that failed
//! together from retrying together. This module only computes delays; callers sleep.
//!
//! ```
//! use std::time::Duration;
//!
//! use ott_gateway::base::backoff::Backoff;
//!
//! const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
//! assert_eq!(BACKOFF.max_delay(1), Duration::from_millis(200));
//! assert_eq!(BACKOFF.max_delay(9), Duration::from_secs(2));
//! assert!(BACKOFF.full_jitter(1) <= BACKOFF.max_delay(1));
//! ```

use std::time::Duration;

use rand::RngExt;

/// An exponential backoff between two bounds.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    base: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// Creates a backoff whose ceiling starts at `base` and doubles with every failure up to
    /// `ceiling`.
    #[must_use]
    pub const fn new(base: Duration, ceiling: Duration) -> Self {
        Self { base, ceiling }
    }

    /// Returns the maximum delay after `failures` consecutive failures (1 is the first).
    #[must_use]
    pub fn max_delay(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.base.saturating_mul(1_u32 << doublings).min(self.ceiling)
    }

    /// Returns a delay after `failures` consecutive failures, drawn uniformly from zero to
    /// [`max_delay`](Self::max_delay).
    #[must_use]
    pub fn full_jitter(&self, failures: u32) -> Duration {
        self.max_delay(failures).mul_f64(rand::rng().random::<f64>())
    }
}

/// Returns `duration` times a factor drawn uniformly from `low` to `high`.
#[must_use]
pub fn jittered(duration: Duration, low: f64, high: f64) -> Duration {
    duration.mul_f64(low + (high - low) * rand::rng().random::<f64>())
}

/// Asserts that delays are jittered: all of them are between `low` and `high`, and they use the
/// whole range. 100 uniformly distributed delays fail this once in 10^12 times.
#[cfg(test)]
#[track_caller]
pub(crate) fn assert_spread(waits: &[Duration], low: Duration, high: Duration) {
    assert!(waits.len() >= 100, "{} waits are too few", waits.len());
    let (min, max) =
        waits.iter().fold((waits[0], waits[0]), |(min, max), wait| (min.min(*wait), max.max(*wait)));
    let quarter = high.saturating_sub(low) / 4;
    assert!(low <= min && max <= high, "{min:?} to {max:?} is not within {low:?} to {high:?}");
    assert!(min < low + quarter && max + quarter > high, "{min:?} to {max:?} of {low:?} to {high:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceiling_doubles_up_to_its_maximum() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let seconds: Vec<u64> = (1..=7).map(|n| backoff.max_delay(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff.max_delay(u32::MAX), Duration::from_secs(30));
    }

    #[test]
    fn full_jitter_uses_the_range_from_zero_to_the_ceiling() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        for (failures, ceiling) in [(1, 1), (3, 4), (9, 30)] {
            let waits: Vec<Duration> = (0..100).map(|_| backoff.full_jitter(failures)).collect();
            assert_spread(&waits, Duration::ZERO, Duration::from_secs(ceiling));
        }
    }

    #[test]
    fn jittered_uses_the_range_between_its_factors() {
        let second = Duration::from_secs(1);
        let waits: Vec<Duration> = (0..100).map(|_| jittered(second, 0.5, 1.5)).collect();
        assert_spread(&waits, second / 2, second * 3 / 2);
    }
}

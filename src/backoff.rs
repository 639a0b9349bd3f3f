//! How long to wait before trying again: exponential, with full jitter.
//!
//! Full jitter (a wait drawn evenly between nothing and the ceiling) keeps many
//! replicas that failed together from coming back together. Nothing here waits.

use std::time::Duration;

use rand::RngExt;

/// An exponential backoff between two bounds.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    base: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// A backoff whose ceiling starts at `base`, doubles with every failure and
    /// ends at `ceiling`.
    #[must_use]
    pub const fn new(base: Duration, ceiling: Duration) -> Self {
        Self { base, ceiling }
    }

    /// Maximum wait after this many failures in a row (1 is the first).
    #[must_use]
    pub fn longest(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.base.saturating_mul(1_u32 << doublings).min(self.ceiling)
    }

    /// A wait after this many failures in a row, drawn evenly from zero up to
    /// [`longest`](Self::longest).
    #[must_use]
    pub fn full_jitter(&self, failures: u32) -> Duration {
        self.longest(failures).mul_f64(rand::rng().random::<f64>())
    }
}

/// `duration` times a factor drawn evenly from `low` to `high`.
#[must_use]
pub fn jittered(duration: Duration, low: f64, high: f64) -> Duration {
    duration.mul_f64(low + (high - low) * rand::rng().random::<f64>())
}

/// Asserts that waits are jittered: all of them are between `low` and `high`, and they use
/// the whole range. 100 waits of a uniform distribution fail this once in 10^12 times.
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
    fn ceiling_doubles_up_to_its_bound() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let seconds: Vec<u64> = (1..=7).map(|n| backoff.longest(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff.longest(u32::MAX), Duration::from_secs(30));
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

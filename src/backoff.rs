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

    /// The longest wait after so many failures in a row (1 is the first).
    #[must_use]
    pub fn longest(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.base.saturating_mul(1_u32 << doublings).min(self.ceiling)
    }

    /// A wait after so many failures in a row, drawn evenly from nothing up to
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
    fn jitter_stays_below_the_ceiling_and_spreads() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let waits: Vec<Duration> = (0..1000).map(|_| backoff.full_jitter(3)).collect();
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(4)));
        assert!(waits.iter().any(|wait| *wait < Duration::from_secs(1)));
        assert!(waits.iter().any(|wait| *wait > Duration::from_secs(3)));
    }
}

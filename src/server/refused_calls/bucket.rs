//! A token bucket, stored as the time at which it will be full again.

use std::{num::NonZeroU32, time::Duration};

use crate::base::clock::Instant;

/// Rate and size of a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketSettings {
    /// Time in which one token is added.
    pub interval: Duration,
    /// Number of tokens in a full bucket.
    pub burst: NonZeroU32,
}

/// A token bucket, initially full.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    full_at: Instant,
}

impl BucketSettings {
    /// Returns the settings of a bucket with `factor` times the size and the rate.
    pub(super) fn times(self, factor: NonZeroU32) -> Self {
        Self { interval: self.interval / factor.get(), burst: self.burst.saturating_mul(factor) }
    }
}

impl Bucket {
    pub(super) const fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes a token, and returns whether there was one.
    pub(super) fn take(&mut self, settings: BucketSettings, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + settings.interval;
        let has_token = full_at.saturating_duration_since(now) <= settings.interval * settings.burst.get();
        if has_token {
            self.full_at = full_at;
        }
        has_token
    }

    /// Returns whether the bucket is full, and therefore equal to a new one.
    pub(super) fn is_full(self, now: Instant) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock;

    const SETTINGS: BucketSettings =
        BucketSettings { interval: Duration::from_millis(10), burst: const { NonZeroU32::new(5).unwrap() } };

    fn take_all(bucket: &mut Bucket) -> u32 {
        let mut taken = 0;
        while bucket.take(SETTINGS, clock::now()) {
            taken += 1;
        }
        taken
    }

    #[tokio::test(start_paused = true)]
    async fn burst_is_allowed_at_once_and_the_rate_over_time() {
        let mut bucket = Bucket::new(clock::now());
        assert_eq!(take_all(&mut bucket), 5);
        assert!(!bucket.is_full(clock::now()));
        for _ in 0..3 {
            tokio::time::advance(Duration::from_millis(20)).await;
            assert_eq!(take_all(&mut bucket), 2);
        }
        tokio::time::advance(Duration::from_millis(50)).await;
        assert!(bucket.is_full(clock::now()));
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(take_all(&mut bucket), 5, "never more than the burst");
    }
}

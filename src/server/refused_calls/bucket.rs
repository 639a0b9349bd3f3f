//! A token bucket: the moment at which it will be full again.

use std::{num::NonZeroU32, time::Duration};

use crate::clock::Instant;

/// Rate and size of a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketSettings {
    /// Time in which one token is added.
    pub interval: Duration,
    /// Number of tokens in a full bucket.
    pub burst: NonZeroU32,
}

/// A bucket, full at first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    full_at: Instant,
}

impl BucketSettings {
    /// Returns the settings of a bucket that is as large and as fast as `factor` of these.
    pub(super) fn times(self, factor: NonZeroU32) -> Self {
        Self { interval: self.interval / factor.get(), burst: self.burst.saturating_mul(factor) }
    }
}

impl Bucket {
    pub(super) const fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, settings: BucketSettings, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + settings.interval;
        let has_token = full_at.saturating_duration_since(now) <= settings.interval * settings.burst.get();
        if has_token {
            self.full_at = full_at;
        }
        has_token
    }

    /// Whether the bucket is full, and therefore like a new one.
    pub(super) fn is_full(self, now: Instant) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

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
    async fn a_bucket_gives_its_burst_and_then_its_rate() {
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

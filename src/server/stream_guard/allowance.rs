//! A token bucket that accepts tokens back.

use std::time::Duration;

use crate::base::clock::{self, Instant};

/// Allows a burst at once and a rate over time.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    burst: u32,
    per_second: u32,
    /// Time up to which `left` has been refilled.
    refilled: Instant,
}

impl Allowance {
    /// Creates a full bucket.
    pub(super) fn new(burst: u32, per_second: u32) -> Self {
        Self { left: burst, burst, per_second, refilled: clock::now() }
    }

    /// Takes a token, and returns whether there was one.
    pub(super) fn take(&mut self) -> bool {
        self.refill();
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }

    /// Returns a token. Does not read the clock.
    pub(super) fn give_back(&mut self) {
        self.left = self.left.saturating_add(1).min(self.burst);
    }

    fn refill(&mut self) {
        let Some(interval) = Duration::from_secs(1).checked_div(self.per_second) else { return };
        let now = clock::now();
        let elapsed = now.saturating_duration_since(self.refilled).as_nanos();
        let added = u32::try_from(elapsed / interval.as_nanos().max(1)).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(added).min(self.burst);
        // Keeps the fraction of the next interval, unless the bucket is full.
        self.refilled =
            if self.left == self.burst { now } else { self.refilled + interval.saturating_mul(added) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn burst_is_allowed_at_once_and_the_rate_over_time() {
        let mut allowance = Allowance::new(3, 2);
        let takes = |allowance: &mut Allowance| (0..9).take_while(|_| allowance.take()).count();
        assert_eq!(takes(&mut allowance), 3);
        tokio::time::advance(Duration::from_millis(300)).await;
        assert_eq!(takes(&mut allowance), 0);
        tokio::time::advance(Duration::from_millis(300)).await;
        assert_eq!(takes(&mut allowance), 1, "fractions of an interval add up");
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(takes(&mut allowance), 3, "never more than the burst");
    }

    #[tokio::test(start_paused = true)]
    async fn returned_tokens_can_be_taken_again() {
        let mut allowance = Allowance::new(2, 0);
        allowance.give_back();
        assert!(allowance.take() && allowance.take() && !allowance.take());
        allowance.give_back();
        assert!(allowance.take() && !allowance.take());
    }
}

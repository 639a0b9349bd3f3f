//! Limits repeated log lines about peers.

use std::time::Duration;

use crate::clock::{self, Instant};

/// Minimum interval between two lines about the same event.
const INTERVAL: Duration = Duration::from_secs(5);

/// Limits the lines about one kind of event and counts those that it suppresses.
#[derive(Debug, Default)]
pub(super) struct LogThrottle {
    last: Option<Instant>,
    suppressed: u64,
}

impl LogThrottle {
    /// Returns the number of lines suppressed since the last one, if a line may be written now.
    pub(super) fn due(&mut self) -> Option<u64> {
        let now = clock::now();
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_per_interval_is_written_and_counts_the_suppressed_ones() {
        let mut throttle = LogThrottle::default();
        assert_eq!([throttle.due(), throttle.due(), throttle.due()], [Some(0), None, None]);
        tokio::time::advance(INTERVAL).await;
        assert_eq!([throttle.due(), throttle.due()], [Some(2), None]);
    }
}

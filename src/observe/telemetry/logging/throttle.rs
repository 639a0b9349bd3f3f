//! Limit on the log lines about one kind of event, which a stage counts itself.
//!
//! The limiter of all lines (`limiter`) writes up to ten of a kind in ten seconds. This one is for
//! events of which one line per interval is enough, with the number of suppressed lines.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::base::clock::{self, Instant};

/// Minimum interval between two lines unless another one is given.
const INTERVAL: Duration = Duration::from_secs(5);

/// Limits the lines about one kind of event and counts those that it suppresses. Takes no lock.
#[derive(Debug)]
pub struct LogThrottle {
    started: Instant,
    interval: Duration,
    /// Nanoseconds from `started` to the last line, plus one. 0 if there was no line.
    last: AtomicU64,
    suppressed: AtomicU64,
}

impl LogThrottle {
    /// Creates a limit of one line per interval.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        Self { started: clock::now(), interval, last: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// Returns the number of lines suppressed since the last one, if a line may be written now.
    pub fn due(&self) -> Option<u64> {
        let elapsed = clock::now().saturating_duration_since(self.started);
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let now = nanos(elapsed).saturating_add(1);
        let last = self.last.load(Ordering::Relaxed);
        let is_due = last == 0 || now.saturating_sub(last) >= nanos(self.interval);
        // Of several threads at this point, one writes the line.
        if is_due && self.last.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            Some(self.suppressed.swap(0, Ordering::Relaxed))
        } else {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

impl Default for LogThrottle {
    fn default() -> Self {
        Self::every(INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_per_interval_is_written_and_counts_the_suppressed_ones() {
        let throttle = LogThrottle::default();
        assert_eq!([throttle.due(), throttle.due(), throttle.due()], [Some(0), None, None]);
        tokio::time::advance(INTERVAL / 2).await;
        assert_eq!(throttle.due(), None);
        tokio::time::advance(INTERVAL / 2).await;
        assert_eq!([throttle.due(), throttle.due()], [Some(3), None]);
    }

    #[test]
    fn concurrent_threads_write_one_line_and_lose_no_count() {
        let throttle = LogThrottle::every(Duration::from_hours(1));
        let lines: usize = thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1000).filter_map(|_| throttle.due()).count())).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!((lines, throttle.suppressed.into_inner()), (1, 3999));
    }
}

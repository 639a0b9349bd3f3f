//! When an unavailable sink takes the replica out of service.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

/// Time for which the sink must have been unavailable before the replica is `NOT_SERVING`:
/// a hiccup must not move all traffic elsewhere, and calls are refused in any case.
const OUTAGE: Duration = Duration::from_secs(3);
/// Time for which the sink must have been available before the replica serves again.
const RECOVERY: Duration = Duration::from_secs(5);

/// Follows the sink with hysteresis, for the health of the replica.
#[derive(Debug)]
pub struct Readiness {
    unavailable: watch::Receiver<bool>,
    reported: bool,
}

impl Readiness {
    pub(super) const fn new(unavailable: watch::Receiver<bool>) -> Self {
        Self { unavailable, reported: false }
    }

    /// Returns whether the sink counts as unavailable, the next time that this changes: after
    /// it has been unavailable for 3 s, or available for 5 s, without a break. `None` when
    /// the audit has ended.
    pub async fn next(&mut self) -> Option<bool> {
        loop {
            let unavailable = *self.unavailable.borrow_and_update();
            if unavailable == self.reported {
                self.unavailable.changed().await.ok()?;
                continue;
            }
            let patience = if unavailable { OUTAGE } else { RECOVERY };
            match timeout(patience, self.unavailable.changed()).await {
                Err(_elapsed) => {
                    self.reported = unavailable;
                    return Some(unavailable);
                }
                Ok(changed) => changed.ok()?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn replica_leaves_after_an_outage_that_lasts_and_returns_after_a_recovery_that_lasts() {
        let sink = watch::Sender::new(false);
        let mut readiness = Readiness::new(sink.subscribe());
        let began = clock::now();
        sink.send_replace(true);
        assert_eq!(readiness.next().await, Some(true));
        assert_eq!(began.elapsed(), OUTAGE);
        // Available for a moment only.
        sink.send_replace(false);
        assert!(timeout(RECOVERY.saturating_sub(MS), readiness.next()).await.is_err());
        sink.send_replace(true);
        assert!(timeout(Duration::from_mins(10), readiness.next()).await.is_err());
        let began = clock::now();
        sink.send_replace(false);
        assert_eq!(readiness.next().await, Some(false));
        assert_eq!(began.elapsed(), RECOVERY);
        drop(sink);
        assert_eq!(readiness.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn sink_that_flaps_does_not_change_the_health() {
        let sink = watch::Sender::new(false);
        let mut readiness = Readiness::new(sink.subscribe());
        let flapping = async {
            for _ in 0..100 {
                for unavailable in [true, false] {
                    sink.send_replace(unavailable);
                    tokio::time::sleep(OUTAGE.saturating_sub(MS)).await;
                }
            }
        };
        tokio::select! {
            biased;
            changed = readiness.next() => panic!("{changed:?}"),
            () = flapping => {}
        }
    }
}

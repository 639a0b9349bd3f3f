//! Decides when an unavailable sink takes the replica out of service.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

use super::{
    availability::{Availability, Standing},
    judge::MAX_WRITE,
};

/// Time for which the sink must be unavailable before the replica is `NOT_SERVING`. A brief outage
/// must not move all traffic to other replicas, and calls are refused in any case.
const OUTAGE: Duration = Duration::from_secs(3);
/// Time for which the sink must be available before the replica serves again.
const RECOVERY: Duration = Duration::from_secs(5);

/// Follows the sink with hysteresis, for the health of the replica.
#[derive(Debug)]
pub struct Readiness {
    standing: watch::Receiver<Standing>,
    availability: Weak<Availability>,
    /// `None` before the first write has been judged.
    reported: Option<bool>,
}

impl Readiness {
    pub(super) fn new(availability: &Arc<Availability>) -> Self {
        let standing = availability.subscribe();
        Self { standing, availability: Arc::downgrade(availability), reported: None }
    }

    /// Returns whether the sink counts as unavailable. Returns first when the first write has been
    /// judged, and then at each change: after the sink has been unavailable for 3 s, or available
    /// for 5 s, without interruption. `None` when the audit log has stopped.
    pub async fn next(&mut self) -> Option<bool> {
        loop {
            let unavailable = match *self.standing.borrow_and_update() {
                Standing::Unproven => None,
                Standing::Available => Some(false),
                Standing::Unavailable => Some(true),
            };
            let delay = match (unavailable, self.reported) {
                (None, _) => {
                    self.first_write().await?;
                    continue;
                }
                (Some(_), None) => Duration::ZERO,
                (now, reported) if now == reported => {
                    self.standing.changed().await.ok()?;
                    continue;
                }
                (Some(true), _) => OUTAGE,
                (Some(false), _) => RECOVERY,
            };
            match timeout(delay, self.standing.changed()).await {
                Err(_elapsed) => {
                    self.reported = unavailable;
                    return unavailable;
                }
                Ok(changed) => changed.ok()?,
            }
        }
    }

    /// Waits until the first write has been judged. Checks the time limit itself, because there may
    /// be no call that does.
    async fn first_write(&mut self) -> Option<()> {
        match timeout(MAX_WRITE, self.standing.changed()).await {
            Ok(changed) => changed.ok(),
            Err(_elapsed) => {
                self.availability.upgrade()?.is_unavailable();
                Some(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{base::clock, observe::telemetry::metrics::Metrics};

    const MS: Duration = Duration::from_millis(1);

    fn set(sink: &Availability, unavailable: bool) {
        if unavailable {
            sink.set_unavailable(&"a broken disk");
        } else {
            sink.set_available(clock::now());
        }
    }

    /// Returns a sink whose first write was in time and reported.
    async fn started() -> (Arc<Availability>, Readiness) {
        let sink = Arc::new(Availability::new(Metrics::new()));
        let mut readiness = Readiness::new(&sink);
        sink.set_available(clock::now());
        sink.end();
        assert_eq!(readiness.next().await, Some(false));
        (sink, readiness)
    }

    #[tokio::test(start_paused = true)]
    async fn first_write_decides_at_once_and_later_changes_must_persist() {
        for unavailable in [false, true] {
            let sink = Arc::new(Availability::new(Metrics::new()));
            let mut readiness = Readiness::new(&sink);
            assert!(timeout(MAX_WRITE.saturating_sub(MS), readiness.next()).await.is_err(), "not judged yet");
            let began = clock::now();
            set(&sink, unavailable);
            sink.end();
            assert_eq!(readiness.next().await, Some(unavailable));
            assert!(began.elapsed() <= MS, "{:?}", began.elapsed());
            let began = clock::now();
            set(&sink, !unavailable);
            assert_eq!(readiness.next().await, Some(!unavailable));
            assert!(began.elapsed() >= if unavailable { RECOVERY } else { OUTAGE });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn first_write_that_hangs_is_reported_without_a_call() {
        let sink = Arc::new(Availability::new(Metrics::new()));
        let began = clock::now();
        assert_eq!(Readiness::new(&sink).next().await, Some(true));
        assert!((MAX_WRITE..MAX_WRITE + 10 * MS).contains(&began.elapsed()), "{:?}", began.elapsed());
        assert_eq!(*sink.subscribe().borrow(), Standing::Unavailable);
    }

    #[tokio::test(start_paused = true)]
    async fn health_changes_only_after_a_persistent_outage_or_recovery() {
        let (sink, mut readiness) = started().await;
        let began = clock::now();
        set(&sink, true);
        assert_eq!(readiness.next().await, Some(true));
        assert_eq!(began.elapsed(), OUTAGE);
        // Available for a moment only.
        set(&sink, false);
        assert!(timeout(RECOVERY.saturating_sub(MS), readiness.next()).await.is_err());
        set(&sink, true);
        assert!(timeout(Duration::from_mins(10), readiness.next()).await.is_err());
        let began = clock::now();
        set(&sink, false);
        assert_eq!(readiness.next().await, Some(false));
        assert_eq!(began.elapsed(), RECOVERY);
        drop(sink);
        assert_eq!(readiness.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn flapping_sink_does_not_change_the_health() {
        let (sink, mut readiness) = started().await;
        let flapping = async {
            for _ in 0..100 {
                for unavailable in [true, false] {
                    set(&sink, unavailable);
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

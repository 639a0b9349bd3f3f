//! Heartbeats of threads with a runtime, without cost for an idle thread.
//!
//! A busy thread has a heartbeat timer. Once it has done almost nothing between two heartbeats, it
//! has no timer: it is recorded as waiting when it parks, and as busy when it unparks. An idle
//! thread therefore never wakes up for its heartbeat. If such a thread gets so busy that it never
//! parks, it is indistinguishable from a blocked one, so the thread that watches all others
//! requests a heartbeat from it.

use std::{
    convert::Infallible,
    future::pending,
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{runtime, task::JoinError, time::sleep_until};

use super::Pulse;
use crate::base::clock;

/// Maximum number of wake-ups of an idle thread between two heartbeats: tokio's timer wheel
/// cascades a timer in steps, and wakes the thread again when it fires.
const WAKES_OF_A_TIMER: u64 = 8;

/// Activity of a thread with a runtime, for its heartbeat.
#[derive(Debug)]
pub struct Activity {
    pulse: Pulse,
    /// Number of wake-ups of the thread.
    wakes: AtomicU64,
    /// Whether the thread counts as waiting the next time that it parks.
    is_idle: AtomicBool,
}

impl Activity {
    /// Creates the activity of the thread with this heartbeat.
    #[must_use]
    pub fn new(pulse: Pulse) -> Arc<Self> {
        Arc::new(Self { pulse, wakes: AtomicU64::new(0), is_idle: AtomicBool::new(false) })
    }

    /// Returns the builder of a runtime for the thread, which records when the thread parks and
    /// unparks.
    #[must_use]
    pub fn runtime(self: &Arc<Self>) -> runtime::Builder {
        let (parking, unparking) = (Arc::clone(self), Arc::clone(self));
        let mut builder = runtime::Builder::new_current_thread();
        builder.enable_all();
        builder.on_thread_park(move || parking.parks()).on_thread_unpark(move || unparking.unparks());
        builder
    }

    /// Starts the heartbeat, inside the [runtime](Self::runtime), and calls `late` with the delay
    /// of each timer: a long one means that the thread is starved of CPU or blocked. The interval
    /// of the timers of a busy thread is `busy`, at most the [interval](Pulse::interval) of
    /// heartbeats.
    ///
    /// Returns a future that never resolves, but propagates a panic of the heartbeat task.
    pub fn start_beating(
        self: Arc<Self>,
        busy: Duration,
        late: impl Fn(Duration) + Send + 'static,
    ) -> impl Future<Output = Infallible> {
        // A task, because waking the future of `block_on` causes another wake-up of the thread.
        let beating = tokio::spawn(async move { self.beat(busy, late).await });
        async {
            match beating.await.map_err(JoinError::try_into_panic) {
                Ok(never) => match never {},
                Err(Ok(panic)) => resume_unwind(panic),
                // The runtime is shut down.
                Err(Err(_cancelled)) => pending().await,
            }
        }
    }

    async fn beat(&self, busy: Duration, late: impl Fn(Duration)) -> Infallible {
        let (mut seen, mut interval) = (0, busy);
        loop {
            self.pulse.beat();
            let due = clock::now() + interval;
            sleep_until(due).await;
            late(clock::now().saturating_duration_since(due));
            self.pulse.beat();
            let wakes = self.wakes.load(Ordering::Relaxed);
            // The timer wakes a parked thread. A thread without a wake-up has not parked.
            interval = if wakes == seen || wakes - seen > WAKES_OF_A_TIMER {
                busy
            } else {
                self.is_idle.store(true, Ordering::Relaxed);
                self.pulse.asked().await;
                self.pulse.interval()
            };
            seen = wakes;
        }
    }

    fn parks(&self) {
        // Not earlier: code that ran since the thread became idle could have blocked it.
        if self.is_idle.load(Ordering::Relaxed) {
            self.pulse.wait();
        }
    }

    fn unparks(&self) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
        if self.is_idle.load(Ordering::Relaxed) {
            self.is_idle.store(false, Ordering::Relaxed);
            self.pulse.beat();
            self.pulse.ask();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::sleep;

    use super::*;
    use crate::observe::telemetry::threads::{Condition, Threads};

    const BUSY: Duration = Duration::from_millis(250);

    /// Runs a test on the runtime of a thread, with a paused clock that advances when idle. The
    /// last argument counts timers.
    fn on_thread<T>(test: impl AsyncFnOnce(Pulse, Threads, Arc<AtomicU64>) -> T) -> T {
        let threads = Threads::new();
        let heartbeat = threads.register("worker-0");
        let activity = Activity::new(heartbeat.pulse());
        let timers = Arc::new(AtomicU64::new(0));
        let runtime = activity.runtime().start_paused(true).build().unwrap();
        let pulse = heartbeat.pulse();
        runtime.block_on(async {
            let count = Arc::clone(&timers);
            let beating =
                activity.start_beating(BUSY, move |_late| _ = count.fetch_add(1, Ordering::Relaxed));
            tokio::select! {
                biased;
                result = test(pulse, threads, timers) => result,
                never = beating => match never {},
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn idle_thread_has_no_timer_for_its_heartbeat() {
        let threads = Threads::new();
        let heartbeat = threads.register("worker-0");
        let activity = Activity::new(heartbeat.pulse());
        let timers = Arc::new(AtomicU64::new(0));
        let (count, woken) = (Arc::clone(&timers), Arc::clone(&activity));
        let _beating = Arc::clone(&activity).start_beating(BUSY, move |_late| {
            // A timer wakes the thread.
            woken.wakes.fetch_add(1, Ordering::Relaxed);
            count.fetch_add(1, Ordering::Relaxed);
        });
        let timers = || timers.load(Ordering::Relaxed);
        for hours in 1..=5 {
            sleep(Duration::from_mins(30)).await;
            assert_eq!(timers(), hours);
            activity.parks();
            sleep(Duration::from_mins(30)).await;
            assert_eq!(threads.unresponsive(), [], "it waits");
            assert_eq!(timers(), hours);
            activity.unparks();
        }
        for _ in 0..100 {
            for _ in 0..10 {
                activity.unparks();
            }
            sleep(Duration::from_millis(100)).await;
        }
        let busy = timers() - 5;
        assert!((20..=25).contains(&busy), "after 4 s, four times a second: {busy}");
        // One more timer because of the last wake-ups above, and one without any.
        sleep(Duration::from_hours(1)).await;
        assert!(timers() - 5 - busy <= 2);
    }

    #[test]
    fn blocked_thread_that_was_idle_is_detected_and_recovers() {
        on_thread(async |pulse, threads, _timers| {
            for _ in 0..3 {
                sleep(Duration::from_hours(1)).await;
                // Time passes while the thread does nothing else.
                assert!(tokio::time::advance(Duration::from_secs(10)).now_or_never().is_none());
                assert!(pulse.condition().is_failure(), "{:?}", pulse.condition());
                assert_eq!(threads.unresponsive().len(), 1);
                sleep(Duration::from_secs(1)).await;
                assert_eq!(pulse.condition(), Condition::Responsive);
            }
        });
    }

    /// Lets a second pass in which the thread is always busy.
    async fn busy_second() {
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn thread_that_never_sleeps_is_not_blocked_and_has_its_timer() {
        on_thread(async |pulse, _threads, timers| {
            for _ in 0..60 {
                busy_second().await;
                assert_eq!(pulse.condition(), Condition::Responsive);
            }
            let timers = timers.load(Ordering::Relaxed);
            assert!((55..=60).contains(&timers), "one timer per second: {timers}");
        });
    }

    #[test]
    fn heartbeat_is_requested_from_an_idle_thread_that_becomes_busy() {
        on_thread(async |pulse, threads, timers| {
            let control = threads.register("control");
            let supervised = threads.clone();
            tokio::spawn(async move { supervised.supervise(&control.pulse()).await });
            // Idle, and woken up at the end of the pause.
            sleep(Duration::from_hours(1)).await;
            for second in 0..60 {
                busy_second().await;
                assert!(!pulse.condition().is_failure(), "{second}: {:?}", pulse.condition());
            }
            assert!(timers.load(Ordering::Relaxed) > 30, "it counts as busy again");
        });
    }

    #[test]
    fn busy_thread_has_a_timer_four_times_a_second() {
        on_thread(async |pulse, _threads, timers| {
            for _ in 0..10_000 {
                sleep(Duration::from_millis(1)).await;
            }
            let timers = timers.load(Ordering::Relaxed);
            assert!((35..=40).contains(&timers), "{timers} in 10 s");
            assert_eq!(pulse.condition(), Condition::Responsive);
        });
    }
}

//! Heartbeats of threads with a runtime, which cost an idle thread nothing.
//!
//! While a thread has something to do, it beats by a timer. Once it has done next to nothing for
//! the time between two heartbeats, it has no timer: it is recorded as waiting when it goes to
//! sleep, and beats when it wakes up. An idle thread therefore never wakes up for its heartbeat. If
//! such a thread gets so much to do that it does not sleep at all, it looks like one
//! that is blocked, so the thread that watches all others asks it for a heartbeat.

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
use crate::clock;

/// Maximum number of times that an idle thread wakes up between two heartbeats: tokio's timer
/// wheel approaches a timer in steps, and wakes the thread once more when it fires.
const WAKES_OF_A_TIMER: u64 = 8;

/// How busy a thread with a runtime is, for its heartbeat.
#[derive(Debug)]
pub struct Activity {
    pulse: Pulse,
    /// Number of times that the thread has woken up.
    wakes: AtomicU64,
    /// Whether the thread needs no heartbeat the next time that it sleeps.
    is_idle: AtomicBool,
}

impl Activity {
    /// That of the thread with this heartbeat.
    #[must_use]
    pub fn new(pulse: Pulse) -> Arc<Self> {
        Arc::new(Self { pulse, wakes: AtomicU64::new(0), is_idle: AtomicBool::new(false) })
    }

    /// A runtime for the thread, which records when the thread goes to sleep and wakes up.
    #[must_use]
    pub fn runtime(self: &Arc<Self>) -> runtime::Builder {
        let (parking, unparking) = (Arc::clone(self), Arc::clone(self));
        let mut builder = runtime::Builder::new_current_thread();
        builder.enable_all();
        builder.on_thread_park(move || parking.parks()).on_thread_unpark(move || unparking.unparks());
        builder
    }

    /// Starts to beat, inside the [runtime](Self::runtime), and passes on how late each timer was:
    /// the thread is starved of CPU, or something blocks it. The timers of a busy thread are
    /// `busy` apart, at most the [interval](Pulse::interval) of heartbeats.
    ///
    /// Returns a future that never resolves, and panics if the heartbeat has.
    pub fn start_beating(
        self: Arc<Self>,
        busy: Duration,
        late: impl Fn(Duration) + Send + 'static,
    ) -> impl Future<Output = Infallible> {
        // A task, because waking what the runtime blocks on makes the thread wake up once more.
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
            // The timer wakes a thread that sleeps. One that has not woken up has not slept.
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
        // Only now: what ran since the thread became idle could have blocked it.
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
    use crate::telemetry::threads::{Condition, Threads};

    const BUSY: Duration = Duration::from_millis(250);

    /// Runs on the runtime of a thread, with a clock that passes while nothing happens. The last
    /// argument is the number of timers.
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
        // Once more because of the last ones of these, and once for them alone.
        sleep(Duration::from_hours(1)).await;
        assert!(timers() - 5 - busy <= 2);
    }

    #[test]
    fn thread_that_is_blocked_after_it_was_idle_is_noticed_and_recovers() {
        on_thread(async |pulse, threads, _timers| {
            for _ in 0..3 {
                sleep(Duration::from_hours(1)).await;
                // Time passes without anything else that the thread does.
                assert!(tokio::time::advance(Duration::from_secs(10)).now_or_never().is_none());
                assert!(pulse.condition().is_failure(), "{:?}", pulse.condition());
                assert_eq!(threads.unresponsive().len(), 1);
                sleep(Duration::from_secs(1)).await;
                assert_eq!(pulse.condition(), Condition::Responsive);
            }
        });
    }

    /// Lets a second pass in which the thread has something to do all the time.
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
            assert!((55..=60).contains(&timers), "each time that time has passed: {timers}");
        });
    }

    #[test]
    fn idle_thread_that_suddenly_never_sleeps_is_asked_for_its_heartbeat() {
        on_thread(async |pulse, threads, timers| {
            let control = threads.register("control");
            let supervised = threads.clone();
            tokio::spawn(async move { supervised.supervise(&control.pulse()).await });
            // Left idle, and woken up by the end of the pause.
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

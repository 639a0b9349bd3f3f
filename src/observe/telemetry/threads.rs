//! Heartbeats of the gateway's threads.
//!
//! A thread with a runtime has a heartbeat timer while it is busy ([`Activity`]). Other threads
//! mark when they wait for work. An idle thread never wakes up only for its heartbeat, except for
//! the one that watches all others. `admin` and `server` act on a missing heartbeat, and `app` on
//! the death of a thread.

use std::{
    convert::Infallible,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

pub use self::activity::Activity;
use crate::base::clock::{self, Instant};

mod activity;

/// Time without a heartbeat after which a thread counts as blocked.
const BLOCKED_AFTER: Duration = Duration::from_secs(10);

/// Values of [`State::beat`] that are not times.
const WAITING: u64 = u64::MAX;
const DEAD: u64 = u64::MAX - 1;

/// Threads of one gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Threads(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    blocked_after: Duration,
    running: Mutex<Vec<Pulse>>,
    /// Name of the first thread that has died.
    lost: watch::Sender<Option<Arc<str>>>,
}

/// Heartbeat of a thread, owned by the thread. If it is dropped without [`retire`](Self::retire),
/// the thread counts as dead.
#[derive(Debug)]
#[must_use = "the thread is dead when this is dropped"]
pub struct Heartbeat {
    threads: Threads,
    pulse: Pulse,
}

/// Handle to record and read the heartbeat of a thread. Cheap to clone; never waits or locks.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<State>);

#[derive(Debug)]
struct State {
    name: Box<str>,
    started: Instant,
    blocked_after: Duration,
    /// Milliseconds from `started` to the last heartbeat, or one of the constants above.
    beat: AtomicU64,
    /// Notified to request a heartbeat from a thread without a timer.
    asked: Notify,
}

/// Condition of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It had a heartbeat recently, or waits for work.
    Responsive,
    /// It had no heartbeat for a while, but is not considered blocked yet.
    Late,
    /// It had no heartbeat for 10 s or more.
    Blocked {
        /// Time since its last heartbeat.
        since: Duration,
    },
    /// It has panicked.
    Dead,
}

/// A thread that is blocked or dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresponsive {
    /// Name of the thread: `worker-0`, `health-0`, `control`, `audit`, `traces`, `log`.
    pub thread: Box<str>,
    /// Whether it is blocked or dead.
    pub condition: Condition,
}

impl Threads {
    pub(super) fn new() -> Self {
        Self::with_limit(BLOCKED_AFTER)
    }

    fn with_limit(blocked_after: Duration) -> Self {
        Self(Arc::new(Inner { blocked_after, running: Mutex::default(), lost: watch::Sender::default() }))
    }

    /// Adds a thread and records its first heartbeat. `name` must be unique.
    pub fn register(&self, name: impl Into<Box<str>>) -> Heartbeat {
        let pulse = Pulse(Arc::new(State {
            name: name.into(),
            started: clock::now(),
            blocked_after: self.0.blocked_after,
            beat: AtomicU64::new(0),
            asked: Notify::new(),
        }));
        self.running().push(pulse.clone());
        Heartbeat { threads: self.clone(), pulse }
    }

    /// Returns the threads that are blocked or dead.
    #[must_use]
    pub fn unresponsive(&self) -> Vec<Unresponsive> {
        let all = self.conditions().into_iter();
        let failed = all.filter(|(_, condition)| condition.is_failure());
        failed.map(|(thread, condition)| Unresponsive { thread, condition }).collect()
    }

    /// Returns the name and condition of each thread that has not retired.
    pub(super) fn conditions(&self) -> Vec<(Box<str>, Condition)> {
        let running = self.running();
        running.iter().map(|pulse| (pulse.0.name.clone(), pulse.condition())).collect()
    }

    /// Resolves with the name of the first thread that has died: it panicked, or returned without
    /// retiring its heartbeat. A thread cannot be restarted, because its state is lost.
    pub async fn lost(&self) -> Arc<str> {
        let mut lost = self.0.lost.subscribe();
        loop {
            if let Some(name) = &*lost.borrow_and_update() {
                return Arc::clone(name);
            }
            if lost.changed().await.is_err() {
                // Not reached: `self` owns the sender.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Records heartbeats of the calling thread, requests late heartbeats of other threads, and
    /// logs when a thread stops responding and when it responds again.
    pub async fn supervise(&self, own: &Pulse) -> Infallible {
        let mut known: Vec<Unresponsive> = Vec::new();
        loop {
            own.beat();
            self.running().iter().filter(|pulse| pulse.condition() == Condition::Late).for_each(Pulse::ask);
            let now = self.unresponsive();
            let is_in =
                |list: &[Unresponsive], thread: &str| list.iter().any(|other| *other.thread == *thread);
            for new in now.iter().filter(|new| !is_in(&known, &new.thread)) {
                tracing::error!(thread.name = %new.thread, error = %new, "thread does not respond");
            }
            for gone in known.iter().filter(|gone| !is_in(&now, &gone.thread)) {
                tracing::warn!(thread.name = %gone.thread, "thread responds again");
            }
            known = now;
            sleep(own.interval()).await;
        }
    }

    fn running(&self) -> MutexGuard<'_, Vec<Pulse>> {
        // No code panics while it holds the lock.
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heartbeat {
    /// Returns a handle to the heartbeat.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Removes the thread, which ends normally.
    pub fn retire(self) {
        self.threads.running().retain(|other| !Arc::ptr_eq(&other.0, &self.pulse.0));
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.pulse.0.beat.store(DEAD, Ordering::Release);
        let is_running = self.threads.running().iter().any(|other| Arc::ptr_eq(&other.0, &self.pulse.0));
        if is_running {
            self.threads.0.lost.send_if_modified(|lost| {
                let is_first = lost.is_none();
                lost.get_or_insert_with(|| Arc::from(self.pulse.name()));
                is_first
            });
        }
    }
}

impl Pulse {
    /// Records a heartbeat. The thread counts as busy from now on.
    pub fn beat(&self) {
        let since = clock::now().saturating_duration_since(self.0.started);
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).min(DEAD - 1);
        self.0.beat.store(since, Ordering::Release);
    }

    /// Records that the thread waits for work. Until it has some, it needs no heartbeat.
    pub fn wait(&self) {
        self.0.beat.store(WAITING, Ordering::Release);
    }

    /// Requests a heartbeat. A thread that is not blocked responds soon.
    fn ask(&self) {
        self.0.asked.notify_one();
    }

    /// Waits until a heartbeat is requested.
    async fn asked(&self) {
        self.0.asked.notified().await;
    }

    /// Returns the name of the thread.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns the interval of a heartbeat timer: less than half of the time after which a thread
    /// counts as blocked.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.0.blocked_after * 2 / 5
    }

    /// Returns the current condition of the thread.
    #[must_use]
    pub fn condition(&self) -> Condition {
        let State { started, blocked_after, beat, .. } = &*self.0;
        let beat = match beat.load(Ordering::Acquire) {
            WAITING => return Condition::Responsive,
            DEAD => return Condition::Dead,
            beat => *started + Duration::from_millis(beat),
        };
        let since = clock::now().saturating_duration_since(beat);
        if since >= *blocked_after {
            Condition::Blocked { since }
        } else if since >= *blocked_after / 2 {
            Condition::Late
        } else {
            Condition::Responsive
        }
    }
}

impl Condition {
    /// Returns whether the thread is blocked or dead.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Blocked { .. } | Self::Dead)
    }
}

impl fmt::Display for Unresponsive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.condition {
            Condition::Blocked { since } => {
                write!(f, "thread {} has been blocked for {} s", self.thread, since.as_secs())
            }
            Condition::Dead => write!(f, "thread {} has panicked", self.thread),
            Condition::Responsive | Condition::Late => write!(f, "thread {} responds", self.thread),
        }
    }
}

#[cfg(test)]
impl Threads {
    /// Creates threads that count as blocked after `blocked_after`.
    pub(super) fn for_test(blocked_after: Duration) -> Self {
        Self::with_limit(blocked_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(threads: &Threads) -> Vec<String> {
        threads.unresponsive().iter().map(ToString::to_string).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn busy_thread_is_blocked_after_ten_seconds_without_a_heartbeat() {
        let threads = Threads::new();
        let heartbeat = threads.register("worker-0");
        let pulse = heartbeat.pulse();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(pulse.condition(), Condition::Late);
        pulse.beat();
        tokio::time::advance(Duration::from_millis(9_999)).await;
        assert_eq!(reported(&threads), [""; 0]);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(reported(&threads), ["thread worker-0 has been blocked for 10 s"]);
        pulse.beat();
        assert_eq!(pulse.condition(), Condition::Responsive);
        assert_eq!(reported(&threads), [""; 0], "it recovers");
    }

    #[tokio::test(start_paused = true)]
    async fn thread_that_waits_for_work_needs_no_heartbeat() {
        let threads = Threads::new();
        let heartbeat = threads.register("audit");
        heartbeat.pulse().wait();
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(reported(&threads), [""; 0]);
        heartbeat.pulse().beat();
        tokio::time::advance(Duration::from_secs(12)).await;
        assert_eq!(reported(&threads), ["thread audit has been blocked for 12 s"]);
        heartbeat.retire();
        assert_eq!(reported(&threads), [""; 0], "it has ended normally");
    }

    #[test]
    fn thread_that_panics_stays_dead() {
        let threads = Threads::new();
        let heartbeat = threads.register("worker-1");
        let pulse = heartbeat.pulse();
        let thread = std::thread::spawn(move || {
            heartbeat.pulse().beat();
            panic!("simulated defect");
        });
        thread.join().expect_err("it panics");
        assert_eq!(pulse.condition(), Condition::Dead);
        assert_eq!(reported(&threads), ["thread worker-1 has panicked"]);
    }

    #[tokio::test(start_paused = true)]
    async fn first_dead_thread_is_reported_and_a_retired_one_is_not() {
        let threads = Threads::new();
        let (retired, first, second) =
            (threads.register("health-0"), threads.register("worker-0"), threads.register("worker-1"));
        let lost = tokio::time::timeout(Duration::from_mins(1), threads.lost());
        retired.retire();
        assert!(lost.await.is_err(), "none has died");
        drop(first);
        drop(second);
        assert_eq!(&*threads.lost().await, "worker-0");
        assert_eq!(&*threads.lost().await, "worker-0", "later callers get the same name");
    }

    #[tokio::test(start_paused = true)]
    async fn supervision_records_heartbeats_of_its_own_thread() {
        let threads = Threads::new();
        let heartbeat = threads.register("control");
        let pulse = heartbeat.pulse();
        let watched = threads.clone();
        let task = tokio::spawn(async move { watched.supervise(&pulse).await });
        sleep(Duration::from_mins(1)).await;
        assert_eq!(heartbeat.pulse().condition(), Condition::Responsive);
        task.abort();
        sleep(Duration::from_mins(1)).await;
        assert_eq!(reported(&threads).len(), 1);
    }
}

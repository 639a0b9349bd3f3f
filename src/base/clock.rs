//! The only module that reads the time.
//!
//! Durations and deadlines use the monotonic clock ([`Instant`]), which tests can pause. The wall
//! clock is used only for times that people and other machines read, and to detect that the machine
//! was suspended. This module does not sleep.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//!
//! use ott_gateway::base::clock::{self, MAX_TIMESTAMP, WallClock, unix_seconds};
//!
//! let deadline = clock::now() + Duration::from_secs(10);
//! assert!(deadline.saturating_duration_since(clock::now()) <= Duration::from_secs(10));
//!
//! assert!(WallClock::system().now() < SystemTime::UNIX_EPOCH + MAX_TIMESTAMP);
//! assert_eq!(unix_seconds(SystemTime::UNIX_EPOCH + Duration::from_millis(1500)), 1);
//! ```

use std::time::{Duration, SystemTime};

pub use tokio::time::Instant;

/// Time from 1970 to 9999-12-31T23:59:59Z, the last second that a protobuf `Timestamp` can
/// represent.
pub const MAX_TIMESTAMP: Duration = Duration::from_secs(253_402_300_799);

/// Returns the current monotonic time.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the only function that reads the monotonic clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// A wall clock: the machine's, or in tests one that follows the paused monotonic clock and can be
/// set.
#[derive(Clone, Debug)]
pub struct WallClock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    #[cfg(test)]
    Following {
        base: SystemTime,
        started: Instant,
        shift_ms: std::sync::Arc<std::sync::atomic::AtomicI64>,
    },
}

impl WallClock {
    /// Returns the machine's wall clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// Returns a wall clock that starts at 2026-01-01 and advances with the monotonic clock.
    #[cfg(test)]
    pub(crate) fn following_monotonic() -> Self {
        Self(Source::Following {
            base: SystemTime::UNIX_EPOCH + Duration::from_hours(490_896),
            started: now(),
            shift_ms: std::sync::Arc::default(),
        })
    }

    /// Shifts the wall clock relative to the monotonic one.
    #[cfg(test)]
    pub(crate) fn shift_by_ms(&self, milliseconds: i64) {
        match &self.0 {
            Source::System => panic!("a test must not set the machine's clock"),
            Source::Following { shift_ms, .. } => {
                shift_ms.fetch_add(milliseconds, std::sync::atomic::Ordering::SeqCst);
            }
        }
    }

    /// Returns the current wall-clock time.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the only function that reads the wall clock")]
    pub fn now(&self) -> SystemTime {
        match &self.0 {
            Source::System => SystemTime::now(),
            #[cfg(test)]
            Source::Following { base, started, shift_ms } => {
                let shift = shift_ms.load(std::sync::atomic::Ordering::SeqCst);
                let moved = *base + started.elapsed();
                let by = Duration::from_millis(shift.unsigned_abs());
                if shift < 0 { moved - by } else { moved + by }
            }
        }
    }
}

/// Returns the seconds since 1970, or 0 for an earlier time.
#[must_use]
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// Holds the clock of a test that was started with `start_paused = true`.
///
/// A paused clock advances to the next timer whenever the runtime waits for a socket. While this
/// value exists, only [`tokio::time::advance`] advances it, so that a test with real sockets can
/// count the events of one second.
#[cfg(test)]
pub(crate) struct HeldClock {
    /// A paused clock does not advance by itself while a blocking task runs. This ends the task.
    _end: std::sync::mpsc::Sender<()>,
}

#[cfg(test)]
impl HeldClock {
    #[expect(clippy::disallowed_methods, reason = "holds the clock, which nothing else does")]
    pub(crate) fn new() -> Self {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || ended.recv());
        Self { _end: end }
    }
}

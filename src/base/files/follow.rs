//! Polls files and applies their changes.
//!
//! A version is applied when two successive polls see the same one, because a file that is
//! written in place can be read half written. Parsed values are compared: different bytes with the
//! same meaning are not a change, and delay a change by at most [`MAX_CHANGING`]. A value stays in
//! use until another one can replace it.
//!
//! Files are polled because a watch misses changes: a Kubernetes secret changes through a symbolic
//! link in a parent directory, and network file systems report no events.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt::{self, Display},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use tokio::{sync::Notify, time::timeout};

use super::{
    no_result::NoResult,
    read::{Reader, Version},
    timed,
};
use crate::base::clock::{self, Instant, WallClock};

/// Time between two polls. A change is in use within 10 s: the next poll sees it, and the one after
/// that applies it.
pub const POLL_INTERVAL: Duration = Duration::from_secs(3);

/// Minimum time between the two polls of a requested reload.
const REQUESTED_INTERVAL: Duration = Duration::from_millis(300);

/// Minimum time between the two polls at startup, when there is no value yet.
const FIRST_INTERVAL: Duration = Duration::from_millis(4);

/// At startup, files that have not been written for this long are used after one poll. Twice the
/// coarsest timestamp resolution of common file systems.
const SETTLED_AFTER: Duration = Duration::from_secs(4);

/// After files have changed at every poll for this long, two polls that parse to the same value are
/// enough, because a template may write the time into a comment. Including the time until the first
/// poll, such a change is in use after 8 s, which leaves connections time to close within 10 s.
const MAX_CHANGING: Duration = Duration::from_secs(5);

/// Time without a settled version after which files are reported. Longer than [`MAX_CHANGING`],
/// which begins one poll later.
const MAX_UNSETTLED: Duration = Duration::from_secs(9);

/// Reads and parses files. Runs on its own thread for at most
/// [`READ_TIMEOUT`](super::READ_TIMEOUT).
pub type Parser<T, E> = Arc<dyn Fn(&mut Reader) -> Result<T, E> + Send + Sync>;

/// Files that are followed together because they form one value.
pub trait FollowedFile: Send {
    /// The parsed contents of the files.
    type Value: PartialEq + Send + 'static;
    /// Reason that the files have no usable value.
    type Error: Display + Send + 'static;

    /// Returns the path or paths, for log lines and for the limit on pending reads.
    fn name(&self) -> Arc<str>;

    /// Returns the function that reads and parses the files.
    fn parser(&self) -> Parser<Self::Value, Self::Error>;

    /// Returns whether two values have the same effect when they are applied. Equivalent values
    /// that differ are different versions, but a difference that changes at every poll does not
    /// prevent the value from being applied.
    fn are_equivalent(value: &Self::Value, other: &Self::Value) -> bool {
        value == other
    }

    /// Returns the metrics of these files.
    fn outcomes(&self) -> &dyn Outcomes;

    /// Puts a value into use. `old` is the value in use, if any, and may equal `new` if a reload
    /// was requested.
    ///
    /// # Errors
    ///
    /// The value cannot be used now. This is tried again at every poll.
    fn apply(&mut self, new: &Self::Value, old: Option<&Self::Value>) -> Result<(), Self::Error>;

    /// Logs the reason that a new version is not used. Not called again for the same reason until a
    /// version is usable.
    fn refused(&mut self, error: &PollError<Self::Error>, in_use: Option<&Self::Value>);

    /// Called at every poll, before a value is applied, with the parsed value, whether it can be
    /// used or not.
    fn polled(&mut self, _seen: Option<&Self::Value>) {}
}

/// Counts the outcomes of new versions.
pub trait Outcomes: Send + Sync {
    /// The first value is in use.
    fn loaded(&self);
    /// A new version was applied, or refused.
    fn reloaded(&self, ok: bool);
    /// The files contain the value in use again, after a version was refused.
    fn recovered(&self);
}

/// Reason that a poll has no usable value.
#[derive(Debug, thiserror::Error)]
pub enum PollError<E> {
    /// The files were not read in time.
    #[error("{0}")]
    NoResult(NoResult),
    /// The contents cannot be used.
    #[error("{0}")]
    Refused(E),
    /// No two successive polls have seen the same value.
    #[error("it has had different contents at every poll for {} seconds", MAX_UNSETTLED.as_secs())]
    KeepsChanging,
}

/// Reads and parses files once, like a [`Follower`]. Blocks for at most
/// [`READ_TIMEOUT`](super::READ_TIMEOUT).
///
/// # Errors
///
/// The files have no usable value, or were not read in time.
pub fn load<T, E>(name: &str, parser: Parser<T, E>) -> Result<T, PollError<E>>
where
    T: Send + 'static,
    E: Display + Send + 'static,
{
    let result =
        timed::wait(name, move |progress| parser(&mut Reader::new(progress))).map_err(PollError::NoResult)?;
    result.map_err(PollError::Refused)
}

/// Makes a follower poll at once. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Trigger(Arc<Notify>);

impl Trigger {
    /// Requests a reload, even if the files have not changed.
    pub fn fire(&self) {
        self.0.notify_one();
    }
}

/// Maximum number of remembered reasons, so that a file that alternates between several is not
/// logged at every poll.
const MAX_REASONS: usize = 8;

/// Follows files.
pub struct Follower<F: FollowedFile> {
    file: F,
    name: Arc<str>,
    parser: Parser<F::Value, F::Error>,
    in_use: Option<F::Value>,
    last: Option<Seen<F::Value>>,
    /// Time since when no version has settled.
    changing_since: Option<Instant>,
    /// Time since when no poll has seen the value in use or a settled version.
    unsettled_since: Option<Instant>,
    /// Reasons for refusals since the files had a usable value, most recent last.
    reasons: VecDeque<String>,
    trigger: Trigger,
    requested: bool,
    wall: WallClock,
    interval: Duration,
}

/// The version seen by the last poll.
struct Seen<T> {
    version: Version,
    /// Time of the first poll that saw it.
    since: Instant,
    value: SeenValue<T>,
}

enum SeenValue<T> {
    Unusable,
    InUse,
    Other(T),
}

/// The result of one poll.
struct Reading<T, E> {
    version: Version,
    last_write: Option<SystemTime>,
    result: Result<T, E>,
}

impl<F: FollowedFile> Follower<F> {
    /// Creates a follower of files whose value `in_use` is already in use, if any.
    #[must_use]
    pub fn new(file: F, in_use: Option<F::Value>, wall: WallClock) -> Self {
        if in_use.is_some() {
            file.outcomes().loaded();
        }
        Self {
            name: file.name(),
            parser: file.parser(),
            file,
            in_use,
            last: None,
            changing_since: None,
            unsettled_since: None,
            reasons: VecDeque::new(),
            trigger: Trigger::default(),
            requested: false,
            wall,
            interval: POLL_INTERVAL,
        }
    }

    /// Sets the time between two polls; default [`POLL_INTERVAL`].
    #[must_use]
    pub const fn poll_every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Returns the path or paths of the files.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the trigger that makes this follower poll at once.
    #[must_use]
    pub fn trigger(&self) -> Trigger {
        self.trigger.clone()
    }

    /// Follows the files. Never returns. If the future is dropped, another call continues.
    pub async fn run(&mut self) -> Infallible {
        loop {
            let wait = self.poll().await;
            self.requested |= timeout(wait, self.trigger.0.notified()).await.is_ok();
        }
    }

    /// Polls once, and returns the time until the next poll.
    async fn poll(&mut self) -> Duration {
        // This poll serves all requests up to now.
        self.requested |= self.trigger.0.notified().now_or_never().is_some();
        let parser = Arc::clone(&self.parser);
        let read = move |progress| {
            let mut reader = Reader::new(progress);
            let result = parser(&mut reader);
            Reading { version: reader.version(), last_write: reader.last_write(), result }
        };
        match timed::read(&self.name, read).await {
            Ok(reading) => self.consider(reading),
            Err(error) => {
                // A change must be in use within 10 s, and a timed-out read has used half of that.
                let wait = if matches!(error, NoResult::TimedOut) { Duration::ZERO } else { self.interval };
                self.last = None;
                self.file.polled(None);
                self.refuse(&PollError::NoResult(error));
                wait
            }
        }
    }

    fn consider(&mut self, reading: Reading<F::Value, F::Error>) -> Duration {
        self.file.polled(reading.result.as_ref().ok());
        let is_settled = self.settle(&reading);
        let value = match reading.result {
            Ok(value) if self.is_no_change(&value) && !self.requested => {
                let is_in_use = self.in_use.as_ref() == Some(&value);
                self.see(if is_in_use { SeenValue::InUse } else { SeenValue::Other(value) });
                self.unsettled_since = None;
                if !self.reasons.is_empty() {
                    self.reasons.clear();
                    self.file.outcomes().recovered();
                    tracing::info!(file.path = &*self.name, "file usable again, contents unchanged");
                }
                return self.interval;
            }
            Ok(value) => value,
            Err(error) => {
                self.see(SeenValue::Unusable);
                if is_settled || self.is_unsettled_too_long() || self.in_use.is_none() {
                    self.refuse(&PollError::Refused(error));
                    return self.interval;
                }
                return self.time_to_settle();
            }
        };
        if !is_settled {
            self.see(SeenValue::Other(value));
            if self.is_unsettled_too_long() {
                self.refuse(&PollError::KeepsChanging);
            }
            return self.time_to_settle();
        }
        match self.file.apply(&value, self.in_use.as_ref()) {
            Ok(()) => self.applied(value),
            Err(error) => {
                self.see(SeenValue::Other(value));
                self.refuse(&PollError::Refused(error));
            }
        }
        self.interval
    }

    /// Records the version, and returns whether its value may be applied.
    fn settle(&mut self, reading: &Reading<F::Value, F::Error>) -> bool {
        let now = clock::now();
        let last = self.last.as_ref();
        let last_value = last.and_then(|last| match &last.value {
            SeenValue::Unusable => None,
            SeenValue::InUse => self.in_use.as_ref(),
            SeenValue::Other(value) => Some(value),
        });
        let value = reading.result.as_ref().ok();
        // The value can depend on the time, and on files that bypass the reader.
        let differs = value.is_some() && last_value.is_some() && value != last_value;
        let same = last.filter(|last| last.version == reading.version && !differs);
        let is_equivalent = value.zip(last_value).is_some_and(|(value, last)| F::are_equivalent(value, last));
        let is_first = last.is_none();
        let since = same.map_or(now, |same| same.since);
        let is_unchanged = same.is_some();

        let has_settled = is_unchanged && now - since >= self.settling_time();
        if has_settled || is_first {
            self.changing_since = None;
        } else if !is_unchanged {
            self.changing_since.get_or_insert(now);
        }
        let keeps_changing = self.keeps_changing();
        let is_settled = has_settled
            || (keeps_changing && is_equivalent)
            || (self.in_use.is_none() && is_first && self.was_written_long_ago(reading.last_write));
        self.last = Some(Seen { version: reading.version, since, value: SeenValue::Unusable });
        if is_settled {
            self.unsettled_since = None;
        }
        is_settled
    }

    /// Returns whether no version has settled for [`MAX_CHANGING`].
    fn keeps_changing(&self) -> bool {
        self.changing_since.is_some_and(|since| clock::now() - since >= MAX_CHANGING)
    }

    /// Returns whether a value need not be applied: it is in use, or it keeps changing without
    /// effect.
    fn is_no_change(&self, value: &F::Value) -> bool {
        let in_use = self.in_use.as_ref();
        in_use == Some(value)
            || self.keeps_changing() && in_use.is_some_and(|in_use| F::are_equivalent(in_use, value))
    }

    fn is_unsettled_too_long(&mut self) -> bool {
        let now = clock::now();
        now - *self.unsettled_since.get_or_insert(now) >= MAX_UNSETTLED
    }

    fn see(&mut self, value: SeenValue<F::Value>) {
        if let Some(last) = &mut self.last {
            last.value = value;
        }
    }

    /// Returns the minimum time between two polls that settle a version.
    const fn settling_time(&self) -> Duration {
        if self.in_use.is_none() {
            FIRST_INTERVAL
        } else if self.requested {
            REQUESTED_INTERVAL
        } else {
            self.interval
        }
    }

    /// Returns the time until the last version could be applied, either unchanged or while the
    /// files keep changing.
    fn time_to_settle(&self) -> Duration {
        let now = clock::now();
        let unchanged = self.last.as_ref().map(|last| last.since + self.settling_time());
        let changing = self.changing_since.map(|since| since + MAX_CHANGING);
        let left = [unchanged, changing].into_iter().flatten().map(|at| at.saturating_duration_since(now));
        left.filter(|left| !left.is_zero()).min().unwrap_or_else(|| self.settling_time())
    }

    fn was_written_long_ago(&self, last_write: Option<SystemTime>) -> bool {
        let age = last_write.and_then(|last_write| self.wall.now().duration_since(last_write).ok());
        age.is_some_and(|age| age >= SETTLED_AFTER)
    }

    fn applied(&mut self, value: F::Value) {
        match self.in_use.replace(value) {
            None => self.file.outcomes().loaded(),
            Some(_) => self.file.outcomes().reloaded(true),
        }
        self.see(SeenValue::InUse);
        self.reasons.clear();
        self.requested = false;
    }

    /// Counts and logs a reason, unless it was reported since the files were last usable.
    fn refuse(&mut self, error: &PollError<F::Error>) {
        let requested = std::mem::take(&mut self.requested);
        let reason = error.to_string();
        let known = self.reasons.iter().position(|known| *known == reason);
        if let Some(known) = known {
            self.reasons.remove(known);
        } else if self.reasons.len() == MAX_REASONS {
            self.reasons.pop_front();
        }
        self.reasons.push_back(reason);
        if known.is_none() || requested {
            self.file.outcomes().reloaded(false);
            self.file.refused(error, self.in_use.as_ref());
        }
    }
}

impl<F: FollowedFile> fmt::Debug for Follower<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

//! Follows files: polls them, and takes over what they contain.
//!
//! A version is taken over when two successive polls see the same one, because a file that is
//! written in place can be read half written. Values are compared as they were parsed: other
//! bytes with the same meaning are no change, and do not delay one for longer than
//! [`MAX_CHANGING`]. A value stays in use until another one can replace it.
//!
//! Polling sees what a watch on the file does not: a Kubernetes secret changes by a symbolic link
//! two folders up, and network file systems report nothing.

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
    read::{Reader, Version},
    timed,
    unanswered::Unanswered,
};
use crate::clock::{self, Instant, WallClock};

/// Time between two polls. A change is in use within 10 s: it is seen by the next poll, and taken
/// over by the one after that.
pub const POLL_INTERVAL: Duration = Duration::from_secs(3);

/// Minimum time between the two polls after a reload was requested.
const ASKED_INTERVAL: Duration = Duration::from_millis(300);

/// Minimum time between the two polls at start, when there is no value yet.
const FIRST_INTERVAL: Duration = Duration::from_millis(4);

/// At start, files that have not been written to for this long are used after one poll. Twice the
/// coarsest time stamp of a common file system.
const SETTLED_AFTER: Duration = Duration::from_secs(4);

/// After files have changed at every poll for this long, two polls that parse to the same value
/// are enough: a template may write the time into a comment. With the time until the first poll,
/// such a change is in use after 8 s, and connections have time to close before 10 s have passed.
const MAX_CHANGING: Duration = Duration::from_secs(5);

/// Files without a version that could be taken over for this long are reported. Longer than
/// [`MAX_CHANGING`], which begins one poll later.
const MAX_UNSETTLED: Duration = Duration::from_secs(9);

/// Reads files and parses them. Runs on a thread of its own for at most
/// [`READ_TIMEOUT`](super::READ_TIMEOUT).
pub type Parser<T, E> = Arc<dyn Fn(&mut Reader) -> Result<T, E> + Send + Sync>;

/// Files that are followed together because they make one value.
pub trait FollowedFile: Send {
    /// What the files contain.
    type Value: PartialEq + Send + 'static;
    /// Why the files have no usable value.
    type Error: Display + Send + 'static;

    /// Path of the file, or paths, for log lines and for the limit on pending reads.
    fn name(&self) -> Arc<str>;

    /// Returns the function that reads and parses the files.
    fn parser(&self) -> Parser<Self::Value, Self::Error>;

    /// Returns whether two values have the same effect when they are taken over. Values that
    /// differ in other ways are different versions, but a difference that changes at every poll
    /// does not keep the rest from being taken over.
    fn are_equivalent(value: &Self::Value, other: &Self::Value) -> bool {
        value == other
    }

    /// Returns the metrics of these files.
    fn outcomes(&self) -> &dyn Outcomes;

    /// Puts a value into use. `old` is the value in use, if there is one, and can be equal to
    /// `new` if a reload was requested.
    ///
    /// # Errors
    ///
    /// The value cannot be used now. It is tried again at every poll.
    fn take_over(&mut self, new: &Self::Value, old: Option<&Self::Value>) -> Result<(), Self::Error>;

    /// Logs why a new version is not used. Not called again for the same reason until a version
    /// could be used.
    fn refused(&mut self, error: &PollError<Self::Error>, in_use: Option<&Self::Value>);

    /// Called at every poll, before anything is taken over, with the value that was seen, usable
    /// or not.
    fn polled(&mut self, _seen: Option<&Self::Value>) {}
}

/// Counts what became of new versions.
pub trait Outcomes: Send + Sync {
    /// A first value is in use.
    fn loaded(&self);
    /// A new version was taken over, or refused.
    fn reloaded(&self, ok: bool);
    /// The files contain the value in use again, after a version was refused.
    fn recovered(&self);
}

/// Why a poll has no usable value.
#[derive(Debug, thiserror::Error)]
pub enum PollError<E> {
    /// The files were not read in time.
    #[error("{0}")]
    Unanswered(Unanswered),
    /// The contents cannot be used.
    #[error("{0}")]
    Refused(E),
    /// No two polls have seen the same value.
    #[error("it has had different contents at every poll for {} seconds", MAX_UNSETTLED.as_secs())]
    KeepsChanging,
}

/// Reads and parses files once, as a [`Follower`] does. Blocks for at most
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
    let result = timed::wait(name, move |progress| parser(&mut Reader::new(progress)))
        .map_err(PollError::Unanswered)?;
    result.map_err(PollError::Refused)
}

/// Makes a follower poll at once. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Trigger(Arc<Notify>);

impl Trigger {
    /// Asks for a reload, even if the files have not changed.
    pub fn fire(&self) {
        self.0.notify_one();
    }
}

/// Maximum number of reasons that are remembered, so that a file that fails for several reasons in
/// turn is not logged at every poll.
const MAX_REASONS: usize = 8;

/// Follows files.
pub struct Follower<F: FollowedFile> {
    file: F,
    name: Arc<str>,
    parser: Parser<F::Value, F::Error>,
    in_use: Option<F::Value>,
    last: Option<Seen<F::Value>>,
    /// Since when no version has settled.
    changing_since: Option<Instant>,
    /// Since when no poll has seen the value in use, or a settled version.
    unsettled_since: Option<Instant>,
    /// Reasons for refusals since the files had a usable value, the last one at the end.
    reasons: VecDeque<String>,
    trigger: Trigger,
    asked: bool,
    wall: WallClock,
    interval: Duration,
}

/// What the last poll has seen.
struct Seen<T> {
    version: Version,
    /// Time of the first poll that has seen it.
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
    /// Follows files that have this value in use, or none yet.
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
            asked: false,
            wall,
            interval: POLL_INTERVAL,
        }
    }

    /// Sets the time between two polls, which is [`POLL_INTERVAL`] otherwise.
    #[must_use]
    pub const fn poll_every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Returns the path of the file, or the paths.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what makes it poll at once.
    #[must_use]
    pub fn trigger(&self) -> Trigger {
        self.trigger.clone()
    }

    /// Follows the files. Never returns. A run that was dropped can be continued by another.
    pub async fn run(&mut self) -> Infallible {
        loop {
            let wait = self.poll().await;
            self.asked |= timeout(wait, self.trigger.0.notified()).await.is_ok();
        }
    }

    /// Polls once, and returns the time until the next poll.
    async fn poll(&mut self) -> Duration {
        // This poll serves every request up to now.
        self.asked |= self.trigger.0.notified().now_or_never().is_some();
        let parser = Arc::clone(&self.parser);
        let read = move |progress| {
            let mut reader = Reader::new(progress);
            let result = parser(&mut reader);
            Reading { version: reader.version(), last_write: reader.last_write(), result }
        };
        match timed::read(&self.name, read).await {
            Ok(reading) => self.consider(reading),
            Err(error) => {
                // A change must be in use within 10 s, and half of them have passed.
                let wait = if matches!(error, Unanswered::TimedOut) { Duration::ZERO } else { self.interval };
                self.last = None;
                self.file.polled(None);
                self.refuse(&PollError::Unanswered(error));
                wait
            }
        }
    }

    fn consider(&mut self, reading: Reading<F::Value, F::Error>) -> Duration {
        self.file.polled(reading.result.as_ref().ok());
        let is_settled = self.settle(&reading);
        let value = match reading.result {
            Ok(value) if self.is_no_change(&value) && !self.asked => {
                let is_in_use = self.in_use.as_ref() == Some(&value);
                self.see(if is_in_use { SeenValue::InUse } else { SeenValue::Other(value) });
                self.unsettled_since = None;
                if !self.reasons.is_empty() {
                    self.reasons.clear();
                    self.file.outcomes().recovered();
                    tracing::info!(file.path = &*self.name, "file is usable again and has not changed");
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
        match self.file.take_over(&value, self.in_use.as_ref()) {
            Ok(()) => self.taken_over(value),
            Err(error) => {
                self.see(SeenValue::Other(value));
                self.refuse(&PollError::Refused(error));
            }
        }
        self.interval
    }

    /// Notes the version, and returns whether its value may be taken over.
    fn settle(&mut self, reading: &Reading<F::Value, F::Error>) -> bool {
        let now = clock::now();
        let last = self.last.as_ref();
        let last_value = last.and_then(|last| match &last.value {
            SeenValue::Unusable => None,
            SeenValue::InUse => self.in_use.as_ref(),
            SeenValue::Other(value) => Some(value),
        });
        let value = reading.result.as_ref().ok();
        // The value can depend on the time, and on files that the reader has not read.
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

    /// Whether no version has settled for [`MAX_CHANGING`].
    fn keeps_changing(&self) -> bool {
        self.changing_since.is_some_and(|since| clock::now() - since >= MAX_CHANGING)
    }

    /// Whether a value needs not be taken over: it is in use, or it keeps changing in ways that
    /// have no effect.
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

    /// Minimum time between two polls that see the same version.
    const fn settling_time(&self) -> Duration {
        if self.in_use.is_none() {
            FIRST_INTERVAL
        } else if self.asked {
            ASKED_INTERVAL
        } else {
            self.interval
        }
    }

    /// Time until the version that was seen last could be taken over: if it stays as it is, or if
    /// the files keep changing.
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

    fn taken_over(&mut self, value: F::Value) {
        match self.in_use.replace(value) {
            None => self.file.outcomes().loaded(),
            Some(_) => self.file.outcomes().reloaded(true),
        }
        self.see(SeenValue::InUse);
        self.reasons.clear();
        self.asked = false;
    }

    /// Counts and logs a reason, unless that has been done since the files were usable.
    fn refuse(&mut self, error: &PollError<F::Error>) {
        let asked = std::mem::take(&mut self.asked);
        let reason = error.to_string();
        let known = self.reasons.iter().position(|known| *known == reason);
        if let Some(known) = known {
            self.reasons.remove(known);
        } else if self.reasons.len() == MAX_REASONS {
            self.reasons.pop_front();
        }
        self.reasons.push_back(reason);
        if known.is_none() || asked {
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

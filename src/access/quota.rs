//! How often: rates, bursts, and a bucket for each caller, and for each user of each caller.
//!
//! What an exceeded quota means is decided in `access`. Memory is bounded, and no caller can
//! use up what another one needs:
//!
//! - Users are remembered per caller. A caller that names more users than it may have
//!   remembered at one time makes its own users share buckets, and nobody else's.
//! - Callers that a rule names in full always have buckets of their own. Callers that only a
//!   glob matches, of whom there may be any number, have a bounded number; beyond it they share
//!   buckets among themselves.
//!
//! A bucket that is full is the same as an unused one, and is forgotten to make room. No other
//! bucket is forgotten.

mod callers;
mod memory;
mod users;

use std::{collections::HashSet, fmt, hash::Hash, num::NonZeroU32, sync::atomic::AtomicU64, time::Duration};

pub(super) use self::memory::{DEFAULT_MAX_USERS, Memory};
use self::{
    callers::{CallerBucket, PerCaller},
    users::UserTable,
};
use crate::telemetry::metrics::QuotaBucket;

/// Maximum burst. With the longest period, an hour for one call, a full bucket is still far
/// from the end of 64-bit nanoseconds.
pub const MAX_BURST: u32 = 1_000_000;

/// Nanoseconds since the [`Memory`] was created.
pub(super) type Nanos = u64;

/// How many calls in which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// A number of calls in each period, evenly spread.
    PerPeriod {
        /// The calls; 1 to 1,000,000.
        calls: NonZeroU32,
        /// The period: a second, a minute or an hour.
        period: Duration,
    },
    /// As many as there are.
    Unlimited,
}

impl Rate {
    /// So many calls each second.
    #[must_use]
    pub const fn per_second(calls: NonZeroU32) -> Self {
        Self::PerPeriod { calls, period: Duration::from_secs(1) }
    }

    /// So many calls each minute.
    #[must_use]
    pub const fn per_minute(calls: NonZeroU32) -> Self {
        Self::PerPeriod { calls, period: Duration::from_mins(1) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerPeriod { calls, period } => match period.as_secs() {
                1 => write!(f, "{calls}/s"),
                60 => write!(f, "{calls}/min"),
                3600 => write!(f, "{calls}/h"),
                seconds => write!(f, "{calls}/{seconds}s"),
            },
            Self::Unlimited => f.write_str("unlimited"),
        }
    }
}

/// What a bucket has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// The call was taken from the bucket; otherwise how long until one can be.
    pub(super) outcome: Result<(), Duration>,
    /// The bucket is one that several callers or users share.
    pub(super) shared: bool,
}

/// A caller as quotas count it.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallerKey<'a> {
    pub(super) name: &'a str,
    /// The callers that rules name in full.
    pub(super) literal_names: &'a HashSet<Box<str>>,
}

/// Rate and burst. The arithmetic is that of GCRA: a bucket is the moment at which it will be
/// full again.
///
/// Its `Display` is for callers and operators: `50/s, burst 100`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    rate: Rate,
    burst: NonZeroU32,
}

/// The time between two calls, and that of a whole burst.
#[derive(Clone, Copy, Debug)]
struct Spacing {
    interval: Nanos,
    burst: Nanos,
}

/// All calls of one caller.
#[derive(Debug)]
pub(super) struct CallerQuota {
    limit: Limit,
    callers: PerCaller<CallerBucket>,
}

/// The calls of one caller for one user.
#[derive(Debug)]
pub(super) struct UserQuota {
    limit: Limit,
    callers: PerCaller<UserTable>,
}

impl Limit {
    /// None if the rate is unlimited.
    fn spacing(self) -> Option<Spacing> {
        let Rate::PerPeriod { calls, period } = self.rate else { return None };
        let interval = u64::try_from((period / calls.get()).as_nanos()).unwrap_or(u64::MAX);
        Some(Spacing { interval, burst: interval.saturating_mul(u64::from(self.burst.get())) })
    }
}

impl Spacing {
    /// Takes one call from a bucket that will be full at that moment. Returns when it will be
    /// full then, or how long until it has a call.
    fn take(self, full_at: Nanos, now: Nanos) -> Result<Nanos, Duration> {
        let next = full_at.max(now).saturating_add(self.interval);
        match (next - now).checked_sub(self.burst) {
            None | Some(0) => Ok(next),
            Some(missing) => Err(Duration::from_nanos(missing)),
        }
    }

    /// As [`take`](Self::take), from a bucket that other threads use too.
    fn take_from(self, full_at: &AtomicU64, now: Nanos) -> Result<(), Duration> {
        use std::sync::atomic::Ordering::Relaxed;

        let mut current = full_at.load(Relaxed);
        loop {
            let next = self.take(current, now)?;
            match full_at.compare_exchange_weak(current, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(changed) => current = changed,
            }
        }
    }
}

impl Decision {
    const UNLIMITED: Self = Self { outcome: Ok(()), shared: false };
}

impl CallerQuota {
    /// A quota that nobody has used yet; `burst` is at most [`MAX_BURST`].
    pub(super) fn new(rate: Rate, burst: NonZeroU32) -> Self {
        Self { limit: Limit { rate, burst }, callers: PerCaller::new(QuotaBucket::Caller) }
    }

    /// Rate and burst.
    pub(super) const fn limit(&self) -> Limit {
        self.limit
    }

    /// Returns whether the other allows the same, regardless of what has been used of it.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.limit == other.limit
    }

    /// Takes one call from the caller's bucket. `make_room` is called if there is no room for
    /// a new bucket; if there is still no room, callers share one.
    pub(super) fn take(
        &self,
        caller: CallerKey<'_>,
        memory: &Memory,
        now: Nanos,
        make_room: impl FnOnce(),
    ) -> Decision {
        let Some(spacing) = self.limit.spacing() else { return Decision::UNLIMITED };
        let own = || {
            let bucket = self.callers.find(caller, memory)?;
            Some(spacing.take_from(&bucket.full_at, now))
        };
        let decided = own().or_else(|| {
            make_room();
            own()
        });
        match decided {
            Some(outcome) => Decision { outcome, shared: false },
            None => Decision { outcome: spacing.take_from(self.callers.shared(caller), now), shared: true },
        }
    }

    /// Forgets the buckets that are full.
    pub(super) fn forget_full(&self, now: Nanos) {
        self.callers.forget_idle(now);
    }
}

impl UserQuota {
    /// A quota that nobody has used yet; `burst` is at most [`MAX_BURST`].
    pub(super) fn new(rate: Rate, burst: NonZeroU32) -> Self {
        Self { limit: Limit { rate, burst }, callers: PerCaller::new(QuotaBucket::User) }
    }

    /// Rate and burst.
    pub(super) const fn limit(&self) -> Limit {
        self.limit
    }

    /// Returns whether the other allows the same, regardless of what has been used of it.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.limit == other.limit
    }

    /// Takes one call from the bucket of this user of the caller. `make_room` is called if there
    /// is no room for a new bucket; if there is still no room, users of the caller share one.
    pub(super) fn take(
        &self,
        caller: CallerKey<'_>,
        user: &impl Hash,
        memory: &Memory,
        now: Nanos,
        make_room: impl FnOnce(),
    ) -> Decision {
        let Some(spacing) = self.limit.spacing() else { return Decision::UNLIMITED };
        // Hashed with a key of this quota: nobody can look for two users that share a bucket,
        // and among a million users it happens by chance once in ten million times.
        let user = self.callers.hash(user);
        let own = || self.callers.find(caller, memory)?.take(user, spacing, now);
        let decided = own().or_else(|| {
            make_room();
            own()
        });
        let outcome = match decided {
            Some(outcome) => return Decision { outcome, shared: false },
            None => match self.callers.find(caller, memory) {
                Some(users) => users.take_shared(user, spacing, now),
                // Too many callers: they share buckets for all their users.
                None => spacing.take_from(self.callers.shared(caller), now),
            },
        };
        Decision { outcome, shared: true }
    }

    /// Forgets the buckets that are full.
    pub(super) fn forget_full(&self, now: Nanos) {
        self.callers.each(|users| users.forget_full(now));
        self.callers.forget_idle(now);
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rate {
            Rate::Unlimited => f.write_str("unlimited"),
            rate @ Rate::PerPeriod { .. } => write!(f, "{rate}, burst {}", self.burst),
        }
    }
}

impl fmt::Display for CallerQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.limit.fmt(f)
    }
}

impl fmt::Display for UserQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.limit.fmt(f)
    }
}

#[cfg(test)]
mod tests;

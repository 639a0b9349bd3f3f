//! Quotas: rates, bursts, and a bucket for each caller and for each user of each caller.
//!
//! `access` decides the effect of an exceeded quota. Memory is bounded, and no caller can use up
//! the memory of another:
//!
//! - Users are remembered per caller. A caller that names more users than may be remembered makes
//!   only its own users share buckets.
//! - Callers that a rule names literally always have their own buckets. Callers that only a glob
//!   matches, of which there may be any number, have a bounded number of buckets, and share buckets
//!   among themselves beyond it.
//!
//! A full bucket equals an unused one and is forgotten to make room. No other bucket is forgotten.

mod callers;
mod memory;
mod users;

use std::{collections::HashSet, fmt, hash::Hash, num::NonZeroU32, sync::atomic::AtomicU64, time::Duration};

pub(super) use self::memory::{DEFAULT_MAX_USERS, Memory};
use self::{
    callers::{CallerBucket, PerCaller},
    users::UserTable,
};
use super::rate::Rate;
use crate::observe::telemetry::metrics::QuotaBucket;

/// Maximum burst. With the longest interval, one call per hour, the time to fill a bucket is still
/// far from overflowing 64-bit nanoseconds.
pub const MAX_BURST: u32 = 1_000_000;

/// Nanoseconds since the [`Memory`] was created.
pub(super) type Nanos = u64;

/// The decision of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// `Ok` if the call was taken from the bucket, otherwise the time until a call is available.
    pub(super) outcome: Result<(), Duration>,
    /// Whether the bucket is shared by several callers or users.
    pub(super) shared: bool,
}

/// A caller, as the key of its bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallerKey<'a> {
    pub(super) name: &'a str,
    /// The callers that rules name literally.
    pub(super) literal_names: &'a HashSet<Box<str>>,
}

/// Rate and burst. Uses the GCRA algorithm: a bucket is stored as the time at which it will
/// be full again.
///
/// `Display` is meant for callers and operators: `50/s, burst 100`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    rate: Rate,
    burst: NonZeroU32,
}

/// The time of one call, and of a whole burst, at the configured rate.
#[derive(Clone, Copy, Debug)]
struct Spacing {
    interval: Nanos,
    burst: Nanos,
}

/// The quota on all calls of one caller.
#[derive(Debug)]
pub(super) struct CallerQuota {
    limit: Limit,
    callers: PerCaller<CallerBucket>,
}

/// The quota on the calls of one caller for one user.
#[derive(Debug)]
pub(super) struct UserQuota {
    limit: Limit,
    callers: PerCaller<UserTable>,
}

impl Limit {
    /// Returns `None` if the rate is unlimited.
    fn spacing(self) -> Option<Spacing> {
        let Rate::PerPeriod { calls, period } = self.rate else { return None };
        let interval = u64::try_from((period / calls.get()).as_nanos()).unwrap_or(u64::MAX);
        Some(Spacing { interval, burst: interval.saturating_mul(u64::from(self.burst.get())) })
    }
}

impl Spacing {
    /// Takes one call from a bucket that will be full at `full_at`. Returns the new time, or the
    /// time until a call is available.
    fn take(self, full_at: Nanos, now: Nanos) -> Result<Nanos, Duration> {
        let next = full_at.max(now).saturating_add(self.interval);
        match (next - now).checked_sub(self.burst) {
            None | Some(0) => Ok(next),
            Some(missing) => Err(Duration::from_nanos(missing)),
        }
    }

    /// Like [`take`](Self::take), for a bucket shared with other threads.
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
    /// Creates an unused quota; `burst` is at most [`MAX_BURST`].
    pub(super) fn new(rate: Rate, burst: NonZeroU32) -> Self {
        Self { limit: Limit { rate, burst }, callers: PerCaller::new(QuotaBucket::Caller) }
    }

    /// Returns rate and burst.
    pub(super) const fn limit(&self) -> Limit {
        self.limit
    }

    /// Returns whether both quotas have the same limit, regardless of their use.
    pub(super) fn has_same_limit(&self, other: &Self) -> bool {
        self.limit == other.limit
    }

    /// Takes one call from the caller's bucket. Calls `make_room` if there is no room for a new
    /// bucket. If there is still no room, callers share one.
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

    /// Forgets full buckets.
    pub(super) fn forget_full(&self, now: Nanos) {
        self.callers.forget_idle(now);
    }
}

impl UserQuota {
    /// Creates an unused quota; `burst` is at most [`MAX_BURST`].
    pub(super) fn new(rate: Rate, burst: NonZeroU32) -> Self {
        Self { limit: Limit { rate, burst }, callers: PerCaller::new(QuotaBucket::User) }
    }

    /// Returns rate and burst.
    pub(super) const fn limit(&self) -> Limit {
        self.limit
    }

    /// Returns whether both quotas have the same limit, regardless of their use.
    pub(super) fn has_same_limit(&self, other: &Self) -> bool {
        self.limit == other.limit
    }

    /// Takes one call from the bucket of the caller's user. Calls `make_room` if there is no room
    /// for a new bucket. If there is still no room, users of the caller share one.
    pub(super) fn take(
        &self,
        caller: CallerKey<'_>,
        user: &impl Hash,
        memory: &Memory,
        now: Nanos,
        make_room: impl FnOnce(),
    ) -> Decision {
        let Some(spacing) = self.limit.spacing() else { return Decision::UNLIMITED };
        // Hashed with a secret key of this quota, so that callers cannot search for users that
        // share a bucket. Among a million users, the chance of a collision is one in ten million.
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
                // Too many callers, which share buckets for all their users.
                None => spacing.take_from(self.callers.shared(caller), now),
            },
        };
        Decision { outcome, shared: true }
    }

    /// Forgets full buckets.
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

#[cfg(test)]
mod tests;

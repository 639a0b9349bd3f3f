//! How often: rates, bursts, and a counter for each key that forgets in time.
//!
//! Who the keys are and what an exceeded quota means is decided in `access`. Memory
//! is bounded however many keys appear, and no key is ever let off: see [`Bounded`].

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, Hash, RandomState},
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{StateStore, keyed::ShrinkableKeyedStateStore},
};

use crate::clock::{self, Instant};

/// The most a bucket can hold. With the longest period, an hour for one call, a full
/// bucket is still far from the end of 64-bit nanoseconds.
pub const MAX_BURST: u32 = 1_000_000;

/// The shards of a store: many more than cores, so that two calls rarely meet.
const SHARDS: usize = 64;
/// The most keys of a shard, so 65,536 in all and about 2 MB for each quota of each
/// rule.
const KEYS_PER_SHARD: usize = 1024;

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

/// One quota with a bucket for each key: full at first, refilled at the rate.
#[derive(Debug)]
pub(super) struct KeyedQuota {
    rate: Rate,
    burst: NonZeroU32,
    /// None if the rate is unlimited.
    buckets: Option<RateLimiter<u64, Bounded, Monotonic, NoOpMiddleware<Nanos>>>,
    hasher: RandomState,
}

impl KeyedQuota {
    /// A quota that nobody has used yet; `burst` is at most [`MAX_BURST`].
    pub(super) fn new(rate: Rate, burst: NonZeroU32) -> Self {
        let buckets = match rate {
            Rate::Unlimited => None,
            Rate::PerPeriod { calls, period } => Quota::with_period(period / calls.get()).map(|quota| {
                let quota = quota.allow_burst(burst);
                RateLimiter::new(quota, Bounded::new(quota.replenish_interval()), Monotonic::new())
            }),
        };
        Self { rate, burst, buckets, hasher: RandomState::new() }
    }

    /// Whether the other allows the same, whatever has been used of it.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.rate == other.rate && self.burst == other.burst
    }

    /// Takes one call from the key's bucket; if there is none, says how long until
    /// there is.
    pub(super) fn take(&self, key: &impl Hash) -> Result<(), Duration> {
        let Some(buckets) = &self.buckets else { return Ok(()) };
        // The hash is keyed anew for each quota: nobody can look for two keys that share
        // a bucket, and among 65,536 keys it happens by chance once in ten billion times.
        buckets
            .check_key(&self.hasher.hash_one(key))
            .map_err(|not_until| not_until.wait_time_from(buckets.clock().now()))
    }

    /// How many keys are remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.buckets.as_ref().map_or(0, RateLimiter::len)
    }
}

impl fmt::Display for KeyedQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rate {
            Rate::Unlimited => f.write_str("unlimited"),
            rate @ Rate::PerPeriod { .. } => write!(f, "{rate}, burst {}", self.burst),
        }
    }
}

/// The monotonic clock, as `governor` reads it.
#[derive(Debug)]
struct Monotonic {
    started: Instant,
}

impl Monotonic {
    fn new() -> Self {
        Self { started: clock::now() }
    }
}

impl Clock for Monotonic {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.started.elapsed().into()
    }
}

/// The state of at most 65,536 buckets.
///
/// A bucket that is full again is the same as one that nobody has used, and makes
/// room for a new key. If none is, because that many keys are in use at this moment,
/// new keys share one bucket per shard until there is room: they are limited
/// together, and neither they nor the others are let off. With the default quotas a
/// caller keeps at most about a hundred users' buckets from being full.
#[derive(Debug)]
struct Bounded {
    refill_interval: Nanos,
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Debug, Default)]
struct Shard {
    /// For each key, the moment at which its bucket will be full again.
    full_at: HashMap<u64, Nanos>,
    shared: Option<Nanos>,
    /// Before this moment there is no use in looking for full buckets.
    first_full_at: Nanos,
}

impl Bounded {
    fn new(refill_interval: Duration) -> Self {
        Self {
            refill_interval: refill_interval.into(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }
}

impl StateStore for Bounded {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let index = usize::try_from(key % SHARDS as u64).unwrap_or(0);
        let mut shard = self.shards[index].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(full_at) = shard.full_at.get_mut(key) {
            let (outcome, next) = measure(Some(*full_at))?;
            *full_at = next;
            return Ok(outcome);
        }
        let (outcome, next) = measure(None)?;
        // An unused bucket that gives one call is full again one interval later.
        let now = next.saturating_sub(self.refill_interval);
        if shard.full_at.len() >= KEYS_PER_SHARD && now >= shard.first_full_at {
            shard.full_at.retain(|_, full_at| *full_at > now);
            shard.first_full_at = shard.full_at.values().min().copied().unwrap_or_default();
        }
        if shard.full_at.len() < KEYS_PER_SHARD {
            shard.full_at.insert(*key, next);
            return Ok(outcome);
        }
        let (outcome, next) = measure(shard.shared)?;
        shard.shared = Some(next);
        Ok(outcome)
    }
}

impl ShrinkableKeyedStateStore<u64> for Bounded {
    fn retain_recent(&self, drop_below: Nanos) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.full_at.retain(|_, full_at| *full_at > drop_below);
        }
    }

    fn len(&self) -> usize {
        let keys = |shard: &Mutex<Shard>| shard.lock().unwrap_or_else(PoisonError::into_inner).full_at.len();
        self.shards.iter().map(keys).sum()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests;

//! Limits on the state that all quotas of a gateway remember.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use super::Nanos;
use crate::{
    base::clock::{self, Instant},
    observe::telemetry::metrics::{Metrics, QuotaBucket},
};

/// Default maximum number of remembered users.
pub(in crate::access) const DEFAULT_MAX_USERS: usize = 262_144;
/// Maximum number of callers with their own bucket that only globs match.
pub(super) const MAX_CALLERS: usize = 65_536;
/// Maximum number of callers with their own table of users that only globs match. Each table takes
/// about a kilobyte.
pub(super) const MAX_USER_TABLES: usize = 8192;

/// Number of users of each caller that are always remembered.
pub(super) const MIN_USERS: usize = 16;

/// Interval between searches for full buckets, in nanoseconds.
const FORGET_INTERVAL: Nanos = 10_000_000_000;
/// The same while there is no room.
const FORGET_INTERVAL_WITHOUT_ROOM: Nanos = 1_000_000_000;

/// Bounds the state of all quotas together, across reloads.
#[derive(Debug)]
pub(in crate::access) struct Memory {
    started: Instant,
    last_search: AtomicU64,
    /// For callers that rules name literally. All others have a separate pool, so that any number
    /// of them takes nothing from these.
    literal: Arc<Pool>,
    others: Arc<Pool>,
}

/// Limits on the state of one kind of callers.
#[derive(Debug)]
pub(super) struct Pool {
    max_callers: usize,
    max_user_tables: usize,
    max_users: AtomicUsize,
    callers: AtomicUsize,
    user_tables: AtomicUsize,
    users: AtomicUsize,
    metrics: Metrics,
}

/// A place in a [`Pool`], freed on drop.
#[derive(Debug)]
pub(super) struct Place {
    pool: Arc<Pool>,
    bucket: QuotaBucket,
}

impl Memory {
    /// Creates a memory for at most `max_users` users of callers that rules name literally, and as
    /// many of all others.
    pub(in crate::access) fn new(max_users: usize, metrics: &Metrics) -> Self {
        let pool = |max_callers, max_user_tables| {
            Arc::new(Pool {
                max_callers,
                max_user_tables,
                max_users: AtomicUsize::new(max_users),
                callers: AtomicUsize::default(),
                user_tables: AtomicUsize::default(),
                users: AtomicUsize::default(),
                metrics: metrics.clone(),
            })
        };
        Self {
            started: clock::now(),
            last_search: AtomicU64::default(),
            // Their number is limited by the number of names in the configuration.
            literal: pool(usize::MAX, usize::MAX),
            others: pool(MAX_CALLERS, MAX_USER_TABLES),
        }
    }

    /// Sets the maximum number of remembered users. Users beyond it stay until their buckets are
    /// full.
    pub(in crate::access) fn set_max_users(&self, max_users: usize) {
        for pool in [&self.literal, &self.others] {
            pool.max_users.store(max_users, Ordering::Relaxed);
        }
    }

    /// Returns the time on the clock of the buckets.
    pub(in crate::access) fn now(&self) -> Nanos {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns whether it is time to forget full buckets. Returns true to one thread only.
    pub(in crate::access) fn should_forget(&self, now: Nanos, without_room: bool) -> bool {
        let interval = if without_room { FORGET_INTERVAL_WITHOUT_ROOM } else { FORGET_INTERVAL };
        let last = self.last_search.load(Ordering::Relaxed);
        now.saturating_sub(last) >= interval
            && self.last_search.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub(super) fn pool(&self, is_literal: bool) -> &Arc<Pool> {
        if is_literal { &self.literal } else { &self.others }
    }

    /// Number of remembered users.
    #[cfg(test)]
    pub(super) fn users(&self) -> usize {
        [&self.literal, &self.others].map(|pool| pool.users.load(Ordering::Relaxed)).iter().sum()
    }
}

impl Pool {
    /// Returns a place for another caller, or `None` if there are too many.
    pub(super) fn place(self: &Arc<Self>, bucket: QuotaBucket) -> Option<Place> {
        let (taken, max) = self.callers_with(bucket);
        if taken.fetch_add(1, Ordering::Relaxed) >= max {
            taken.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        if bucket == QuotaBucket::Caller {
            self.metrics.quota_buckets(bucket, 1);
        }
        Some(Place { pool: Arc::clone(self), bucket })
    }

    fn callers_with(&self, bucket: QuotaBucket) -> (&AtomicUsize, usize) {
        match bucket {
            QuotaBucket::Caller => (&self.callers, self.max_callers),
            QuotaBucket::User => (&self.user_tables, self.max_user_tables),
        }
    }
}

impl Place {
    /// Returns whether a caller with `users` remembered users may have another one: up to half of
    /// all while there is room, then up to an equal share, and always up to [`MIN_USERS`].
    pub(super) fn has_room_for_another_user(&self, users: usize) -> bool {
        let max = self.pool.max_users.load(Ordering::Relaxed);
        let remembered = self.pool.users.load(Ordering::Relaxed);
        let share = max / self.pool.user_tables.load(Ordering::Relaxed).max(1);
        users < MIN_USERS
            || (users < max / 2 && remembered < max)
            || (users < share.min(max / 2) && remembered < max.saturating_mul(2))
    }

    pub(super) fn add_user(&self) {
        self.pool.users.fetch_add(1, Ordering::Relaxed);
        self.pool.metrics.quota_buckets(QuotaBucket::User, 1);
    }

    pub(super) fn remove_users(&self, users: usize) {
        self.pool.users.fetch_sub(users, Ordering::Relaxed);
        let users = i64::try_from(users).unwrap_or(i64::MAX);
        self.pool.metrics.quota_buckets(QuotaBucket::User, -users);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.callers_with(self.bucket).0.fetch_sub(1, Ordering::Relaxed);
        if self.bucket == QuotaBucket::Caller {
            self.pool.metrics.quota_buckets(self.bucket, -1);
        }
    }
}

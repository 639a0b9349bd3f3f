//! The buckets of one caller's users.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{Nanos, Spacing, callers::Remembered, memory::Place};

/// Number of shards, so that a search for full buckets delays only some of the caller's calls, and
/// only briefly.
const SHARDS: usize = 8;

/// The buckets of one caller's users.
#[derive(Debug)]
pub(super) struct UserTable {
    place: Place,
    shards: [Mutex<Shard>; SHARDS],
    users: AtomicUsize,
}

#[derive(Debug, Default)]
struct Shard {
    /// Per user, the time at which its bucket will be full again.
    full_at: HashMap<u64, Nanos>,
    /// The common bucket of users without a bucket of their own.
    shared: Nanos,
}

impl UserTable {
    /// Takes one call from a user's bucket. Returns `None` if there is no room for the bucket.
    pub(super) fn take(&self, user: u64, spacing: Spacing, now: Nanos) -> Option<Result<(), Duration>> {
        let mut shard = self.shard(user);
        if let Some(full_at) = shard.full_at.get_mut(&user) {
            return Some(take(full_at, spacing, now));
        }
        if !self.place.has_room_for_another_user(self.users.load(Ordering::Relaxed)) {
            return None;
        }
        self.users.fetch_add(1, Ordering::Relaxed);
        self.place.add_user();
        Some(take(shard.full_at.entry(user).or_default(), spacing, now))
    }

    /// Takes one call from the common bucket of users without a bucket of their own.
    pub(super) fn take_shared(&self, user: u64, spacing: Spacing, now: Nanos) -> Result<(), Duration> {
        take(&mut self.shard(user).shared, spacing, now)
    }

    fn shard(&self, user: u64) -> MutexGuard<'_, Shard> {
        let index = usize::try_from(user % SHARDS as u64).unwrap_or(0);
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the users whose buckets are full.
    pub(super) fn forget_full(&self, now: Nanos) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let before = shard.full_at.len();
            shard.full_at.retain(|_, full_at| *full_at > now);
            let forgotten = before - shard.full_at.len();
            if shard.full_at.len() < shard.full_at.capacity() / 4 {
                shard.full_at.shrink_to_fit();
            }
            self.users.fetch_sub(forgotten, Ordering::Relaxed);
            self.place.remove_users(forgotten);
        }
    }
}

fn take(full_at: &mut Nanos, spacing: Spacing, now: Nanos) -> Result<(), Duration> {
    *full_at = spacing.take(*full_at, now)?;
    Ok(())
}

impl Remembered for UserTable {
    fn new(place: Place) -> Self {
        Self { place, shards: Default::default(), users: AtomicUsize::default() }
    }

    fn is_unused(&self, now: Nanos) -> bool {
        self.shards.iter().all(|shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.full_at.is_empty() && shard.shared <= now
        })
    }
}

impl Drop for UserTable {
    fn drop(&mut self) {
        self.place.remove_users(self.users.load(Ordering::Relaxed));
    }
}

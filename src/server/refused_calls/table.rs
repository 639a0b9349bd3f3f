//! A bounded table of buckets, and of counts that are not written yet.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use super::bucket::{Bucket, BucketSettings};
use crate::{
    base::clock::{self, Instant},
    observe::{audit::RefusedCalls as Summary, telemetry::metrics::CountedBy},
};

/// Number of shards, so that refused calls with different keys rarely contend for a lock.
const SHARDS: usize = 16;
/// Maximum number of keys per shard; 1,024 in total.
const KEYS_PER_SHARD: usize = 64;
/// Size of the bucket shared by all keys, as a multiple of the bucket of one key.
const TOTAL: NonZeroU32 = const { NonZeroU32::new(10).unwrap() };

/// How a refused call is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recording {
    /// The call has its own record.
    Own,
    /// The call is counted in a record of many calls.
    Summarized,
}

/// Buckets and counts per key. Keys beyond the limit are counted together.
#[derive(Debug)]
pub(super) struct Table<K> {
    settings: BucketSettings,
    counted_by: CountedBy,
    hasher: RandomState,
    shards: [Mutex<HashMap<K, Entry>>; SHARDS],
    total: Mutex<Bucket>,
    others: Mutex<Option<Summary>>,
}

#[derive(Debug)]
struct Entry {
    bucket: Bucket,
    summary: Option<Box<Summary>>,
}

impl<K: Clone + Eq + Hash> Table<K> {
    pub(super) fn new(settings: BucketSettings, counted_by: CountedBy) -> Self {
        Self {
            settings,
            counted_by,
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
            total: Mutex::new(Bucket::new(clock::now())),
            others: Mutex::default(),
        }
    }

    /// Takes a token from the bucket of the key and from the bucket of all keys.
    pub(super) fn decide(&self, key: &K, now: Instant) -> Recording {
        let has_token = self
            .entry(key, now, |entry| entry.bucket.take(self.settings, now))
            .is_some_and(|has_token| has_token && locked(&self.total).take(self.settings.times(TOTAL), now));
        if has_token { Recording::Own } else { Recording::Summarized }
    }

    /// Adds a call to the count of its key, or to the common count of the keys without an entry.
    pub(super) fn summarize<T>(&self, key: &K, now: SystemTime, add: impl Fn(&mut Summary) -> T) -> T {
        let by_key = self.entry(key, clock::now(), |entry| {
            add(entry.summary.get_or_insert_with(|| Box::new(Summary::new(self.counted_by, now))))
        });
        by_key.unwrap_or_else(|| {
            add(locked(&self.others).get_or_insert_with(|| Summary::new(CountedBy::Others, now)))
        })
    }

    /// Takes all counts.
    pub(super) fn take(&self) -> Vec<Summary> {
        let mut taken: Vec<Summary> = locked(&self.others).take().into_iter().collect();
        for shard in &self.shards {
            taken.extend(
                locked(shard).values_mut().filter_map(|entry| entry.summary.take()).map(|summary| *summary),
            );
        }
        taken
    }

    /// Calls `act` with the entry of a key. Returns `None` if there is no room for the key.
    fn entry<T>(&self, key: &K, now: Instant, act: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let index = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        let mut shard = locked(&self.shards[index]);
        if !shard.contains_key(key) && shard.len() >= KEYS_PER_SHARD {
            // Entries that equal a new one make room.
            shard.retain(|_, entry| entry.summary.is_some() || !entry.bucket.is_full(now));
            if shard.len() >= KEYS_PER_SHARD {
                return None;
            }
        }
        let new = || Entry { bucket: Bucket::new(now), summary: None };
        Some(act(shard.entry(key.clone()).or_insert_with(new)))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The state of one quota, per caller.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::{CallerKey, Memory, Nanos, memory::Place};
use crate::observe::telemetry::metrics::QuotaBucket;

/// Number of shards of the map, many more than cores, so that calls rarely contend.
const SHARDS: usize = 64;

/// The remembered state of one caller.
pub(super) trait Remembered {
    fn new(place: Place) -> Self;

    /// Returns whether the state equals that of a caller that has not called yet.
    fn is_unused(&self, now: Nanos) -> bool;
}

/// The bucket of one caller.
#[derive(Debug)]
pub(super) struct CallerBucket {
    pub(super) full_at: AtomicU64,
    _place: Place,
}

impl Remembered for CallerBucket {
    fn new(place: Place) -> Self {
        Self { full_at: AtomicU64::default(), _place: place }
    }

    fn is_unused(&self, now: Nanos) -> bool {
        self.full_at.load(Ordering::Relaxed) <= now
    }
}

/// State by the hash of the caller's name.
type Shard<T> = Mutex<HashMap<u64, Arc<T>>>;

/// A `T` for each caller.
#[derive(Debug)]
pub(super) struct PerCaller<T> {
    bucket: QuotaBucket,
    hasher: RandomState,
    shards: Box<[Shard<T>]>,
    /// Whether anything was ever remembered. Of many rules, most are never used, and forgetting
    /// locks every shard.
    is_used: AtomicBool,
    /// The common buckets of callers without state of their own.
    shared: Box<[AtomicU64]>,
}

impl<T: Remembered> PerCaller<T> {
    pub(super) fn new(bucket: QuotaBucket) -> Self {
        Self {
            bucket,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            is_used: AtomicBool::default(),
            shared: (0..SHARDS).map(|_| AtomicU64::default()).collect(),
        }
    }

    pub(super) fn hash(&self, key: &impl Hash) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Returns the state of a caller, and creates it for a new one. Returns `None` if there is no
    /// room for it.
    pub(super) fn find(&self, caller: CallerKey<'_>, memory: &Memory) -> Option<Arc<T>> {
        let key = self.hash(&caller.name);
        let mut shard = self.shards[shard_of(key)].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = shard.get(&key) {
            return Some(Arc::clone(known));
        }
        let is_literal = caller.literal_names.contains(caller.name);
        let new = Arc::new(T::new(memory.pool(is_literal).place(self.bucket)?));
        shard.insert(key, Arc::clone(&new));
        self.is_used.store(true, Ordering::Relaxed);
        Some(new)
    }

    /// Returns the common bucket of callers without state of their own.
    pub(super) fn shared(&self, caller: CallerKey<'_>) -> &AtomicU64 {
        &self.shared[shard_of(self.hash(&caller.name))]
    }

    pub(super) fn each(&self, mut then: impl FnMut(&T)) {
        for shard in self.used_shards() {
            let all: Vec<Arc<T>> = {
                let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                shard.values().map(Arc::clone).collect()
            };
            for remembered in all {
                then(&remembered);
            }
        }
    }

    /// Returns the shards, or none if nothing was ever remembered.
    fn used_shards(&self) -> &[Shard<T>] {
        if self.is_used.load(Ordering::Relaxed) { &self.shards } else { &[] }
    }

    /// Forgets callers with unused state.
    pub(super) fn forget_idle(&self, now: Nanos) {
        for shard in self.used_shards() {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            // A call that is about to take from it holds a reference; under the lock, no other call
            // can get one.
            shard.retain(|_, known| Arc::strong_count(known) > 1 || !known.is_unused(now));
        }
    }
}

fn shard_of(key: u64) -> usize {
    usize::try_from(key % SHARDS as u64).unwrap_or(0)
}

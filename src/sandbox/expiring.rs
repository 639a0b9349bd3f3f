//! A bounded store of values that expire after a fixed time.
//!
//! All entries of a store have the same lifetime, so they expire in insertion order, and pruning is
//! cheap.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::base::clock::{self, Instant};

/// Maximum number of entries; the oldest is dropped first. More than any test needs, and at most a
/// few dozen megabytes.
const CAPACITY: usize = 100_000;

/// Values by secret key, until they expire.
pub(super) struct Expiring<T> {
    lifetime: Duration,
    capacity: usize,
    entries: HashMap<String, (Instant, T)>,
    by_age: VecDeque<(Instant, String)>,
}

impl<T> Expiring<T> {
    pub(super) fn new(lifetime: Duration) -> Self {
        Self { lifetime, capacity: CAPACITY, entries: HashMap::new(), by_age: VecDeque::new() }
    }

    /// Stores `value` for the lifetime of the store.
    pub(super) fn insert(&mut self, name: String, value: T) {
        let now = clock::now();
        while let Some((end, _)) = self.by_age.front()
            && (*end <= now || self.by_age.len() >= self.capacity)
            && let Some((_, oldest)) = self.by_age.pop_front()
        {
            self.entries.remove(&oldest);
        }
        let end = now + self.lifetime;
        self.by_age.push_back((end, name.clone()));
        self.entries.insert(name, (end, value));
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.by_age.clear();
    }

    /// Returns the value, unless it has expired.
    pub(super) fn find(&self, name: &str) -> Option<&T> {
        self.entries.get(name).filter(|(end, _)| clock::now() < *end).map(|(_, value)| value)
    }

    /// Removes and returns the value, unless it has expired.
    pub(super) fn take(&mut self, name: &str) -> Option<T> {
        self.entries.remove(name).filter(|(end, _)| clock::now() < *end).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn an_entry_is_found_until_it_expires() {
        let mut store = Expiring::new(LIFETIME);
        store.insert("a".to_owned(), 1);
        tokio::time::advance(Duration::from_millis(29_999)).await;
        assert_eq!(store.find("a"), Some(&1));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(store.find("a"), None);
        assert_eq!(store.take("a"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn expired_entries_are_dropped_at_the_next_insert() {
        let mut store = Expiring::new(LIFETIME);
        for number in 0..100 {
            store.insert(format!("old {number}"), number);
        }
        tokio::time::advance(LIFETIME).await;
        store.insert("new".to_owned(), 0);
        assert_eq!((store.entries.len(), store.by_age.len()), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_store_drops_its_oldest() {
        let mut store = Expiring::new(LIFETIME);
        store.capacity = 3;
        for name in ["a", "b", "c", "d"] {
            store.insert(name.to_owned(), ());
        }
        assert_eq!((store.entries.len(), store.by_age.len()), (3, 3));
        assert!(store.find("a").is_none());
        assert!(store.find("d").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_taken_entry_is_removed() {
        let mut store = Expiring::new(LIFETIME);
        store.insert("a".to_owned(), 1);
        assert_eq!(store.take("a"), Some(1));
        assert_eq!(store.take("a"), None);
    }
}

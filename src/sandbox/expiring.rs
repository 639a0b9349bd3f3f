//! A bounded store of things that live for a fixed time.
//!
//! It does not know what it keeps. All entries of one store live equally long, so
//! that the oldest is always the next to end, and pruning costs nothing to speak of.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::clock::{self, Instant};

/// Entries kept at most; beyond it the oldest is dropped. Far more than anyone
/// trying things out needs, and a few dozen megabytes at worst.
const CAPACITY: usize = 100_000;

/// Values by a secret name, each gone once its time is over.
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

    /// Keeps `value` from now for the store's lifetime.
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

    /// The value, while it lives.
    pub(super) fn find(&self, name: &str) -> Option<&T> {
        self.entries.get(name).filter(|(end, _)| clock::now() < *end).map(|(_, value)| value)
    }

    /// Takes the value out, so that nobody finds it again.
    pub(super) fn take(&mut self, name: &str) -> Option<T> {
        self.entries.remove(name).filter(|(end, _)| clock::now() < *end).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn an_entry_is_found_until_its_time_is_over_and_not_a_moment_longer() {
        let mut store = Expiring::new(LIFETIME);
        store.insert("a".to_owned(), 1);
        tokio::time::advance(Duration::from_millis(29_999)).await;
        assert_eq!(store.find("a"), Some(&1));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(store.find("a"), None);
        assert_eq!(store.take("a"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_ended_is_forgotten_when_something_new_comes() {
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
    async fn what_is_taken_is_gone() {
        let mut store = Expiring::new(LIFETIME);
        store.insert("a".to_owned(), 1);
        assert_eq!(store.take("a"), Some(1));
        assert_eq!(store.take("a"), None);
    }
}

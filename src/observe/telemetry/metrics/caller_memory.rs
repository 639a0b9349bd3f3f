//! Metrics of the caches of identified callers.

use prometheus::{IntCounter, IntGauge};

use super::family::{Families, Per};
use crate::observe::telemetry::label::labels;

labels! {
    /// A cache of identified callers, as a label.
    pub enum CallerMemory {
        /// Callers by verified JWT.
        Jwt = "jwt",
        /// Callers by parsed header of a proxy, for each connection.
        Forwarded = "forwarded",
    }
}

labels! {
    /// Result of a cache lookup, as a label.
    enum Lookup {
        /// The caller was cached.
        Hit = "hit",
        /// The caller was not cached.
        Miss = "miss",
    }
}

/// Metrics of one cache. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CallerMemoryMetrics {
    entries: IntGauge,
    lookups: Per<Lookup, IntCounter>,
    displaced: IntCounter,
}

impl CallerMemoryMetrics {
    /// Registers the metrics of all caches.
    pub(super) fn register(families: &Families<'_>) -> Per<CallerMemory, Self> {
        let entries: Per<CallerMemory, IntGauge> = families.int_gauge_per(
            "ott_gateway_caller_memory_entries",
            "Credentials whose callers are cached.",
            "memory",
        );
        let lookups: Per<CallerMemory, Per<Lookup, IntCounter>> = families.counter_per_pair(
            "ott_gateway_caller_memory_lookups_total",
            "Cache lookups for calls with a valid credential.",
            ["memory", "result"],
        );
        let displaced: Per<CallerMemory, IntCounter> = families.counter_per(
            "ott_gateway_caller_memory_displaced_total",
            "Valid credentials that were evicted to make room for others.",
            "memory",
        );
        Per::new(|memory| Self {
            entries: entries.get(memory).clone(),
            lookups: lookups.get(memory).clone(),
            displaced: displaced.get(memory).clone(),
        })
    }

    /// Counts a credential whose caller was cached.
    pub fn hit(&self) {
        self.lookups.get(Lookup::Hit).inc();
    }

    /// Counts a valid credential whose caller was not cached.
    pub fn miss(&self) {
        self.lookups.get(Lookup::Miss).inc();
    }

    /// Counts a valid credential that was evicted to make room for another one.
    pub fn displaced(&self) {
        self.displaced.inc();
    }

    /// Adds a cached credential to the number of entries.
    pub fn added(&self) {
        self.entries.inc();
    }

    /// Subtracts removed credentials from the number of entries.
    pub fn removed(&self, entries: usize) {
        self.entries.sub(i64::try_from(entries).unwrap_or(i64::MAX));
    }
}

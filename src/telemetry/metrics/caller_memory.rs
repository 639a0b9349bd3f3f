//! Metrics of the memories of callers that were identified before.

use prometheus::{IntCounter, IntGauge};

use super::family::{Families, Per};
use crate::telemetry::label::labels;

labels! {
    /// A memory of callers by what identified them, as a label.
    pub enum CallerMemory {
        /// Callers by the JWTs that were verified.
        Jwt = "jwt",
        /// Callers by the headers of proxies that were parsed, on each connection.
        Forwarded = "forwarded",
    }
}

labels! {
    /// Whether a caller was remembered, as a label.
    enum Lookup {
        /// It was.
        Hit = "hit",
        /// It was not.
        Miss = "miss",
    }
}

/// Metrics of one memory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CallerMemoryMetrics {
    entries: IntGauge,
    lookups: Per<Lookup, IntCounter>,
    displaced: IntCounter,
}

impl CallerMemoryMetrics {
    /// Registers those of all memories.
    pub(super) fn register(families: &Families<'_>) -> Per<CallerMemory, Self> {
        let entries: Per<CallerMemory, IntGauge> = families.int_gauge_per(
            "ott_gateway_caller_memory_entries",
            "Credentials whose callers are remembered.",
            "memory",
        );
        let lookups: Per<CallerMemory, Per<Lookup, IntCounter>> = families.counter_per_pair(
            "ott_gateway_caller_memory_lookups_total",
            "Calls with a valid credential, by whether its caller was remembered.",
            ["memory", "result"],
        );
        let displaced: Per<CallerMemory, IntCounter> = families.counter_per(
            "ott_gateway_caller_memory_displaced_total",
            "Valid credentials that were forgotten to make room for others.",
            "memory",
        );
        Per::new(|memory| Self {
            entries: entries.get(memory).clone(),
            lookups: lookups.get(memory).clone(),
            displaced: displaced.get(memory).clone(),
        })
    }

    /// Counts a credential whose caller was remembered.
    pub fn hit(&self) {
        self.lookups.get(Lookup::Hit).inc();
    }

    /// Counts a valid credential whose caller was not remembered.
    pub fn miss(&self) {
        self.lookups.get(Lookup::Miss).inc();
    }

    /// Counts a valid credential that was forgotten to make room for another one.
    pub fn displaced(&self) {
        self.displaced.inc();
    }

    /// Counts a remembered credential.
    pub fn added(&self) {
        self.entries.inc();
    }

    /// Counts remembered credentials that are forgotten.
    pub fn removed(&self, entries: usize) {
        self.entries.sub(i64::try_from(entries).unwrap_or(i64::MAX));
    }
}

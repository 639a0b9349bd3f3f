//! Metrics of the memories of callers that were identified before.

use prometheus::{IntCounter, IntGauge};

use super::family::Families;

/// A memory of callers by what identified them, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerMemory {
    /// Callers by the JWTs that were verified.
    Jwt,
    /// Callers by the headers of proxies that were parsed, on each connection.
    Forwarded,
}

impl CallerMemory {
    pub(super) const ALL: [Self; 2] = [Self::Jwt, Self::Forwarded];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::Forwarded => "forwarded",
        }
    }
}

/// Metrics of one memory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CallerMemoryMetrics {
    entries: IntGauge,
    hits: IntCounter,
    misses: IntCounter,
    displaced: IntCounter,
}

impl CallerMemoryMetrics {
    /// Registers those of all memories, in the order of [`CallerMemory::ALL`].
    pub(super) fn register(families: &Families<'_>) -> [Self; CallerMemory::ALL.len()] {
        let entries = families.int_gauges(
            "ott_gateway_caller_memory_entries",
            "Credentials whose callers are remembered.",
            &["memory"],
        );
        let lookups = families.counters(
            "ott_gateway_caller_memory_lookups_total",
            "Calls with a valid credential, by whether its caller was remembered.",
            &["memory", "result"],
        );
        let displaced = families.counters(
            "ott_gateway_caller_memory_displaced_total",
            "Valid credentials that were forgotten to make room for others.",
            &["memory"],
        );
        CallerMemory::ALL.map(|memory| {
            let memory = memory.as_str();
            Self {
                entries: entries.with_label_values(&[memory]),
                hits: lookups.with_label_values(&[memory, "hit"]),
                misses: lookups.with_label_values(&[memory, "miss"]),
                displaced: displaced.with_label_values(&[memory]),
            }
        })
    }

    /// Counts a credential whose caller was remembered.
    pub fn hit(&self) {
        self.hits.inc();
    }

    /// Counts a valid credential whose caller was not remembered.
    pub fn miss(&self) {
        self.misses.inc();
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

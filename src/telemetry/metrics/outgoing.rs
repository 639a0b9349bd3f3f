//! Metrics of outgoing connections: name lookups, and resources that this machine lacked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus::{GaugeVec, Histogram, IntCounter};

use super::family::Families;
use crate::clock::{self, Instant};

/// What a name lookup asks for, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LookupQuery {
    /// The IPv4 addresses of the absolute name.
    Ipv4,
    /// The IPv6 addresses of the absolute name.
    Ipv6,
    /// The addresses that the system gives for the name as it is configured: from its hosts
    /// file, or through its search list.
    AsConfigured,
}

impl LookupQuery {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Ipv4, Self::Ipv6, Self::AsConfigured];

    /// The name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::AsConfigured => "as_configured",
        }
    }
}

/// How a query of a name lookup ended, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupResult {
    /// With addresses.
    Ok,
    /// There is no such name.
    NoSuchName,
    /// The name has no address of the kind that was asked for.
    NoAddress,
    /// The system's hosts file lists the name, so the name servers are not asked.
    InHostsFile,
    /// The name servers failed.
    ServerFailure,
    /// The name servers did not answer.
    NoAnswer,
    /// This machine or process lacked a resource.
    Exhausted,
    /// Any other failure.
    Failed,
}

impl LookupResult {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::NoSuchName,
        Self::NoAddress,
        Self::InHostsFile,
        Self::ServerFailure,
        Self::NoAnswer,
        Self::Exhausted,
        Self::Failed,
    ];

    /// The name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NoSuchName => "no_such_name",
            Self::NoAddress => "no_address",
            Self::InHostsFile => "in_hosts_file",
            Self::ServerFailure => "server_failure",
            Self::NoAnswer => "no_answer",
            Self::Exhausted => "exhausted",
            Self::Failed => "failed",
        }
    }
}

/// A resource of this machine or process that was missing for an outgoing connection, as a
/// label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalResource {
    /// File descriptors, of the process or the system.
    Descriptors,
    /// Local ports or addresses.
    Ports,
    /// Memory or tables of the kernel.
    Memory,
    /// Threads.
    Threads,
    /// Permission: a local firewall rule or security policy forbids the connection.
    Permission,
}

impl LocalResource {
    /// All of them, in order.
    pub const ALL: [Self; 5] =
        [Self::Descriptors, Self::Ports, Self::Memory, Self::Threads, Self::Permission];

    /// The name in metrics and log lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Ports => "ports",
            Self::Memory => "memory",
            Self::Threads => "threads",
            Self::Permission => "permission",
        }
    }
}

/// Metrics of outgoing connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OutgoingMetrics {
    lookups: [[IntCounter; LookupResult::ALL.len()]; LookupQuery::ALL.len()],
    seconds: [Histogram; LookupQuery::ALL.len()],
    age: GaugeVec,
    /// When the addresses of each host were last confirmed. Hosts come from the configuration.
    confirmed: Arc<Mutex<HashMap<Box<str>, Instant>>>,
    exhausted: [IntCounter; LocalResource::ALL.len()],
}

impl OutgoingMetrics {
    pub(super) fn register(families: &Families<'_>) -> Self {
        let lookups = families.counters(
            "ott_gateway_name_lookups_total",
            "Queries of name lookups that ended, by result.",
            &["query", "result"],
        );
        let seconds = families.histograms(
            "ott_gateway_name_lookup_seconds",
            "Duration of queries of name lookups.",
            &["query"],
        );
        let exhausted = families.counters(
            "ott_gateway_local_exhaustion_total",
            "Outgoing connections and name lookups that failed because this machine lacked a resource.",
            &["resource"],
        );
        Self {
            lookups: LookupQuery::ALL.map(|query| {
                LookupResult::ALL.map(|result| lookups.with_label_values(&[query.as_str(), result.as_str()]))
            }),
            seconds: LookupQuery::ALL.map(|query| seconds.with_label_values(&[query.as_str()])),
            age: families.gauges(
                "ott_gateway_name_addresses_age_seconds",
                "Time since the addresses of a host were last confirmed by a name lookup.",
                &["host"],
            ),
            confirmed: Arc::default(),
            exhausted: LocalResource::ALL.map(|resource| exhausted.with_label_values(&[resource.as_str()])),
        }
    }

    /// Counts a query of a name lookup that ended.
    pub fn lookup(&self, query: LookupQuery, result: LookupResult, took: Duration) {
        self.lookups[query as usize][result as usize].inc();
        self.seconds[query as usize].observe(took.as_secs_f64());
    }

    /// Records that a lookup has just confirmed the addresses of a host.
    pub fn addresses_confirmed(&self, host: &str) {
        let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        confirmed.insert(Box::from(host), clock::now());
    }

    /// Stops showing the age of a host's addresses.
    pub fn host_forgotten(&self, host: &str) {
        let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        confirmed.remove(host);
        // Fails if it was never shown.
        let _ = self.age.remove_label_values(&[host]);
    }

    /// Counts an outgoing connection, or a name lookup, that failed for lack of a resource.
    pub fn exhausted(&self, resource: LocalResource) {
        self.exhausted[resource as usize].inc();
    }

    /// Computes what depends on the moment of reading.
    pub(super) fn refresh(&self) {
        let confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        for (host, at) in &*confirmed {
            let age = clock::now().saturating_duration_since(*at);
            self.age.with_label_values(&[&**host]).set(age.as_secs_f64());
        }
    }
}

#[cfg(test)]
impl Default for OutgoingMetrics {
    /// Metrics that are not exported.
    fn default() -> Self {
        super::Metrics::new().outgoing()
    }
}

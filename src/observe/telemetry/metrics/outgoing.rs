//! Metrics of outgoing connections: name lookups, and missing resources of this machine.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus::{GaugeVec, Histogram, IntCounter};

use super::family::{Families, Per};
use crate::{
    base::clock::{self, Instant},
    observe::telemetry::label::labels,
};

labels! {
    /// Query of a name lookup, as a label.
    pub enum LookupQuery {
        /// The IPv4 addresses of the absolute name.
        Ipv4 = "ipv4",
        /// The IPv6 addresses of the absolute name.
        Ipv6 = "ipv6",
        /// The system's addresses for the name as configured: from the hosts file or through the search
        /// list.
        AsConfigured = "as_configured",
    }
}

labels! {
    /// Result of a query of a name lookup, as a label.
    pub enum LookupResult {
        /// Addresses were found.
        Ok = "ok",
        /// The name does not exist.
        NoSuchName = "no_such_name",
        /// The name has no address of the requested kind.
        NoAddress = "no_address",
        /// The system's hosts file lists the name, so the name servers are not asked.
        InHostsFile = "in_hosts_file",
        /// The name servers failed.
        ServerFailure = "server_failure",
        /// The name servers did not answer.
        NoAnswer = "no_answer",
        /// This machine or process lacked a resource.
        Exhausted = "exhausted",
        /// Any other failure.
        Failed = "failed",
    }
}

labels! {
    /// A missing resource of this machine or process for an outgoing connection, as a label.
    pub enum LocalResource {
        /// File descriptors, of the process or the system.
        Descriptors = "descriptors",
        /// Local ports or addresses.
        Ports = "ports",
        /// Memory or tables of the kernel.
        Memory = "memory",
        /// Threads, or the memory of their stacks.
        Threads = "threads",
        /// Permission: a local firewall rule or security policy forbids the connection.
        Permission = "permission",
    }
}

/// Metrics of outgoing connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OutgoingMetrics {
    lookups: Per<LookupQuery, Per<LookupResult, IntCounter>>,
    seconds: Per<LookupQuery, Histogram>,
    age: GaugeVec,
    /// Time of the last confirmation of each host's addresses. Hosts come from the configuration.
    confirmed: Arc<Mutex<HashMap<Box<str>, Instant>>>,
    exhausted: Per<LocalResource, IntCounter>,
}

impl OutgoingMetrics {
    pub(super) fn register(families: &Families<'_>) -> Self {
        Self {
            lookups: families.counter_per_pair(
                "ott_gateway_name_lookups_total",
                "Finished queries of name lookups, by result.",
                ["query", "result"],
            ),
            seconds: families.histogram_per(
                "ott_gateway_name_lookup_seconds",
                "Duration of queries of name lookups.",
                "query",
            ),
            age: families.gauges(
                "ott_gateway_name_addresses_age_seconds",
                "Time since the addresses of a host were last confirmed by a name lookup.",
                &["host"],
            ),
            confirmed: Arc::default(),
            exhausted: families.counter_per(
                "ott_gateway_local_exhaustion_total",
                "Outgoing connections, name lookups and platform requests that failed because this machine or process lacked a resource.",
                "resource",
            ),
        }
    }

    /// Counts a finished query of a name lookup, and its duration.
    pub fn lookup(&self, query: LookupQuery, result: LookupResult, took: Duration) {
        self.lookups.get(query).get(result).inc();
        self.seconds.get(query).observe(took.as_secs_f64());
    }

    /// Records that a lookup confirmed the addresses of a host now.
    pub fn addresses_confirmed(&self, host: &str) {
        let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        confirmed.insert(Box::from(host), clock::now());
    }

    /// Stops exporting the age of a host's addresses.
    pub fn host_forgotten(&self, host: &str) {
        let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        confirmed.remove(host);
        // Fails if it was never exported.
        let _ = self.age.remove_label_values(&[host]);
    }

    /// Counts an outgoing connection or a name lookup that failed because a resource was missing.
    pub fn exhausted(&self, resource: LocalResource) {
        self.exhausted.get(resource).inc();
    }

    /// Sets the gauges to their current values.
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
    /// Returns metrics that are not exported.
    fn default() -> Self {
        super::Metrics::new().outgoing()
    }
}

//! Name lookups for outgoing connections.
//!
//! The process has at most one lookup in progress per name, shared by all workers, endpoints and
//! clients. A lookup does not belong to a request: its result is kept even if no request waits for
//! it. Addresses are used for 30 s, then for up to 10 minutes while a lookup is in progress or
//! fails. Names in use are looked up in the background, so that a slow or failing resolver does not
//! delay or fail connections.
//!
//! Lookups use the system's resolver (`getaddrinfo`, so the hosts file and `nsswitch.conf` apply),
//! on separate threads. The HTTP library chooses among several addresses.

mod host;
mod query;
mod state;
mod system;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

pub(super) use self::host::Host;
use self::{host::Reply, query::QueryError, system::SystemNames};
use crate::observe::telemetry::metrics::{LocalResource, OutgoingMetrics};

/// Interval at which names in use are checked for stale addresses.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Answers queries. Returns at once; the result is sent through the [`Reply`].
trait NameService: Send + Sync {
    fn ask(&self, reply: Reply);
}

/// Looks up names and caches their addresses. Cheap to clone; all clones share their lookups.
#[derive(Clone)]
pub struct Resolver(Arc<SharedHosts>);

/// The names that are in use, and what looks them up.
struct SharedHosts {
    service: Box<dyn NameService>,
    metrics: OutgoingMetrics,
    hosts: Mutex<HashMap<Box<str>, Weak<Host>>>,
    /// Notified of every new host.
    added: Notify,
}

impl Resolver {
    /// Creates a resolver that uses the system's. One is enough for a process.
    #[must_use]
    pub fn system(metrics: OutgoingMetrics) -> Self {
        Self::new(Box::new(SystemNames::default()), metrics)
    }

    /// Creates a resolver whose metrics are not exported.
    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        Self::system(OutgoingMetrics::default())
    }

    /// Creates a resolver that finds `address` for every name, after `delay`.
    #[cfg(test)]
    pub(crate) fn answering_after(delay: Duration, address: std::net::IpAddr) -> Self {
        Self::new(Box::new(tests::Slow { delay, address }), OutgoingMetrics::default())
    }

    /// Removes the addresses of all names.
    #[cfg(test)]
    pub(crate) fn forget_addresses(&self) {
        let hosts: Vec<_> = self.0.hosts().values().filter_map(Weak::upgrade).collect();
        for host in hosts {
            host.forget_addresses();
        }
    }

    fn new(service: Box<dyn NameService>, metrics: OutgoingMetrics) -> Self {
        Self(Arc::new(SharedHosts { service, metrics, hosts: Mutex::default(), added: Notify::new() }))
    }

    /// Looks up every name that an HTTP client connects to, now and when its addresses become
    /// stale. Without this, names are looked up only when a connection needs them.
    pub async fn keep_fresh(&self) -> Infallible {
        loop {
            let hosts: Vec<_> = self.0.hosts().values().filter_map(Weak::upgrade).collect();
            for host in hosts {
                host.refresh_if_due();
            }
            // Ends with the interval, or with a new host.
            let _ = timeout(CHECK_INTERVAL, self.0.added.notified()).await;
        }
    }

    /// Returns the entry of a name, which exists while it is referenced.
    pub(super) fn host(&self, name: &str) -> Arc<Host> {
        let name = name.to_ascii_lowercase();
        let mut hosts = self.0.hosts();
        if let Some(host) = hosts.get(&*name).and_then(Weak::upgrade) {
            return host;
        }
        let host = Arc::new(Host::new(&name, Arc::clone(&self.0)));
        hosts.insert(name.into(), Arc::downgrade(&host));
        drop(hosts);
        self.0.added.notify_one();
        host
    }

    pub(super) fn metrics(&self) -> &OutgoingMetrics {
        &self.0.metrics
    }
}

impl SharedHosts {
    /// Removes a host that is no longer referenced.
    fn forget(&self, name: &str) {
        let mut hosts = self.hosts();
        // A new entry may have been added already.
        if hosts.get(name).is_some_and(|host| host.strong_count() == 0) {
            hosts.remove(name);
            self.metrics.host_forgotten(name);
        }
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<Box<str>, Weak<Host>>> {
        // No code panics while it holds the lock.
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

/// Failed name lookup. The text is for operators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("name lookup of {name}: {cause}")]
pub struct LookupError {
    name: Box<str>,
    cause: QueryError,
}

impl LookupError {
    /// Returns the name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the resource of this machine that the lookup lacked, if that is the cause.
    #[must_use]
    pub const fn missing_resource(&self) -> Option<LocalResource> {
        match &self.cause {
            QueryError::Exhausted { resource, .. } => Some(*resource),
            _ => None,
        }
    }
}

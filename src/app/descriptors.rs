//! Distributes the file descriptors that the process may open.
//!
//! Connections of callers must not take the descriptors that everything else needs: probes, audit
//! records, followed files, name lookups, and the connections to the platform that calls depend on.
//! The soft limit is therefore raised to the number that the configuration needs. If the hard limit
//! does not allow that, fewer connections and calls are accepted.

use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    config::Config,
    observe::telemetry::metrics::{EffectiveLimit, Metrics},
    server::{self, MAX_LEAVING},
};

/// Descriptors of one runtime: its `epoll` instance, its waker and one spare.
const PER_RUNTIME: u64 = 3;
/// Descriptors outside of workers: listening sockets, signals, the audit file and its successor,
/// files being read, sockets of name lookups, the trace collector.
const FIXED: u64 = 64;
/// Descriptors of one API client in addition to its calls: its token request, a name lookup for it,
/// and its secret file.
const PER_API_CLIENT: u64 = 4;
/// Number of descriptors open at start, if they cannot be counted.
const INHERITED: u64 = 16;
/// Descriptors that the process may open between raising the limit and distributing it.
const OPENED_MEANWHILE: u64 = 32;
/// Maximum number of connections of the admin port.
pub(super) const ADMIN_CONNECTIONS: usize = 64;
/// Maximum number of connections of the health port.
pub(super) const HEALTH_CONNECTIONS: usize = 64;
/// Maximum number of connections of the admin port and of the health port if descriptors are
/// scarce.
const FEW_CONNECTIONS: usize = 16;
/// Minimum number of descriptors for callers and the platform.
const MIN_LEFT: u64 = 16;

/// Number of connections and calls for which there are descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Connections of the main port.
    pub(super) connections: u32,
    /// Calls in flight, each with a connection to the platform (over HTTP/1.1).
    pub(super) in_flight: u32,
    /// Connections of the admin port.
    pub(super) admin: usize,
    /// Connections of the health port.
    pub(super) health: usize,
}

impl Share {
    /// Lowers the limits of the main port to what is left for it.
    pub(super) fn limited(self, settings: server::Settings) -> server::Settings {
        // A limit of zero is refused before.
        let lower = |configured: usize, limit: u32| configured.min((limit as usize).max(1));
        let mut settings = settings;
        settings.limits.max_connections = lower(settings.limits.max_connections, self.connections);
        settings.max_in_flight = lower(settings.max_in_flight, self.in_flight);
        settings
    }
}

/// Error for a limit of open files that is too low for any connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit of open files is {allowed}, and the gateway needs at least {needed}; \
     raise it (LimitNOFILE=, ulimit -n)"
)]
pub struct TooFewFiles {
    /// The limit in effect.
    allowed: u64,
    /// The minimum for this configuration.
    needed: u64,
}

/// A change of the soft limit of open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaisedLimit {
    /// The soft limit at process start.
    pub from: u64,
    /// The soft limit in effect.
    pub to: u64,
}

/// Demand of a configuration.
#[derive(Clone, Copy, Debug)]
struct Demand {
    connections: u32,
    in_flight: u32,
    /// Whether there is an admin port.
    has_admin: bool,
    /// Whether there is a health port.
    has_health: bool,
    /// Descriptors that do not depend on the number of connections and calls.
    base: u64,
}

/// Raises the soft limit of open files to the demand of the configuration, as far as the hard limit
/// allows. Returns `None` if it is high enough already. For the start of a process.
///
/// # Errors
///
/// The system refuses the limit.
pub fn raise_limit(config: &Config) -> io::Result<Option<RaisedLimit>> {
    let limit = getrlimit(Resource::Nofile);
    let Some(from) = limit.current else { return Ok(None) };
    let needed = Demand::new(config).total().saturating_add(OPENED_MEANWHILE);
    let to = needed.min(limit.maximum.unwrap_or(u64::MAX));
    if to <= from {
        return Ok(None);
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(to), maximum: limit.maximum })?;
    Ok(Some(RaisedLimit { from, to }))
}

/// Returns the share for the current limit of open files, and publishes it in log and metrics.
/// `max_calls` is the number of calls in flight that the memory of the process allows.
pub(super) fn share(config: &Config, max_calls: usize, metrics: &Metrics) -> Result<Share, TooFewFiles> {
    let mut demand = Demand::new(config);
    demand.in_flight = demand.in_flight.min(u32::try_from(max_calls).unwrap_or(u32::MAX));
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let share = demand.share(allowed)?;
    metrics.limit(EffectiveLimit::Connections, share.connections);
    metrics.limit(EffectiveLimit::InFlight, share.in_flight);
    let lowered = share.connections < demand.connections || share.in_flight < demand.in_flight;
    metrics.limits_lowered(lowered);
    if lowered {
        tracing::error!(
            open_files.allowed = allowed,
            open_files.needed = demand.total(),
            max_connections.configured = demand.connections,
            max_connections.in_effect = share.connections,
            max_in_flight.configured = config.server.grpc.max_in_flight,
            max_in_flight.in_effect = share.in_flight,
            "limit of open files too low, accepting fewer connections and calls"
        );
    }
    Ok(share)
}

impl Demand {
    fn new(config: &Config) -> Self {
        let grpc = &config.server.grpc;
        let workers = grpc.number_of_workers();
        // The control thread, and those of the admin and health ports.
        let runtimes = u64::try_from(workers).unwrap_or(u64::MAX).saturating_add(3);
        let api_clients = u64::try_from(config.api_clients.by_name.len()).unwrap_or(u64::MAX);
        let base = open_now()
            .saturating_add(FIXED)
            .saturating_add(runtimes.saturating_mul(PER_RUNTIME))
            .saturating_add(api_clients.saturating_mul(PER_API_CLIENT));
        Self {
            connections: u32::try_from(grpc.limits.max_connections).unwrap_or(u32::MAX),
            in_flight: u32::try_from(grpc.max_in_flight).unwrap_or(u32::MAX),
            has_admin: config.admin.listen.is_some(),
            has_health: config.server.health_listen.is_some(),
            base,
        }
    }

    /// Returns the demand at the configured limits.
    fn total(&self) -> u64 {
        self.others(ADMIN_CONNECTIONS, HEALTH_CONNECTIONS)
            .saturating_add(of_connections(self.connections.into()))
            .saturating_add(self.in_flight.into())
    }

    /// Returns the demand without callers' connections and calls.
    fn others(&self, admin: usize, health: usize) -> u64 {
        let of_port = |is_used: bool, connections: usize| {
            if is_used { of_connections(u64::try_from(connections).unwrap_or(u64::MAX)) } else { 0 }
        };
        self.base
            .saturating_add(of_port(self.has_admin, admin))
            .saturating_add(of_port(self.has_health, health))
    }

    fn share(&self, allowed: u64) -> Result<Share, TooFewFiles> {
        if self.total() <= allowed {
            return Ok(Share {
                connections: self.connections,
                in_flight: self.in_flight,
                admin: ADMIN_CONNECTIONS,
                health: HEALTH_CONNECTIONS,
            });
        }
        let others = self.others(FEW_CONNECTIONS, FEW_CONNECTIONS);
        let left = allowed.saturating_sub(others);
        if left < MIN_LEFT {
            return Err(TooFewFiles { allowed, needed: others.saturating_add(MIN_LEFT) });
        }
        // Half for each side. Each side gets what the other does not need.
        let wanted = of_connections(self.connections.into());
        let calls = u64::from(self.in_flight).min((left / 2).max(left.saturating_sub(wanted)));
        let connections = connections_of(left - calls).min(self.connections.into());
        Ok(Share {
            connections: u32::try_from(connections).unwrap_or(self.connections),
            in_flight: u32::try_from(calls).unwrap_or(self.in_flight),
            admin: FEW_CONNECTIONS,
            health: FEW_CONNECTIONS,
        })
    }
}

/// Returns the descriptors of a port with this many connections. Others may be closing, and one may
/// be accepted only to be closed.
fn of_connections(connections: u64) -> u64 {
    connections.saturating_add(connections.min(MAX_LEAVING as u64)).saturating_add(1)
}

/// Returns how many connections a port may have with this many descriptors.
fn connections_of(descriptors: u64) -> u64 {
    let descriptors = descriptors.saturating_sub(1);
    (descriptors / 2).max(descriptors.saturating_sub(MAX_LEAVING as u64))
}

/// Returns the number of descriptors that are open.
fn open_now() -> u64 {
    let counted = fs::read_dir("/proc/self/fd").map(Iterator::count);
    counted.map_or(INHERITED, |count| u64::try_from(count).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEMAND: Demand =
        Demand { connections: 1024, in_flight: 4096, has_admin: true, has_health: false, base: 90 };

    #[test]
    fn limits_are_lowered_only_below_the_demand() {
        // 90 + (64 + 64 + 1) + (1024 + 64 + 1) + 4096
        assert_eq!(DEMAND.total(), 5404);
        let share = DEMAND.share(5404).unwrap();
        assert_eq!((share.connections, share.in_flight, share.admin), (1024, 4096, 64));
        let less = DEMAND.share(5403).unwrap();
        assert_eq!(
            (less.connections, less.in_flight, less.admin),
            (1024, 4096, 16),
            "fewer probe connections"
        );
        let calls = DEMAND.share(5307).unwrap();
        assert_eq!((calls.connections, calls.in_flight), (1024, 4095));
    }

    #[test]
    fn low_limit_is_shared_between_connections_and_calls() {
        // 1024 - 90 - (16 + 16 + 1) = 901, of which 450 are for calls.
        let share = DEMAND.share(1024).unwrap();
        assert_eq!((share.in_flight, share.connections), (450, 901 - 450 - 1 - 64));
    }

    #[test]
    fn side_that_needs_less_than_half_leaves_the_rest_to_the_other() {
        let few_calls = Demand { in_flight: 10, ..DEMAND }.share(1024).unwrap();
        assert_eq!((few_calls.in_flight, few_calls.connections), (10, 901 - 10 - 1 - 64));
        let few_connections = Demand { connections: 10, ..DEMAND }.share(1024).unwrap();
        assert_eq!((few_connections.in_flight, few_connections.connections), (901 - 21, 10));
    }

    #[test]
    fn too_low_limit_is_reported_with_the_required_one() {
        let error = DEMAND.share(100).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the limit of open files is 100, and the gateway needs at least 139; \
             raise it (LimitNOFILE=, ulimit -n)"
        );
        DEMAND.share(139).unwrap();
    }

    proptest! {
        #[test]
        fn share_never_needs_more_than_is_allowed(
            connections in 1_u32..=1_000_000,
            in_flight in 1_u32..=1_000_000,
            has_admin: bool,
            has_health: bool,
            base in 0_u64..10_000,
            allowed in 0_u64..3_000_000,
        ) {
            let demand = Demand { connections, in_flight, has_admin, has_health, base };
            if let Ok(share) = demand.share(allowed) {
                let used = demand.others(share.admin, share.health)
                    + of_connections(share.connections.into())
                    + u64::from(share.in_flight);
                prop_assert!(used <= allowed, "{used} of {allowed}: {share:?}");
                prop_assert!((1..=connections).contains(&share.connections), "{share:?}");
                prop_assert!((1..=in_flight).contains(&share.in_flight), "{share:?}");
                // A sufficient limit changes nothing.
                prop_assert!(
                    demand.total() > allowed
                        || (share.connections, share.in_flight) == (connections, in_flight)
                );
            }
        }
    }
}

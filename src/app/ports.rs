//! The listening ports, and their limits, which depend on memory and open files.
//!
//! The limits of the main port are configurable; those of the health and admin ports are not.

use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

use super::{Listener, StartError, descriptors, memory};
use crate::{
    base::memory::ResponseMemory,
    config::Config,
    observe::{health::MAX_WATCHES_PER_CONNECTION, telemetry::metrics::Metrics},
    server::{self, Bound, DrainTimes, Limits, Settings, Transport},
};

/// The bound ports, not served yet.
pub(super) struct Ports {
    pub(super) grpc: Bound,
    pub(super) health: Option<Bound>,
    pub(super) admin: Option<Bound>,
    /// Maximum number of calls in flight on the main port.
    pub(super) max_in_flight: usize,
    /// Maximum number of health `Watch` streams per peer address: at least the number of connections,
    /// because a client opens one stream on each connection.
    pub(super) watches_per_address: u32,
}

impl Ports {
    /// Binds the configured ports, with limits reduced to what memory and open files allow. Also returns
    /// the memory for responses.
    pub(super) fn bind(config: &Config, metrics: &Metrics) -> Result<(Self, ResponseMemory), StartError> {
        let budget = memory::fit(&config.server);
        let responses = ResponseMemory::new(budget.response_bytes, budget.http1_exchanges);
        metrics.follow_response_memory(budget.response_bytes, responses.clone());
        let share = descriptors::share(config, budget.calls, metrics)?;
        let settings = budget.limited(share.limited(config.server.grpc.clone()));
        let max_in_flight = settings.max_in_flight;
        let per_peer = u32::try_from(settings.limits.max_per_peer()).unwrap_or(u32::MAX);
        let drain = settings.drain.clone();
        let grpc = server::bind(settings).map_err(StartError::of(Listener::Grpc))?;
        let health =
            config.server.health_listen.map(|listen| server::bind(health(listen, drain, share.health)));
        let admin = config.admin.listen.map(|listen| server::bind(admin(listen, share.admin)));
        let ports = Self {
            grpc,
            health: health.transpose().map_err(StartError::of(Listener::Health))?,
            admin: admin.transpose().map_err(StartError::of(Listener::Admin))?,
            max_in_flight,
            watches_per_address: per_peer.max(MAX_WATCHES_PER_CONNECTION),
        };
        Ok((ports, responses))
    }
}

/// Idle timeout of connections on the health port.
const HEALTH_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the settings of the health port: plaintext, for probes that cannot present a certificate.
/// It drains with the main port.
pub(super) fn health(listen: SocketAddr, drain: DrainTimes, max_connections: usize) -> Settings {
    let limits = Limits {
        max_connections,
        idle_timeout: HEALTH_IDLE_TIMEOUT,
        unidentified_timeout: None,
        ..Limits::default()
    };
    Settings {
        worker_threads: Some(NonZeroUsize::MIN),
        limits,
        drain,
        ..Settings::new(listen, Transport::Plaintext)
    }
}

/// Maximum time to receive the head of a request on the admin port.
const ADMIN_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time from accepting a connection on the admin port to the end of its response.
const ADMIN_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the settings of the admin port: metrics and probes over plain HTTP.
pub(super) fn admin(listen: SocketAddr, max_connections: usize) -> Settings {
    let limits = Limits {
        max_connections,
        idle_timeout: ADMIN_HEAD_TIMEOUT,
        unidentified_timeout: None,
        connection_age: ADMIN_REQUEST_TIMEOUT,
        ..Limits::default()
    };
    Settings { limits, ..Settings::new(listen, Transport::Plaintext) }
}

//! Limits derived from the memory of the process.

use crate::{
    base::memory::{Budget, system_limit},
    config, server,
};

/// Memory limit assumed if the system reports none, in bytes: large enough for all defaults.
const UNKNOWN_LIMIT: u64 = 4 * 1024 * 1024 * 1024;

/// Divides the memory of the process, and logs the resulting limits.
pub(super) fn fit(config: &config::Server) -> Budget {
    let limit = config.memory_limit.or_else(system_limit).unwrap_or(UNKNOWN_LIMIT);
    let budget = Budget::of(limit);
    let configured = config.grpc.max_in_flight;
    let calls = configured.min(budget.calls);
    if calls < configured && configured != config::Server::default().grpc.max_in_flight {
        tracing::warn!(
            memory.limit_bytes = limit,
            server.max_in_flight = calls,
            server.max_in_flight_configured = configured,
            "memory limit lowers max_in_flight"
        );
    } else {
        tracing::info!(memory.limit_bytes = limit, server.max_in_flight = calls, "memory limit");
    }
    budget
}

impl Budget {
    /// Lowers the limits of a server so that they fit into the memory.
    pub(super) fn limited(self, settings: server::Settings) -> server::Settings {
        server::Settings { max_in_flight: settings.max_in_flight.min(self.calls), ..settings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_in_flight_fit_into_the_memory() {
        let of = |memory_limit, max_in_flight| {
            let mut config = config::Server { memory_limit, ..Default::default() };
            config.grpc.max_in_flight = max_in_flight;
            fit(&config).limited(config.grpc).max_in_flight
        };
        let mebibytes = |number: u64| Some(number * 1024 * 1024);
        assert_eq!(of(mebibytes(256), 4096), 1728);
        assert_eq!(of(mebibytes(256), 1000), 1000);
        assert_eq!(of(mebibytes(4096), 4096), 4096);
        assert_eq!(of(mebibytes(48), 4096), 64);
    }
}
